"""Every command of README.md and docs/ is typed, as it stands there, where a newcomer stands.

That is an empty folder, with `streamapp` and `faust` on the PATH and no settings. The commands
run in a network and a mount namespace of their own: the default ports are free there, the
brokers' names in the documents lead to loopback, and /srv is the test's. What is not run is
listed below with its reason, and printed.
"""

import json
import os
import re
import shlex
import signal
import sys

import click
import pytest

from streamapp.broker import jars
from streamapp.cli.main import cli
from tests import documents, harness
from tests.storage.damage import need, run
from tests.waiting import wait_for


pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

COMMAND_SECONDS = 120
READY_SECONDS = 90
HOSTS = ("localhost", "kafka-1", "kafka-2", "kafka-3")
LOOPBACK = "http://127.0.0.1:6066"

FIRST = ("streamapp broker start", "streamapp topics create")
WORKERS_ENDED = ("streamapp tables rebuild",)  # says so: stop the workers first
LAST = ("streamapp broker stop",)
WORKER = re.compile(r"(\w+=\S+ )*(streamapp worker|faust -A streamapp\.app worker)(?! --help)")
ENDLESS = ("streamapp status --watch",)  # shows until Ctrl-C

SUITE = "this test is part of it"
COMPOSE = "tests/compose/test_compose_run.py: test_head"
INSTALL = "tests/kafka/test_install.py: test_as_written"
NOT_RUN = {
    "make test": SUITE,
    "make demo": "tests/kafka/test_documents.py: test_demo",
    "streamapp selftest --brokers kafka-1:9092,kafka-2:9092": (
        "tests/kafka/test_selftest.py: test_all_held"
    ),
}
NO_COMMANDS = {"streamapp peers 1 <group>"}  # begins like one, and is a label
NAMED = {  # commands that no fenced block has
    "broker": "",  # a group of commands
    "demo": "tests/kafka/test_documents.py: test_demo",
    "files forget": "tests/kafka/test_versions.py: test_forgotten_file",
    "machines forget": "tests/faults/test_lost_folders.py: test_machine_that_never_returns",
    "versions free": "tests/kafka/test_versions.py: test_changed_file",
}
ELSEWHERE = {
    "kafka-acls.sh ": "Kafka's own script, for a cluster that gives rights",
    "docker ": COMPOSE,
    "make up": COMPOSE,
    "make down": COMPOSE,
}


class Newcomer:
    """Types commands, in an empty folder and in namespaces of the test's own."""

    def __init__(self, folder):
        self.folder = folder / "here"
        self.srv = folder / "srv"
        for path in (self.folder, self.srv / "exports/logs/2026", self.srv / "data"):
            path.mkdir(parents=True)
        (self.srv / "exports/logs/2026/app.log").write_text("it works\n" * 1000, "ascii")
        (self.srv / "exports/image.png").write_bytes(os.urandom(3 << 20))
        hosts = folder / "hosts"
        hosts.write_text(f"127.0.0.1 {' '.join(HOSTS)}\n::1 localhost\n", "ascii")
        (folder / ".curlrc").write_text("silent\nshow-error\nfail\nmax-time = 10\n", "ascii")
        self._folder = folder
        self._processes = []
        self._worker = self._stamp = None
        lines = (
            "ip link set lo up",
            f"mount --bind {shlex.quote(str(hosts))} /etc/hosts",
            f"mount --bind {shlex.quote(str(self.srv))} /srv",
            "echo ready",
            "exec sleep infinity",
        )
        home = ["unshare", "--net", "--mount", "sh", "-c", " && ".join(lines)]
        self._home = self._process(home)
        wait_for(lambda: "ready" in self._home.said(), within=10, what="the namespace")

    def start(self, text, folder=None):
        """Type *text*; return its process."""
        binaries = os.path.dirname(sys.executable)  # noqa: PTH120 - a link stays one
        environment = [
            *("env", "-u", "PYTHONPATH", f"PATH={binaries}:{os.environ['PATH']}"),
            *(f"XDG_{name}_HOME={self._folder}/{name}" for name in ("DATA", "STATE", "CONFIG")),
            f"CURL_HOME={self._folder}",
        ]
        inside = ["nsenter", f"--target={self._home.pid}", "--net", "--mount"]
        inside += [f"--wd={folder or self.folder}", *environment, "bash", "-c", text]
        return self._process(inside)

    def type(self, text, folder=None):
        """Type *text*, wait until it ends with success, and return what it printed."""
        process = self.start(text, folder)
        code = process.wait(COMMAND_SECONDS)
        assert 0 == code, f"{text}: exit code {code}\n{process.said()}"
        return process.said()

    def work(self, text):
        """Start the worker of which *text* is the command, in place of the one before."""
        self.rest()
        self._worker = self.start(text)
        wait_for(self._is_ready, within=READY_SECONDS, what=f"{text} to be ready", every=0.5)

    def rest(self):
        """End the worker, as its user would."""
        if self._worker is not None:
            code = self._worker.terminate()
            assert code == 0, self._worker.said()
            self._worker = None

    def watch(self, text):
        """Run a command that does not end, wait for its first output, and press Ctrl-C."""
        process = self.start(text)
        wait_for(lambda: process.said() or not process.is_running, within=30, what=text)
        process.send(signal.SIGINT)
        assert process.wait(15) in {0, 130}, process.said()

    def checkout(self, project):
        """Return a copy of the project, as `make install` leaves it."""
        copy = self._folder / "checkout"
        if not copy.exists():
            harness.copy_project(project, copy)
            (copy / ".venv").symlink_to(sys.prefix)
            number = run("cksum", input=f"{copy}\n").stdout.split()[0]
            self._stamp = copy / f".venv/installed-{number}"
            self._stamp.touch()
        return copy

    def close(self):
        """End all that was started, and what that started."""
        for process in reversed(self._processes):
            process.clean_up()
        if self._stamp:
            self._stamp.unlink()

    def _process(self, command):
        process = harness.Process(f"{len(self._processes):02}", command, self._folder)
        self._processes.append(process)
        return process.start()

    def file_id(self):
        """Return the id of a file that the views know."""
        page = json.loads(self.type(f"curl '{LOOPBACK}/progress/?limit=1'"))
        return page["files"][0]["file_id"]

    def _is_ready(self):
        assert self._worker.is_running, self._worker.said()
        return self.start(f"curl {LOOPBACK}/health/ready/").wait(30) == 0


@pytest.fixture
def newcomer(tmp_path):
    """A newcomer; what the commands start ends with the test."""
    need("ip", "unshare", "nsenter", "curl", what="the documents' commands, as written")
    jars.classpath()  # there is no way out of the namespace to fetch them
    newcomer = Newcomer(tmp_path)
    yield newcomer
    newcomer.close()


def in_order(commands):
    """Return *commands* in the documents' order, but for what has to come first or last."""

    def place(text):
        groups = [(0, FIRST), (2, WORKERS_ENDED), (3, LAST)]
        return next((number for number, group in groups if text.startswith(group)), 1)

    return sorted(dict.fromkeys(commands), key=place)


def reason_not_to_run(command):
    """Return why *command* is not run here; empty when it is."""
    if command.language == "bat":
        return "for Windows"
    found = [why for start, why in ELSEWHERE.items() if command.text.startswith(start)]
    if command.document == "docs/install.md" and not command.text.startswith("docker "):
        found.append(INSTALL)
    return NOT_RUN.get(command.text) or (found[0] if found else "")


def test_as_written(newcomer, project, capsys):
    """Every command works as it stands in the documents."""
    found = documents.commands(project)
    skipped = {c.text: why for c in found if (why := reason_not_to_run(c))}
    with capsys.disabled():
        print("\nNot run by this test:")  # noqa: T201 - meant to be read
        for text, why in skipped.items():
            print(f"  {text}: {why}")  # noqa: T201 - the same

    examples = documents.examples(project)
    for text in in_order(c.text for c in found if c.text not in skipped):
        if WORKER.match(text):
            newcomer.work(text)
        elif text.startswith(ENDLESS):
            newcomer.watch(text)
        elif text.startswith("make "):
            newcomer.type(text, newcomer.checkout(project))
        else:
            if text.startswith(WORKERS_ENDED):
                newcomer.rest()
            typed = text.replace("<file id>", newcomer.file_id()) if "<file id>" in text else text
            answer = newcomer.type(typed)
            example = examples.get(text)
            if example is not None:
                _wait_for_answer(newcomer, typed, example)
            if text.endswith("/metrics"):
                _metrics_are_listed(answer, documents.pages(project)["docs/views.md"])
    _paths_are_there(newcomer, project)


def _differences(answer, example, where):
    """Return where the fields of *answer* are others than those of the document's *example*."""
    if isinstance(example, dict) and isinstance(answer, dict):
        found = [f"{where}: {name}" for name in example.keys() ^ answer.keys()]
        for name in example.keys() & answer.keys():
            found += _differences(answer[name], example[name], f"{where}: {name}")
        return found
    if isinstance(example, list) and isinstance(answer, list):
        if bool(example) > bool(answer):
            return [f"{where} is empty"]
        return [line for one in answer if example for line in _differences(one, example[0], where)]
    numbers = all(isinstance(value, (int, float)) for value in (example, answer))
    is_same = None in (example, answer) or numbers or type(example) is type(answer)
    return [] if is_same else [f"{where}: {answer!r}"]


def _wait_for_answer(newcomer, text, example):
    """Type *text* until its answer has the fields of *example*: heartbeats come every 3 s."""
    last = []

    def is_there():
        last[:] = _differences(json.loads(newcomer.type(text)), example, text)
        return not last

    try:
        wait_for(is_there, within=15, what=text, every=1)
    except AssertionError as error:
        raise AssertionError(last) from error


def _metrics_are_listed(answer, page):
    """Every metric has a row in the document; what has a row is there, or may be absent."""
    there = set(re.findall(r"^# TYPE (\w+) ", answer, re.MULTILINE))
    listed = re.findall(r"^\| `(streamapp_\w+)` \|.*?(; absent .*)?\|$", page, re.MULTILINE)

    assert there <= {name for name, _ in listed}
    assert {name for name, absent in listed if not absent} <= there


@pytest.mark.long
def test_demo(newcomer, project):
    """The first command of all, with its own GiB of files."""
    assert "SHA-256" in newcomer.type("make demo", newcomer.checkout(project))


def _paths_are_there(newcomer, project):
    """Every path below /srv that a document shows is there."""
    shown = [f.text for f in documents.fences(project) if f.language == "text"]
    paths = re.findall(r"^/srv/(\S+)$", "\n".join(shown), re.MULTILINE)
    assert paths
    assert [] == [path for path in paths if not (newcomer.srv / path).exists()]


def test_reasons(project):
    """A command that another test runs names a test that exists."""
    for why in {*NOT_RUN.values(), *ELSEWHERE.values(), *NAMED.values(), INSTALL}:
        path, _, name = why.partition(": ")
        if name:
            assert f"def {name}(" in (project / path).read_text("utf-8")


def test_make_for_containers(project):
    """What the compose test runs in place of this one stands in the file that it reads."""
    typed = documents.of_compose(project)
    for command in documents.commands(project):
        if command.text.startswith(("make up", "make down")):
            assert command.text in typed


def test_fields_are_explained(project):
    """Every field of an example stands in the text below it, or in the protocol."""
    pages = documents.pages(project)
    explained = set(re.findall(r"`(\w+)`", pages["docs/views.md"] + pages["docs/protocol.md"]))

    assert set() == _names(list(documents.examples(project).values())) - explained


def _names(example):
    """Return the names of all fields in *example*."""
    if isinstance(example, list):
        return {name for one in example for name in _names(one)}
    if isinstance(example, dict):
        return example.keys() | _names(list(example.values()))
    return set()


def test_every_block_has_a_language(project):
    """A fenced block says what it is; otherwise its commands would be run by nobody."""
    found = {
        f"{fence.document}: {fence.text[:60]!r}"
        for fence in documents.fences(project)
        if fence.language not in documents.LANGUAGES
    }

    assert set() == found


def test_what_is_mentioned(project):
    """A command in a sentence exists, with its flags, and a test runs it."""
    targets = set(
        re.findall(r"^([a-z-]+):", (project / "Makefile").read_text("utf-8"), re.MULTILINE)
    )
    run = {_ours(c.text.split()[1:], c) for c in documents.commands(project) if _is_ours(c)}
    for command in documents.mentions(project):
        if command.text in NO_COMMANDS:
            continue
        program, *words = shlex.split(command.text)
        if program == "make":
            assert words[0] in targets, command
        if program == "streamapp":
            assert _ours(words, command) in run | NAMED.keys(), command


def _is_ours(command):
    return command.text.startswith("streamapp ")


def _ours(words, where):
    """Return the command that *words* name; each of them, and each flag, has to be there."""
    found, name = cli, []
    for word in words:
        if word.startswith("--"):
            flags = {flag for parameter in found.params for flag in parameter.opts}
            assert word.partition("=")[0] in flags | {"--version", "--help"}, where
        elif isinstance(found, click.Group):
            assert word in found.commands, where
            found = found.commands[word]
            name.append(word)
    return " ".join(name)


def test_nothing_stale(project):
    """What is excused still stands in a document."""
    texts = {command.text for command in documents.commands(project)}

    assert set() == NOT_RUN.keys() - texts
