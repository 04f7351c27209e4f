"""The command `streamapp verify`: what it prints, how it exits, what it leaves alone."""

import io
import json
import os
import signal
import threading

import pytest

from click.testing import CliRunner

from streamapp.cli.main import cli
from streamapp.errors import BrokerUnreachableError
from streamapp.integrity import verify_folders
from streamapp.kafka import publish, topic_admin
from streamapp.settings import Settings
from streamapp.store import BlockStore
from streamapp.ui.verify_report import VerifyReport
from tests.integration.blocks import flip, keep_file


@pytest.fixture
def folder(tmp_path):
    """A folder with the data folders of two machines, 13 blocks."""
    for machine in ("m", "n"):
        store = BlockStore([tmp_path / f"processed_data_{machine}"], min_free=0)
        store.open()
        keep_file(store, "a", size=500, block_size=100, machine=machine)
        if machine == "m":
            keep_file(store, "b\u202e", size=300, block_size=100, machine=machine)
        store.close()
    return tmp_path


@pytest.fixture
def verify(folder, monkeypatch):
    """Runs the command; returns its exit code and its lines."""
    for name in list(os.environ):
        if name.startswith("STREAMAPP_"):
            monkeypatch.delenv(name)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments):
        result = CliRunner().invoke(cli, ["verify", "--data-dir", str(folder), *arguments])
        return result.exit_code, result.output.splitlines()

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def kafka(monkeypatch):
    """A broker that takes everything: the acknowledgements that were written."""
    written = []

    def write(_settings, acks):
        written.extend(acks)
        return len(acks)

    monkeypatch.setattr(topic_admin, "check", lambda _settings: {})
    monkeypatch.setattr(publish, "publish_acks", write)
    return written


def snapshot(path):
    """Return every file below *path*, with its content."""
    return {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_all_good(verify):
    """Exit code 0, and one line says what was read, of all machines that are there."""
    code, lines = verify()

    assert 0 == code
    assert ["13 blocks, 1.3 KiB, read in"] == [line.split(" 0.")[0] for line in lines]
    assert lines[0].endswith(": all good")


def test_one_machine(verify):
    """With a machine id only its folder is read."""
    assert (0, "5 blocks") == (
        verify("--machine-id", "n")[0],
        verify("--machine-id", "n")[1][0][:8],
    )


def test_one_is_bad(verify, folder):
    """Exit code 1, and a line says which block and why; nothing is changed."""
    flip(folder / "processed_data_m/b%E2%80%AE/block_0001.bin", 5)
    before = snapshot(folder)
    code, lines = verify()

    assert 1 == code
    assert lines[0].startswith("corrupt: ")
    assert "block_0001.bin: SHA-256 " in lines[0]
    assert lines[-1].endswith(": 1 corrupt")
    assert before == snapshot(folder)


def test_json(verify, folder):
    """One JSON object a line: each bad block, then the summary."""
    (folder / "processed_data_m/a/block_0001.bin").unlink()
    code, lines = verify("--json")
    bad, summary = map(json.loads, lines)

    assert 1 == code
    assert ("bad", "missing", "a", 1) == (bad["kind"], bad["state"], bad["name"], bad["block"])
    assert ("summary", 13, 1, {"missing": 1}) == (
        summary["kind"], summary["blocks"], summary["bad"], summary["states"],
    )  # fmt: skip


def test_beside_a_worker(verify, folder):
    """A worker that has the folder is not disturbed, and does not keep anyone from reading."""
    store = BlockStore([folder / "processed_data_m"], min_free=0)
    store.open()
    code, _ = verify()
    store.close()

    assert 0 == code


def test_repair_beside_a_worker(verify, folder, kafka):
    """To repair, the folder must be free; else nothing is moved (exit code 22)."""
    flip(folder / "processed_data_m/a/block_0001.bin", 5)
    store = BlockStore([folder / "processed_data_m"], min_free=0)
    store.open()
    before = snapshot(folder)
    code, lines = verify("--repair")
    store.close()

    assert 22 == code
    assert "belongs to another worker" in lines[-1]
    assert before == snapshot(folder)
    assert [] == kafka


def test_repair(verify, folder, kafka):
    """Bad blocks are quarantined and revoked by their machine; the next verification is clean."""
    bad = [f"processed_data_{m}/a/block_000{n}.bin" for m in "mn" for n in (0, 3)]
    contents = []
    for path in bad:
        flip(folder / path, 5)
        contents.append((folder / path).read_bytes())
    code, lines = verify("--repair", "--group-id", "g")
    kept = [p.read_bytes() for p in folder.rglob("quarantine/*.bin")]
    records = [json.loads(p.read_text()) for p in folder.rglob("quarantine/*.json")]

    assert 1 == code
    assert "4 corrupt; 4 in quarantine, 4 told as lost" in lines[-1]
    assert sorted(contents) == sorted(kept)
    assert {("m", 0), ("m", 3), ("n", 0), ("n", 3)} == {(a.machine, a.block) for a in kafka}
    assert {("lost", "g")} == {(a.outcome, a.group) for a in kafka}
    assert all(record["told_at"] for record in records)
    assert 0 == verify()[0]
    assert 0 == verify("--repair", "--group-id", "g")[0]
    assert 4 == len(kafka)


def test_repair_without_a_broker(verify, folder, monkeypatch):
    """Without a broker that takes the word nothing is moved (exit code 31)."""

    def check(_settings):
        raise BrokerUnreachableError("no Kafka broker answers")

    monkeypatch.setattr(topic_admin, "check", check)
    flip(folder / "processed_data_m/a/block_0001.bin", 5)
    before = snapshot(folder)

    assert 31 == verify("--repair")[0]
    assert before == snapshot(folder)


def test_broker_that_goes_away(verify, folder, kafka, monkeypatch):
    """A loss that could not be published is published by the next run."""

    def refuse(_settings, _acks):
        raise BrokerUnreachableError("no Kafka broker answers")

    flip(folder / "processed_data_m/a/block_0001.bin", 5)
    with monkeypatch.context() as patch:
        patch.setattr(publish, "publish_acks", refuse)
        assert 31 == verify("--repair", "--group-id", "g")[0]
    assert [] == kafka
    assert 0 == verify("--repair", "--group-id", "g")[0]

    assert [("m", 1)] == [(ack.machine, ack.block) for ack in kafka]


@pytest.mark.parametrize("arguments", [["--machine-id", "nobody"], ["--data-dir", "nowhere"]])
def test_no_folder(folder, arguments):
    """A folder that is not there is no folder without faults (exit code 3)."""
    given = ["--data-dir", str(folder)] if "--data-dir" not in arguments else []
    result = CliRunner().invoke(cli, ["verify", *given, *arguments])

    assert 3 == result.exit_code
    assert "no data folder" in result.output


def test_no_rate(verify):
    """A rate that is none is said so (exit code 2)."""
    code, lines = verify("--rate", "fast")

    assert 2 == code
    assert "'fast' is no size" in lines[-1]


def test_rate_is_kept(folder):
    """The rate of the command is the rate of the reading; a stop ends it before the end."""
    stop = threading.Event()
    stop.set()
    out = io.StringIO()
    code = verify_folders.run(
        Settings(data_dir=[folder]),
        rate=1,
        with_repair=False,
        report=VerifyReport(as_json=False, stream=out),
        stop=stop,
    )

    assert 130 == code
    assert "stopped before the end" in out.getvalue()


def test_lines_now_and_then(folder):
    """Off a terminal a line says how far it is, now and then and not at every block."""
    out, now = io.StringIO(), 0.0

    def clock():
        nonlocal now
        now += 1.0
        return now

    report = VerifyReport(as_json=False, stream=out, clock=clock)
    verify_folders.run(
        Settings(data_dir=[folder]),
        rate=0,
        with_repair=False,
        report=report,
        stop=threading.Event(),
    )
    lines = out.getvalue().splitlines()

    assert 1 < len(lines) < 6
    assert lines[0].endswith(" of 1.3 KiB read")


def test_bar_on_a_terminal(folder):
    """On a terminal there is a bar, and the bad blocks stand above it."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    flip(folder / "processed_data_m/a/block_0001.bin", 5)
    out = Terminal()
    verify_folders.run(
        Settings(data_dir=[folder]),
        rate=0,
        with_repair=False,
        report=VerifyReport(as_json=False, stream=out),
        stop=threading.Event(),
    )

    assert "corrupt: " in out.getvalue()
    assert "1.3/1.3 KiB" in out.getvalue()
