"""What the documents tell their readers to type: the commands of README.md and docs/.

A fenced block of `sh` has commands, one a line, each with a comment behind `#` at most; one of
`bat` has commands for Windows. Every other block says what it is: `text`, `toml`, `json`,
`mermaid`.
"""

import itertools
import json
import re

from typing import NamedTuple


FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:streamapp|faust|make|docker|pipx) [^`]+)`")
LANGUAGES = {"sh", "bat", "text", "toml", "json", "mermaid"}


class Command(NamedTuple):
    """One command as it stands in a document."""

    document: str
    text: str
    language: str = "sh"


class Fence(NamedTuple):
    """One fenced block."""

    document: str
    language: str
    text: str


def pages(project):
    """Return the text of README.md and of every page in docs/, by its path in the project."""
    paths = [project / "README.md", *sorted((project / "docs").glob("*.md"))]
    return {path.relative_to(project).as_posix(): path.read_text("utf-8") for path in paths}


def fences(project):
    """Return every fenced block of the documents, in their order."""
    return [
        Fence(name, *found)
        for name, text in pages(project).items()
        for found in FENCE.findall(text)
    ]


def commands(project):
    """Return every command in a fenced block, its comment and its line breaks taken out."""
    return [
        Command(fence.document, command, fence.language)
        for fence in fences(project)
        if fence.language in {"sh", "bat"}
        for line in fence.text.replace("\\\n", " ").splitlines()
        if (command := re.split(r"(?:^|\s+)#\s", line)[0].strip())
    ]


def of_compose(project):
    """Return what the comments of docker-compose.yml say to type, or to open, in their order."""
    text = (project / "docker-compose.yml").read_text("utf-8")
    lines = re.findall(r"^ *#   (\S.*)$", text, re.MULTILINE)
    return [re.split(r"\s{2,}", line)[0] for line in lines]


def examples(project):
    """Return the answer that a document shows for a command: the `json` right behind its `sh`."""
    found = fences(project)
    return {
        fence.text.strip(): json.loads(answer.text)
        for fence, answer in itertools.pairwise(found)
        if (fence.language, answer.language) == ("sh", "json")
    }


def mentions(project):
    """Return every command that is named in a sentence or table."""
    return [
        Command(name, re.sub(r"\s+", " ", found))
        for name, text in pages(project).items()
        for found in INLINE.findall(FENCE.sub("", text))
    ]
