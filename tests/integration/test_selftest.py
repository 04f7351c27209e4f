"""The self-test itself is tested: what it spoils is spoiled, and a loss that is planted is seen."""

import hashlib
import io
import json

import pytest

from click.testing import CliRunner

from streamapp.cli import main
from streamapp.errors import (
    BlockCorruptError,
    BlockMalformedError,
    BrokerDeniedError,
    BrokerUnreachableError,
    DeliveryError,
    InterruptedDeliveryError,
)
from streamapp.kafka import clients, groups, topic_admin
from streamapp.producer.sources.scan import SourceFile
from streamapp.protocol import filenames, fileplan
from streamapp.protocol import frames as frame_headers
from streamapp.protocol.messages import BlockAck
from streamapp.receiver.assembly import Assembly, Step
from streamapp.settings import Settings
from streamapp.store import BlockStore
from streamapp.trials.selftest import disk_check, faults, results, spoiled_frames
from streamapp.trials.selftest import run as selftest
from streamapp.trials.selftest.report import Report
from streamapp.worker import shutdown
from tests.integration.blocks import file_id_of, flip, keep_block


DATA = bytes(range(256)) * 4
FILE = SourceFile(relative="a", size=len(DATA), mtime_ns=1, file_id="0123456789abcdef" * 2)
SPOILED = [
    spoiled_frames.drop,
    spoiled_frames.reorder,
    spoiled_frames.flip,
    spoiled_frames.misdeclare,
]
SETTINGS = {"machine_id": "m", "group_id": "theirs", "topic_prefix": "theirs-"}
BLOCK = 100


def pieces():
    """Return the right frames of a block."""
    return spoiled_frames.cut(FILE, DATA, attempt=7, machine="selftest")


def join(sent):
    """Join frames as they came over the wire; return the bytes of a block that is whole."""
    first = frame_headers.parse(frame_headers.encode(sent[0][0]))
    assembly, data = Assembly(first, first.meta), b""
    for frame, value in sent:
        parsed = frame_headers.parse(frame_headers.encode(frame))
        if assembly.place(parsed) is Step.NEXT:
            assembly.add(parsed, value)
            data += value
            if parsed.seal:
                assembly.check(parsed)
                return data
    raise BlockCorruptError("without an end")


@pytest.mark.parametrize("spoil", [list, spoiled_frames.double])
def test_right_frames(spoil):
    """What is not spoiled, or only repeated, is a whole block."""
    assert DATA == join(spoil(pieces()))


@pytest.mark.parametrize("spoil", SPOILED)
def test_spoiled_frames(spoil):
    """What is spoiled is frames like any others, and yet no block."""
    with pytest.raises(BlockCorruptError):
        join(spoil(pieces()))


def take(headers):
    """Look at a record as a worker does before it begins a block."""
    frame = frame_headers.parse(headers)
    filenames.folder_parts(frame.meta.name)
    frame_headers.check_identity(frame.file_id, frame.meta)


def test_malformed():
    """Every malformed record is refused, for reasons of its own."""
    records = spoiled_frames.malformed(pieces())
    reasons = set()
    for _, _, headers in records:
        with pytest.raises(BlockMalformedError) as refusal:
            take(headers)
        reasons.add(str(refusal.value))

    assert len(records) == len(reasons) == 15


@pytest.fixture
def machines(tmp_path):
    """A source folder of two files, two machines that have it, and what they acknowledged."""
    (tmp_path / "source").mkdir()
    roots = {name: tmp_path / f"processed_data_{name}" for name in ("m", "n")}
    acks = []
    for (machine, root), name in zip(roots.items(), "ab", strict=True):
        store = BlockStore([root], min_free=0)
        store.open()
        acks += keep(store, machine, name, tmp_path / "source")
        store.close()
    return tmp_path / "source", roots, acks


def keep(store, machine, name, source):
    """Keep a file of three blocks, and have it in the folder *source*; return its acks."""
    data = hashlib.shake_128(name.encode()).digest(3 * BLOCK)
    (source / name).write_bytes(data)
    plan = fileplan.FilePlan(file_size=len(data), block_size=BLOCK)
    file_id = file_id_of(name, len(data), BLOCK)
    for block in range(3):
        start, size = plan.span(block)
        keep_block(
            store, file_id, block, data[start : start + size],
            name=name, plan=plan, start=start, machine=machine,
        )  # fmt: skip
    return [
        BlockAck(
            file_id=file_id,
            block=block,
            blocks=3,
            group="g",
            machine=machine,
            outcome="persisted",
            attempt=1,
            size=BLOCK,
            sha256=hashlib.sha256(data[block * BLOCK :][:BLOCK]).hexdigest(),
            name=name,
        )
        for block in range(3)
    ]


def test_nothing_lost(machines):
    """Where all is as it should be there is no problem."""
    assert [] == disk_check.problems(*machines)


def plant_missing(source, roots, acks):  # noqa: ARG001 - a plant has the signature of all
    """Take an acknowledged block from a disk."""
    (roots["m"] / "a" / "block_0001.bin").unlink()


def plant_rot(source, roots, acks):  # noqa: ARG001
    """Flip a bit at rest."""
    flip(roots["n"] / "b" / "block_0002.bin", 17)


def plant_changed_metadata(source, roots, acks):  # noqa: ARG001
    """Store other bytes with metadata that fit them: each by itself looks good."""
    path = roots["n"] / "b" / "block_0002.bin"
    said = path.with_name("block_0002_metadata.json")
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    flip(path, 17)
    after = hashlib.sha256(path.read_bytes()).hexdigest()
    said.write_text(said.read_text("utf-8").replace(before, after), "utf-8")


def plant_undelivered(source, roots, acks):  # noqa: ARG001
    """Have a file that arrived nowhere."""
    (source / "c").write_bytes(b"!")


def plant_surplus(source, roots, acks):  # noqa: ARG001
    """Store what was never sent."""
    (source / "a").unlink()


def plant_untrue_ack(source, roots, acks):  # noqa: ARG001
    """Acknowledge from a machine that has nothing of it."""
    said = {name: getattr(acks[0], name) for name in acks[0].__struct_fields__}
    acks.append(BlockAck(**said | {"machine": "n"}))


def plant_loss_told(source, roots, acks):  # noqa: ARG001
    """Take an acknowledgement back."""
    said = {name: getattr(acks[0], name) for name in acks[0].__struct_fields__}
    acks.append(BlockAck(**said | {"outcome": "lost"}))


def plant_unreadable(source, roots, acks):  # noqa: ARG001
    """Make a file's description unreadable."""
    (roots["m"] / "a" / "file.json").write_bytes(b"{")


PLANTS = [
    plant_missing,
    plant_rot,
    plant_changed_metadata,
    plant_undelivered,
    plant_surplus,
    plant_untrue_ack,
    plant_loss_told,
    plant_unreadable,
]


@pytest.mark.parametrize("plant", PLANTS)
def test_planted_loss(machines, plant):
    """Every loss is found on the disks, whatever was acknowledged."""
    plant(*machines)

    assert [] != disk_check.problems(*machines)


def test_written_again(machines):
    """A block that is written again, even with the same bytes, has another mark."""
    before = disk_check.blocks(machines[1].values())
    path = machines[1]["m"] / "a" / "block_0000.bin"
    new = path.with_suffix(".new")
    new.write_bytes(path.read_bytes())
    new.replace(path)
    after = disk_check.blocks(machines[1].values())

    assert len(before) == 6
    assert [path] == [p for p, mark in after.items() if before[p] != mark]


def test_rows():
    """A fault without problems is held; others list the first and count the rest."""
    held = results.row("p", "f", [], seconds=1.26)
    lost = results.row("p", "f", ["1", "2", "3", "4"], seconds=0)

    assert ("held", True, 1.3) == (held.outcome, held.is_held, held.seconds)
    assert ("LOST: 1; 2; 3; and 1 more", False) == (lost.outcome, lost.is_held)
    assert [0, 1, 1] == [results.exit_code(rows) for rows in ([held], [held, lost], [])]


class FakeSite:
    """A site without Kafka: the disks of `machines`, and nothing that runs."""

    disks = ()

    def __init__(self, *_):
        """Take what the real one takes."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """There is nothing to stop."""

    def problems(self):
        """As the real one."""
        return disk_check.problems(*self.disks)


@pytest.fixture
def cluster(machines, monkeypatch, tmp_path):
    """A cluster that knows what was asked of it; the self-test runs on the disks of `machines`."""
    asked = []
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(FakeSite, "disks", machines)
    monkeypatch.setattr(selftest, "Testbed", FakeSite)
    monkeypatch.setattr(clients, "admin", lambda _settings: None)
    monkeypatch.setattr(clients, "brokers", lambda *_: 1)
    monkeypatch.setattr(
        clients, "topics", lambda _, own: {f"{own.topic_prefix}data-blocks": [1], "theirs": [1]}
    )
    monkeypatch.setattr(topic_admin, "ensure", lambda *_, **__: {})
    monkeypatch.setattr(topic_admin, "delete", lambda _, doomed: asked.append(doomed))
    monkeypatch.setattr(groups, "delete", lambda _, group: asked.append(group))
    monkeypatch.setattr(shutdown, "event_of_signals", lambda **_: None)
    return asked


def happening(monkeypatch, *happenings):
    """Let the self-test have these faults."""
    found = [faults.Fault(promise="p", name=f"f{n}", happen=h) for n, h in enumerate(happenings)]
    monkeypatch.setattr(selftest, "FAULTS", tuple(found))


def invoke(*arguments):
    """Run the command; return its exit code and what it printed."""
    result = CliRunner().invoke(main.cli, ["selftest", *arguments])
    return result.exit_code, result.output


def raising(error):
    """Return a fault that ends so."""

    def happen(_testbed):
        raise error

    return happen


def quiet(_testbed):
    """A fault that does no harm."""


def test_all_held(cluster, monkeypatch, tmp_path):
    """Exit code 0 when every promise is held; group, topics and folder are taken away."""
    happening(monkeypatch, quiet, quiet)

    code, printed = invoke()

    assert 0 == code
    assert "2 of 2 promises held" in printed
    group, doomed = cluster
    assert group.startswith("selftest-")
    assert [f"{group}-data-blocks"] == doomed
    assert [] == list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize("plant", PLANTS)
def test_a_loss_is_reported(cluster, monkeypatch, plant):
    """A planted loss is reported once, and the self-test ends with exit code 1."""
    happening(monkeypatch, quiet, lambda _testbed: plant(*FakeSite.disks), quiet)

    code, printed = invoke("--json")

    rows = [json.loads(line) for line in printed.splitlines()]
    assert 1 == code
    assert ["held", "LOST", "held"] == [row["outcome"][:4] for row in rows[:3]]
    assert (2, 3, True) == (rows[3]["held"], rows[3]["faults"], rows[3]["is_whole"])
    assert 2 == len(cluster)


def test_not_got_over(cluster, monkeypatch):
    """A group that does not get over a fault has lost; the other faults are tried."""
    happening(monkeypatch, raising(DeliveryError("waited in vain")), quiet)

    code, printed = invoke("--json")

    rows = [json.loads(line) for line in printed.splitlines()]
    assert (1, "LOST: waited in vain", "held") == (code, rows[0]["outcome"], rows[1]["outcome"])
    assert 2 == len(cluster)


@pytest.mark.parametrize(
    ("error", "code"),
    [(InterruptedDeliveryError("stopped"), 130), (BrokerUnreachableError("gone"), 31)],
)
def test_ended_early(cluster, monkeypatch, tmp_path, error, code):
    """Stopped or cut off: what was found is shown, the error said, and all is taken away."""
    happening(monkeypatch, quiet, raising(error))

    found, printed = invoke()

    assert code == found
    assert "1 of 2 promises held" in printed
    assert f"Error: {error}" in printed
    assert 2 == len(cluster)
    assert [] == list((tmp_path / "tmp").iterdir())


def test_denied(cluster, monkeypatch, tmp_path):
    """A cluster that lets us make no topics is one line, and its own exit code."""

    def deny(*_, **__):
        raise BrokerDeniedError("cannot create the topic x: denied. Ask for the right")

    monkeypatch.setattr(topic_admin, "ensure", deny)

    code, printed = invoke()

    assert 32 == code
    assert ["Error: cannot create the topic x: denied. Ask for the right"] == [
        line for line in printed.splitlines() if line
    ]
    assert 2 == len(cluster)
    assert [] == list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize(("happens", "code"), [(quiet, 32), (raising(DeliveryError("x")), 1)])
def test_left_behind(cluster, monkeypatch, happens, code):
    """What cannot be taken away is said; a loss matters more than that."""
    happening(monkeypatch, happens)

    def deny(*_):
        raise BrokerDeniedError("cannot delete")

    monkeypatch.setattr(groups, "delete", deny)

    found, printed = invoke()

    assert code == found
    assert "Left behind: cannot delete" in printed
    assert 1 == len(cluster)  # the topics are deleted all the same


def test_keep(cluster, monkeypatch, tmp_path):
    """With --keep everything stays, and where it is is said."""
    happening(monkeypatch, quiet)

    code, printed = invoke("--keep")

    (folder,) = (tmp_path / "tmp").iterdir()
    assert (0, []) == (code, cluster)
    assert str(folder) in printed.replace("\n", "")


def test_no_room(cluster, monkeypatch, tmp_path):
    """Without room it does not begin."""
    monkeypatch.setattr(selftest, "ROOM_BYTES", 1 << 62)

    code, printed = invoke()

    assert (21, []) == (code, cluster)
    assert "set TMPDIR" in printed
    assert [] == list((tmp_path / "tmp").iterdir())


def test_own_settings():
    """Only where the cluster is, is the user's; two runs have nothing in common."""
    settings = Settings.load(**SETTINGS, brokers="b:1", replication=2, retention_size="1MiB")
    one, other = selftest.own_settings(settings), selftest.own_settings(settings)

    assert ("b:1", 2, None) == (one.brokers, one.replication, one.retention_size)
    assert f"{one.group_id}-" == one.topic_prefix
    assert one.group_id != other.group_id
    assert "theirs" not in one.group_id


def test_every_promise_is_tried():
    """The faults have names of their own, and none of them is left out by accident."""
    assert 9 == len({fault.name for fault in faults.FAULTS})


def test_table():
    """The table has promise, fault and outcome; what comes from a disk cannot write to it."""
    stream = io.StringIO()
    report = Report(as_json=False, stream=stream)
    report.close()

    report.finish([results.row("p", "f", ["a\x1b[2Jb"], seconds=1)], of=1, seconds=1)

    assert "\x1b[2J" not in stream.getvalue()
    assert "LOST" in stream.getvalue()
    assert "0 of 1 promises held" in stream.getvalue()
