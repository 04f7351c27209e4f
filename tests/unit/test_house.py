"""Rules for every file of the project."""

import ast
import configparser
import re
import subprocess

import pytest

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


PACKAGES = ("streamapp", "tables", "agents")

# Written so that none of them matches itself.
FORBIDDEN = {
    "a folder of someone's machine": r"(?<![\w.~-])/(?:hom[e]|User[s]|wor[k])/[\w.-]+",
    "a Windows user's folder": r"[A-Z]:\\{1,2}User[s]\\",
    "a package index": r"(?i)https?://[\w.:@-]*(?:pyp[i]|artifactor[y]|nexu[s]|mave[n]|mirr[o]r)",
    "an option that names a package index": r"--(?:extra-)?index-ur[l]|--trusted-hos[t]",
    "credentials in an address": r"https?://[^\s/:@{$<]+:[^\s/@{$<]+@[\w.]",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KE[Y]",
}


@pytest.fixture(scope="module")
def texts(project):
    """Every text file that git knows or would take, by its path."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    found = subprocess.run(command, cwd=project, capture_output=True, check=False)
    if found.returncode:
        pytest.skip("no git checkout: nothing can be committed from here")
    texts = {}
    for name in filter(None, found.stdout.decode().split("\0")):
        path = project / name
        content = path.read_bytes() if path.is_file() else b""
        if b"\0" not in content:
            texts[name] = content.decode("utf-8")
    return texts


@pytest.fixture(scope="module")
def setup_cfg(project):
    """The project's metadata."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(project / "setup.cfg", "utf-8")
    return parser


@pytest.fixture(scope="module")
def makefile(project):
    """The Makefile's text."""
    return (project / "Makefile").read_text("utf-8")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_says_why_it_exists(project, package):
    """A module begins with a docstring; a package that vanished would be no success."""
    modules = sorted((project / package).rglob("*.py"))
    silent = [
        str(path.relative_to(project))
        for path in modules
        if not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]

    assert modules
    assert [] == silent


def test_no_helper_lives_in_a_test_module(project):
    """A helper that two modules use is in a module of its own, or is a fixture of a conftest."""
    names = re.compile(r"^(?:from|import) tests\.[\w.]*\btest_\w+.*", re.MULTILINE)
    found = [
        f"{path.relative_to(project)}: {line}"
        for path in sorted((project / "tests").rglob("*.py"))
        for line in names.findall(path.read_text("utf-8"))
    ]

    assert [] == found


@pytest.mark.parametrize("what", FORBIDDEN)
def test_nothing_of_one_machine(texts, what):
    """No file names what exists on one machine or for one company only."""
    pattern = re.compile(FORBIDDEN[what])
    hits = [
        f"{name}:{text.count(chr(10), 0, hit.start()) + 1}: {hit.group()}"
        for name, text in texts.items()
        for hit in pattern.finditer(text)
    ]

    assert [] == hits


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("a folder of someone's machine", "cd /ho" + "me/jo/streamapp"),
        ("a package index", "http" + "s://pyp" + "i.example.org/simple"),
        ("an option that names a package index", "pip install --index-" + "url x"),
        ("credentials in an address", "http" + "s://jo:secret@" + "example.org"),
    ],
)
def test_patterns_find_what_they_are_for(what, line):
    """A pattern that matches nothing guards nothing."""
    assert re.search(FORBIDDEN[what], line)


def test_lines_end_as_declared(texts):
    """Every file ends with one newline, and no line ends in CRLF (.editorconfig)."""
    wrong = [n for n, t in texts.items() if "\r" in t or (t and not t.endswith("\n"))]

    assert [] == wrong


def test_make_targets(makefile):
    """At most 12 targets, `help` first, each with the line that `make help` prints."""
    targets = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split()
    helped = re.findall(r"^([a-z-]+):.*? ## \S", makefile, re.MULTILINE)

    assert targets == helped
    assert "help" == targets[0]
    assert len(targets) <= 12


def test_constraints_pin_every_dependency(project, setup_cfg):
    """What setup.cfg wants is pinned in constraints.txt, to a version that setup.cfg allows."""
    pins = {}
    for line in (project / "constraints.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            pins[canonicalize_name(pin.name)] = str(pin.specifier).removeprefix("==")
    lists = [setup_cfg["options"]["install_requires"]]
    lists += setup_cfg["options.extras_require"].values()
    wanted = [
        Requirement(line)
        for text in lists
        for line in text.splitlines()
        if line and not line.startswith("#")
    ]

    assert len(wanted) > 20
    assert [] == [
        str(requirement)
        for requirement in wanted
        if not requirement.specifier.contains(pins.get(canonicalize_name(requirement.name), "0"))
    ]


def test_python_versions_agree(setup_cfg, makefile):
    """The Makefile looks for exactly the Pythons that setup.cfg allows."""
    allowed = Requirement("python" + setup_cfg["options"]["python_requires"]).specifier
    versions = [f"3.{minor}" for minor in range(30) if f"3.{minor}" in allowed]
    wanted = re.search(r"^PYTHON \?= (.*)$", makefile, re.MULTILINE).group(1).split()

    assert set(versions) == {p.removeprefix("python") for p in wanted if "." in p}
    assert versions == re.findall(r":: Python :: (3\.\d+)", setup_cfg["metadata"]["classifiers"])
