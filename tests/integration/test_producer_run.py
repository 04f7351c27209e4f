"""Whole runs of the producer, on a Kafka in memory."""

import hashlib
import itertools
import os
import re
import threading
import time

import pytest

from confluent_kafka import KafkaError as Code

from streamapp import producer
from streamapp.errors import (
    BrokerDeniedError,
    ClusterError,
    DeliveryError,
    InterruptedDeliveryError,
    SettingsError,
    SourceChangedError,
    SourceError,
)
from streamapp.kafka import clients, history, topic_admin
from streamapp.producer import cluster_observer, waiting
from streamapp.producer import run as producer_run
from streamapp.producer.events import FileEvent, Notice, Progress, Summary, Waiting
from streamapp.producer.sources import reader, scan
from streamapp.producer.sources.directory import Directory
from streamapp.protocol import compression, fileplan, messages, topics
from streamapp.protocol.messages import Heartbeat
from streamapp.settings import Settings
from tests.fake_kafka import FakeKafka


CONTENT = {
    "empty": b"",
    "one": b"1",
    "block": os.urandom(1 << 16),
    "block-and-a-byte": os.urandom((1 << 16) + 1),
    "a b/ä/many.csv": b"a,b,c\n" * 50_000,
}

FATAL = Code(Code._GAPLESS_GUARANTEE, "too large", fatal=True)


class Told:
    """A reporter that remembers, and does something when the run begins to wait."""

    def __init__(self):
        self.events = []
        self.is_closed = False
        self.on_waiting = lambda: None
        self.on_event = lambda: None

    def __call__(self, event):
        """Remember *event*."""
        assert not self.is_closed
        if not self.events:
            self.on_event()
        self.events.append(event)
        if isinstance(event, Waiting):
            self.on_waiting()

    def close(self):
        """Remember that nothing more may come."""
        self.is_closed = True

    def of(self, kind):
        """The events of *kind*."""
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def folder(tmp_path):
    """Files of all sizes that are special."""
    for name, content in CONTENT.items():
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "data"


@pytest.fixture
def settings(folder):
    """Small blocks and frames, and no patience."""
    return Settings(
        machine_id="m",
        data_folder=folder,
        block_size="64KiB",
        frame_size="10KiB",
        ack_grace=0.2,
        retry_base=0.01,
    )


@pytest.fixture
def fake(settings, monkeypatch):
    """A Kafka in memory, with one machine."""
    fake = FakeKafka(group=settings.group_id)
    for name in ("producer", "consumer", "admin"):
        monkeypatch.setattr(clients, name, getattr(fake, name))
    monkeypatch.setattr(topic_admin, "ensure", fake.ensure)
    monkeypatch.setattr("streamapp.producer.group_monitor.LOOK_SECONDS", 0.05)
    monkeypatch.setattr(producer_run, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(scan, "FRESH_NS", 0)  # the files are as old as they need be
    return fake


@pytest.fixture
def told():
    """The events that the run reports."""
    return Told()


def run(settings, told, **how):
    """Run the producer to its end."""
    return producer.deliver_folder(settings, report=told, **{"stop": threading.Event()} | how)


def stored(fake):
    """The files that the group has, by name, each joined from its blocks."""
    blocks = {}
    for (file_id, number), data in sorted(fake.bytes.items()):
        blocks.setdefault(file_id, []).append((number, data))
    names = {s.file_id: s.name for s in fake.statuses().values()}
    return {
        names[file_id]: b"".join(data for _, data in sorted(pieces))
        for file_id, pieces in blocks.items()
    }


@pytest.mark.parametrize("compression", compression.Compression)
def test_everything_arrives(fake, settings, told, compression):
    """The files that the group verified are those in the folder, with any compression."""
    summary = run(settings.model_copy(update={"compression": compression}), told)

    assert CONTENT == stored(fake)
    assert (5, 0, 0) == (summary.delivered, summary.skipped, summary.blocks_resent)
    assert summary.bytes_persisted == sum(map(len, CONTENT.values()))
    assert [summary] == told.of(Summary)


def test_recorded_as_complete(fake, settings, told):
    """At the end the status topic has each file as complete, with its file digest."""
    run(settings, told)
    size = settings.block_size

    assert {
        name: (
            "complete",
            fileplan.file_digest(
                hashlib.sha256(content[at : at + size]).digest()
                for at in range(0, max(1, len(content)), size)
            ),
        )
        for name, content in CONTENT.items()
    } == {name: (status.state, status.digest) for name, status in fake.statuses().items()}


def test_second_run(fake, settings, told, monkeypatch):
    """A second run sends nothing, and does not even open a delivered file."""
    run(settings, told)
    before = len(fake.log(topics.DATA_BLOCKS)), len(fake.log(topics.STATUS))
    monkeypatch.setattr(reader, "chunks", None)

    summary = run(settings, Told())

    assert before == (len(fake.log(topics.DATA_BLOCKS)), len(fake.log(topics.STATUS)))
    assert (0, 5) == (summary.delivered, summary.skipped)


def sent(fake):
    """How many records there are of blocks."""
    return len(fake.log(topics.DATA_BLOCKS))


def test_verify(fake, settings, told):
    """To verify is to read every file; nothing is sent while all is as it was."""
    run(settings, told)
    before = sent(fake)

    summary = run(settings, Told(), verify=True)

    assert (before, 5) == (sent(fake), summary.skipped)


def test_verify_before_it_is_delivered(fake, settings, told):
    """To verify what is not there is to send it."""
    summary = run(settings, told, verify=True)

    assert (5, 0) == (summary.delivered, summary.skipped)
    assert CONTENT == stored(fake)


def test_without_its_key(fake, settings, told, tmp_path, monkeypatch):
    """A producer that lost its key reads what is delivered, once, and sends nothing."""
    run(settings, told)
    before = sent(fake)
    other = settings.model_copy(update={"state_dir": tmp_path / "state"})

    assert 5 == run(other, Told()).skipped
    assert before == sent(fake)

    monkeypatch.setattr(reader, "chunks", None)
    assert 5 == run(other, Told()).skipped


def test_fresh_files(fake, settings, told, monkeypatch):
    """What was written a moment before it was found is read once more: another write may follow.

    That write may leave the same size and times, within one tick of the file system's clock.
    """
    with monkeypatch.context() as patch:
        patch.setattr(scan, "FRESH_NS", 10**12)
        run(settings, told)
    before, opened = sent(fake), []
    chunks = reader.chunks
    with monkeypatch.context() as patch:
        patch.setattr(reader, "chunks", lambda *a: opened.append(a[1].name) or chunks(*a))
        assert 5 == run(settings, Told()).skipped
    assert (before, set(CONTENT)) == (sent(fake), set(opened))

    monkeypatch.setattr(reader, "chunks", None)
    assert 5 == run(settings, Told()).skipped


@pytest.mark.usefixtures("fake")
def test_key_that_cannot_be_kept(settings, told, folder):
    """If no key can be stored, the run reports it and delivers."""
    summary = run(settings.model_copy(update={"state_dir": folder / "one"}), told)

    assert 5 == summary.delivered
    assert "no key can be kept" in told.of(Notice)[0].text


def test_other_content(fake, settings, told, folder, monkeypatch):
    """Other bytes of the same size and time are sent under an id of their own, once."""
    run(settings, told)
    path, other = folder / "block-and-a-byte", os.urandom((1 << 16) + 1)
    times = path.stat()
    path.write_bytes(other)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    again = Told()

    summary = run(settings, again)

    assert (1, 4, len(other)) == (summary.delivered, summary.skipped, summary.bytes_sent)
    assert "sent as a new version" in again.of(Notice)[0].text
    (file,) = (event for event in again.of(FileEvent) if event.state == "complete")
    assert other == b"".join(fake.bytes[file.file_id, number] for number in range(2))
    monkeypatch.setattr(reader, "chunks", None)
    assert 5 == run(settings, Told()).skipped


def test_file_that_changes_before_it_is_read_again(fake, settings, told, monkeypatch):
    """A file that is not what was found is reported, also when it would only be compared."""
    run(settings, told)
    before = sent(fake)

    def chunks(*_):
        raise SourceChangedError("it was replaced")
        yield b""

    monkeypatch.setattr(reader, "chunks", chunks)
    with pytest.raises(DeliveryError, match="5 changed"):
        run(settings, Told(), verify=True)
    assert before == sent(fake)


def test_another_group(fake, settings, told):
    """Another group gets all files, whatever the first group has."""
    run(settings, told)
    fake.group = "others"

    summary = run(settings.model_copy(update={"group_id": "others"}), Told())

    assert 5 == summary.delivered


def test_rejected_blocks_are_sent_again(fake, settings, told):
    """Blocks that machines reject arrive with a later attempt."""
    fake.reject = 4

    summary = run(settings, told)

    assert (5, 4) == (summary.delivered, summary.blocks_resent)
    assert CONTENT == stored(fake)


def test_given_up(fake, settings, told):
    """A block that is always rejected is reported, and the run ends with an error."""
    fake.reject = 10**6

    with pytest.raises(DeliveryError, match=r"5 of 5 files .* \(5 failed\).* same command resumes"):
        run(settings.model_copy(update={"max_attempts": 2}), told)

    assert {"failed"} == {status.state for status in fake.statuses().values()}
    assert all(status.failed_blocks for status in fake.statuses().values())


def test_file_that_changes(fake, settings, told, monkeypatch):
    """A file written while it is read is reported, aborted and not delivered; the rest is."""
    original, count = reader._read, itertools.count()
    path = settings.data_folder / "a b/ä/many.csv"

    def read_and_write(file, size):
        if os.path.samestat(os.fstat(file.fileno()), path.stat()) and next(count) == 3:
            with path.open("ab") as other:
                other.write(b"more")
        return original(file, size)

    monkeypatch.setattr(reader, "_read", read_and_write)

    with pytest.raises(DeliveryError, match=r"1 of 5 files .* \(1 changed meanwhile\)"):
        run(settings, told)

    assert "changed" == fake.statuses()["a b/ä/many.csv"].state
    assert fake.aborted
    assert 4 == told.of(Summary)[0].delivered


def test_what_is_no_file(fake, settings, told, folder):
    """Special files are listed and not sent; the run succeeds unless ``special`` is ``fail``."""
    (folder / "broken").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")

    summary = run(settings, told)

    assert CONTENT == stored(fake)
    assert (5, 2, 0) == (summary.files, summary.special, summary.unreadable)
    assert ["broken", "pipe"] == [e.name for e in told.of(FileEvent) if e.state == "special"]

    with pytest.raises(DeliveryError, match=r"2 of 7 files .* \(2 cannot be read\)") as caught:
        run(settings.model_copy(update={"special": "fail"}), Told())
    assert "same command" not in str(caught.value)


def test_advice_when_only_a_part_can_be_resumed(fake, settings, told, folder):
    """The same command helps those that failed; what cannot be read has to be mended first."""
    (folder / "out").symlink_to("/etc/hostname")
    fake.reject = 10**6

    with pytest.raises(DeliveryError, match=r"mended first.* for the others the same command"):
        run(settings.model_copy(update={"max_attempts": 1}), told)


def test_folder_that_is_replaced_by_a_link(fake, settings, told, folder, monkeypatch):
    """A folder becomes a link to another with a file of equal size and time: that is not sent."""
    outside = folder.parent / "outside"
    (outside / "ä").mkdir(parents=True)
    secret = outside / "ä" / "many.csv"
    secret.write_bytes(b"s" * len(CONTENT["a b/ä/many.csv"]))
    found = (folder / "a b" / "ä" / "many.csv").stat()
    os.utime(secret, ns=(found.st_atime_ns, found.st_mtime_ns))
    begin = producer_run.Run.carry_out

    def swap_and_begin(self):
        (folder / "a b").rename(folder.parent / "moved")
        (folder / "a b").symlink_to(outside)
        begin(self)

    monkeypatch.setattr(producer_run.Run, "carry_out", swap_and_begin)

    with pytest.raises(DeliveryError, match=r"1 of 5 files .* \(1 changed meanwhile\)"):
        run(settings, told)

    assert "changed" == fake.statuses()["a b/ä/many.csv"].state
    assert {n: c for n, c in CONTENT.items() if n != "a b/ä/many.csv"} == stored(fake)


def test_unreadable_file(fake, settings, told, monkeypatch):
    """A file that cannot be opened is reported, and the others are delivered."""
    original = Directory.open

    def deny(self, name):
        if name == "one":
            raise PermissionError(13, "Permission denied")
        return original(self, name)

    monkeypatch.setattr(Directory, "open", deny)

    with pytest.raises(DeliveryError, match=r"1 of 5 files .* \(1 cannot be read\)"):
        run(settings, told)

    assert ("failed", "permission denied") == (
        fake.statuses()["one"].state,
        fake.statuses()["one"].reason,
    )


def test_no_machine_is_up(fake, settings, told):
    """The run says that it waits, sends nothing twice, and ends well when a machine comes."""
    fake.machines = 0
    told.on_waiting = fake.start_machines

    summary = run(settings, told)

    assert (5, 0) == (summary.delivered, summary.blocks_resent)
    assert f"no machine of group {settings.group_id} is up" in told.of(Waiting)[0].reason


def test_machines_do_nothing(fake, settings, told, monkeypatch):
    """When nothing is persisted for a while the run says so, and what the machines have to read."""
    monkeypatch.setattr(waiting, "IDLE_SECONDS", 0.2)
    fake.is_stuck = True
    told.on_waiting = fake.start_machines

    assert 5 == run(settings.model_copy(update={"ack_grace": 60.0}), told).delivered
    assert re.match(
        r"nothing was persisted for 0\.\d s; .* has \d+ rec", told.of(Waiting)[0].reason
    )


@pytest.mark.parametrize("is_early", [True, False])
def test_machine_holds(fake, settings, told, is_early):
    """Why a machine holds is reported from its heartbeat, and no time left beside it."""
    fake.is_stuck = True
    beat = Heartbeat(
        machine="w1", group=settings.group_id, state="holding", reason="disk full", at=time.time()
    )

    def hold():
        fake.append(topics.STATUS, 0, messages.encode(beat))

    if is_early:
        hold()
    else:
        told.on_event = hold
    told.on_waiting = fake.start_machines
    run(settings.model_copy(update={"ack_grace": 60.0}), told)

    assert told.of(Waiting)[0].reason.startswith("w1 holds: disk full. Ctrl-C")
    assert ("w1 holds: disk full", None) in [(p.waiting, p.eta) for p in told.of(Progress)]


@pytest.mark.usefixtures("fake")
def test_new_group(settings, told, monkeypatch):
    """Older records that a new group will read first are reported before the first block."""
    monkeypatch.setattr(history, "ahead_of", lambda *_: "all that Kafka holds")
    run(settings, told)
    kinds = [type(event) for event in told.events]

    assert "all that Kafka holds" == told.of(Notice)[0].text
    assert kinds.index(Notice) < kinds.index(Progress)

    again = Told()
    run(settings, again)
    assert [] == again.of(Notice)  # nothing is sent


def test_why_no_broker_answers(fake, settings, told, monkeypatch):
    """While no broker answers, the run says why not, as far as that is known."""
    fake.is_stuck = True
    monkeypatch.setattr(
        cluster_observer.BrokerContact, "reason", "no broker has answered for 6.0 s"
    )
    monkeypatch.setattr(cluster_observer.ConnectionErrors, "reason", "k:1 refuses the connection")
    told.on_waiting = fake.start_machines
    run(settings.model_copy(update={"ack_grace": 60.0}), told)

    assert told.of(Waiting)[0].reason.startswith(
        "no broker has answered for 6.0 s (k:1 refuses the connection). Ctrl-C"
    )


def test_stopped(fake, settings, told):
    """A run that is stopped says what is missing and that the same command resumes; it does."""
    fake.machines = 0
    stop = threading.Event()
    told.on_waiting = stop.set

    with pytest.raises(InterruptedDeliveryError, match=r"stopped: 5 of 5 .* same command resumes"):
        run(settings, told, stop=stop)
    fake.machines = 1

    assert 5 == run(settings, Told()).delivered


def test_nobody_waits(fake, settings, told):
    """Without waiting, the run ends when Kafka has everything."""
    fake.machines = 0

    summary = run(settings, told, wait=False)

    assert (0, 5) == (summary.delivered, summary.sent)
    assert {"sent"} == {status.state for status in fake.statuses().values()}


def test_refused_frame(fake, settings, told):
    """A frame that Kafka refuses costs its block another attempt."""
    fake.refuse = [Code(Code.INVALID_RECORD)]

    summary = run(settings, told)

    assert (5, 1) == (summary.delivered, summary.blocks_resent)


def test_broken_kafka_producer(fake, settings, told):
    """A Kafka producer that had a fatal error is replaced, and what it had is sent again."""
    fake.refuse = [None, None, None, FATAL]

    summary = run(settings, told)

    assert 5 == summary.delivered
    assert summary.blocks_resent
    assert 2 == fake.producers


def test_kafka_producer_breaks_always(fake, settings, told, monkeypatch):
    """When no Kafka producer gets a block through, the run ends and says why."""
    monkeypatch.setattr(producer_run, "MAX_RENEWALS", 1)
    fake.refuse = [FATAL] * 1000

    with pytest.raises(ClusterError, match="Kafka refuses what is sent: too large"):
        run(settings.model_copy(update={"max_attempts": 1000}), told)


def test_no_right_to_write(fake, settings, told):
    """Without the right to write, the run ends at once, and says so."""
    fake.refuse = [Code(Code.TOPIC_AUTHORIZATION_FAILED)] * 1000

    with pytest.raises(BrokerDeniedError, match=topics.DATA_BLOCKS):
        run(settings, told)


@pytest.mark.usefixtures("fake")
def test_error_in_a_thread(settings, told, monkeypatch):
    """An unexpected error in a thread ends the run."""
    monkeypatch.setattr(reader, "chunks", None)

    with pytest.raises(TypeError):
        run(settings, told)


def test_no_folder(settings, told, tmp_path):
    """An empty folder is an error before Kafka is asked."""
    with pytest.raises(SettingsError, match="data_folder"):
        run(settings.model_copy(update={"data_folder": None}), told)
    with pytest.raises(SourceError, match="does not exist"):
        run(settings.model_copy(update={"data_folder": tmp_path / "missing"}), told)
    with pytest.raises(SourceError, match="is no folder"):
        run(settings.model_copy(update={"data_folder": tmp_path / "data" / "one"}), told)


@pytest.mark.usefixtures("fake")
def test_empty_folder(settings, told, tmp_path):
    """A folder without any file is an error, even when it has folders."""
    (tmp_path / "empty" / "deeper").mkdir(parents=True)

    with pytest.raises(SourceError, match="holds no file"):
        run(settings.model_copy(update={"data_folder": tmp_path / "empty"}), told)
