"""docker-compose.yml with real containers: what its head says is typed, as it stands there.

A folder is sent while a broker is killed, and the disks are compared with it afterwards.
"""

import json
import re
import shlex
import subprocess
import sys

import pytest

from tests import checker, documents, harness
from tests.compose.engine import engine_or_skip
from tests.harness import MIB
from tests.waiting import wait_for


pytestmark = [pytest.mark.compose, pytest.mark.long, pytest.mark.timeout(3600)]

UP_SECONDS = 900  # the first time an image is built; then two Javas and a Python a core start
DELIVERY_SECONDS = 600
FILES = 6
BLOCKS = "find /var/lib/streamapp -name 'block_*.bin'"
WORKERS = ("worker-1", "worker-2")
VIEW = "import sys, urllib.request as r; q = r.Request(sys.argv[1]); sys.argv[2:] and q.add_header(\
'Authorization', 'Bearer ' + sys.argv[2]); print(r.urlopen(q, timeout=10).read().decode())"


class Terminal:
    """Types commands into a terminal that stands in a copy of the project."""

    def __init__(self, engine, project, folder):
        self.engine = engine
        self.folder = folder / "project"
        self.logs = folder
        harness.copy_project(project, self.folder)

    def begin(self, command):
        """Type *command*; return its process and the file of what the terminal shows."""
        shown = self.logs / f"{len(list(self.logs.iterdir()))}.log"
        typed = ["script", "--quiet", "--return", "--flush", "--command", command, shown]
        process = subprocess.Popen(
            [*self.engine.inside, *map(str, typed)],
            cwd=self.folder,
            env=self.engine.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        return process, shown

    def type(self, command, within=DELIVERY_SECONDS):
        """Type *command*, wait until it has ended with success, and return what it showed."""
        process, shown = self.begin(command)
        code = process.wait(within)
        text = shown.read_text("utf-8", "replace")
        assert 0 == code, f"{command}: exit code {code}\n{text[-4000:]}{self.said()}"
        return text

    def compose(self, *arguments):
        """Run `docker compose` without a terminal; return what it printed."""
        return self.engine.docker("compose", *arguments, cwd=self.folder)

    def said(self):
        """Return the last lines of every container."""
        shown = self.engine.run(
            "docker", "compose", "logs", "--no-color", "--tail=15", cwd=self.folder
        )
        return shown.stdout[-12_000:]

    def blocks(self):
        """Return how many blocks both workers have on their disks."""
        found = [self.compose("exec", "-T", name, "sh", "-c", BLOCKS) for name in WORKERS]
        return sum(len(text.split()) for text in found)

    def view(self, url, token=""):
        """Return what *url* answers to this host."""
        done = self.engine.run(sys.executable, "-c", VIEW, url, *filter(None, [token]))
        assert 0 == done.returncode, done.stderr
        return done.stdout


@pytest.fixture
def terminal(project, tmp_path):
    """A terminal beside an engine; every container and volume of the test goes with it."""
    (tmp_path / "engine").mkdir()
    (tmp_path / "shown").mkdir()
    with engine_or_skip(tmp_path / "engine") as engine:
        terminal = Terminal(engine, project, tmp_path / "shown")
        try:
            yield terminal
        finally:
            terminal.compose("--profile", "producer", "down", "--volumes", "--timeout", "5")


def test_head(terminal, project, tmp_path):
    """Every command of the head does what stands beside it, while a broker is killed."""
    commands = iter(documents.of_compose(project))

    def next_is(beginning):
        command = next(commands)
        assert command.startswith(beginning)
        return command

    source = tmp_path / "source"
    source.mkdir()
    rng = harness.seeded()
    for number in range(FILES):
        (source / f"file-{number}").write_bytes(rng.randbytes(64 * MIB + number))
    (source / "empty").touch()

    terminal.type(next_is("make up"), UP_SECONDS)
    terminal.type(next_is("mkdir").replace("…", f"{shlex.quote(str(source))}/*"))
    send = next_is("docker compose run")
    _send_while_a_broker_dies(terminal, send)
    again = terminal.type(send)
    assert f"{FILES + 1} there already" in again
    status = next_is("docker compose exec worker-1 streamapp status")
    assert "worker-1" in terminal.type(status)  # it answers for its own part
    assert terminal.view(next_is("http://localhost:8080") + "/actuator/health")

    terminal.type(next_is("STREAMAPP_WEB_HOST="), UP_SECONDS)
    _every_worker_answers_for_all(terminal, FILES + 1)
    shown = terminal.type(status)
    assert all(f"file-{number}" in shown for number in range(FILES))
    assert all(name in shown for name in WORKERS)
    _disks_are_whole(terminal, tmp_path)

    before = terminal.engine.docker("volume", "ls", "--quiet")
    terminal.type(next_is("make down"))
    assert before == terminal.engine.docker("volume", "ls", "--quiet")
    assert re.search(r"^[\w-]{22}\s*$", terminal.type(next_is("docker run --rm")), re.MULTILINE)
    assert [] == list(commands)
    for text in _of_documents(project):
        terminal.type(text, UP_SECONDS)


def _of_documents(project):
    """Return what the documents say of Docker and the file's head does not."""
    found = [command.text for command in documents.commands(project)]
    head = documents.of_compose(project)
    return [text for text in found if text.startswith("docker ") and text not in head]


def _send_while_a_broker_dies(terminal, command):
    """Send; kill a broker when the first blocks are there and the last ones are not."""
    process, shown = terminal.begin(command)
    wait_for(
        lambda: terminal.blocks() or process.poll() is not None,
        within=DELIVERY_SECONDS,
        what="the first block on a disk",
        every=0.2,
    )
    assert process.poll() is None, shown.read_text("utf-8", "replace")
    terminal.compose("kill", "kafka-2")
    before = terminal.blocks()
    assert 0 < before < FILES + 1
    with harness.healing("kafka-2 killed"):
        wait_for(
            lambda: terminal.blocks() > before,
            within=DELIVERY_SECONDS,
            what="one more block on a disk",
            every=0.2,
        )
    assert 0 == process.wait(DELIVERY_SECONDS), shown.read_text("utf-8", "replace")[-4000:]
    terminal.type("make up", UP_SECONDS)  # the broker comes back, with what it has missed


def _every_worker_answers_for_all(terminal, files):
    """Both workers answer on the ports of this host, each for the whole group."""
    token = terminal.compose("exec", "-T", "worker-1", "printenv", "STREAMAPP_WEB_TOKEN").strip()
    for port in (6066, 6067):
        url = f"http://localhost:{port}/progress/"
        assert terminal.engine.run(sys.executable, "-c", VIEW, url).returncode  # 401
        answer = wait_for(
            lambda url=url: _whole(json.loads(terminal.view(url, token))),
            within=120,
            what=f"{url} to answer for both workers",
            every=1,
        )
        assert files == answer["totals"]["complete"]


def _whole(answer):
    return None if answer["silent"] else answer


def _disks_are_whole(terminal, tmp_path):
    """What lies on the workers' volumes is what was sent, byte by byte."""
    disks = []
    for name in WORKERS:
        terminal.compose("cp", f"{name}:/var/lib/streamapp/processed_data_{name}", tmp_path)
        disks.append(checker.read_disk(tmp_path / f"processed_data_{name}", stopped=False))
    files = checker.source_files(terminal.folder / "data", source="producer", block_size=128 * MIB)
    assert [] == [problem for disk in disks for problem in disk.problems]
    assert [] == checker.check_sources(files, disks, block_size=128 * MIB)
    assert FILES + 1 == len(files)
    assert all(disk.blocks for disk in disks)
