"""The receiver of a partition settles a record only when its outcome is published."""

import asyncio
import collections
import errno
import itertools
import os
import threading

import msgspec
import pytest
import zstandard

from streamapp.errors import StoreError, StoreFullError
from streamapp.protocol import frames
from streamapp.protocol.frames import BlockMeta, Codec, Frame, Seal
from streamapp.receiver import attempts, backpressure, lateness, outcomes
from streamapp.receiver import partition as partition_module
from streamapp.receiver.attempts import Closed, Orphaned, Repeated
from streamapp.receiver.partition import PartitionReceiver
from streamapp.store import free_space
from streamapp.store.free_space import BESIDE_BYTES
from streamapp.store.writer import BlockWriter
from tests.fakes import BLOCK_TIMEOUT as TIMEOUT
from tests.fakes import FakeContext
from tests.frames import id_of, meta_of
from tests.unit.receivers import (
    DATA,
    FILE_ID,
    OTHER,
    OTHER_ID,
    Partition,
    changed,
    expire,
    half_written,
    pieces,
)
from tests.waiting import eventually


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """A retry of the store takes no time, and an fsync costs nothing."""
    monkeypatch.setattr(backpressure, "PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(os, "fsync", lambda _fd: None)


# --- what should come


async def test_block(partition, context, store):
    """A block is persisted, then published, then acknowledged; none of these happens earlier."""
    await partition.put(*pieces()[:-1])
    assert [] == context.seen
    assert 1 == context.stats.open_blocks

    await partition.put(pieces()[-1])
    assert ["persisted"] == context.outcomes
    assert [context.acks[0], 0, 1, 2, 3] == context.seen
    assert context.acks[0].sha256 == store.stored(FILE_ID, 0).sha256
    assert (1, len(DATA), 0) == (
        context.stats.blocks,
        context.stats.bytes,
        context.stats.open_blocks,
    )
    assert 1 == context.persisted == context.begun


async def test_empty_block(partition, context, store):
    """An empty file has one empty block, of one frame."""
    await partition.put(*pieces(b"", meta=meta_of(0)))

    assert ["persisted"] == context.outcomes
    assert store.stored(id_of(meta_of(0)), 0)


@pytest.mark.parametrize("codec", list(Codec))
async def test_codecs(partition, context, codec):
    """Each frame is decoded by its own codec."""
    await partition.put(*pieces(codec=codec))

    assert ["persisted"] == context.outcomes


async def test_waits_for_kafka(partition, context):
    """No record is acknowledged before Kafka has the outcome of its block."""
    context.gate.clear()
    task = asyncio.create_task(partition.put(*pieces()))
    await context.asked.wait()
    assert [] == context.seen

    context.gate.set()
    await task
    assert [0, 1, 2, 3] == context.done


async def test_commit_before_the_outcome(partition, context, monkeypatch):
    """No outcome is published before the block is on disk."""
    began, may_end = threading.Event(), threading.Event()
    commit = BlockWriter.commit

    def slow(writer, meta):
        began.set()
        assert may_end.wait(30)
        commit(writer, meta)

    monkeypatch.setattr(BlockWriter, "commit", slow)
    task = asyncio.create_task(partition.put(*pieces()))
    try:
        await eventually(began.is_set)
        assert not context.asked.is_set()
    finally:
        may_end.set()
    await task
    assert ["persisted"] == context.outcomes


@pytest.mark.parametrize(
    ("last", "outcome"),
    [({}, "persisted"), ({"seal": Seal(b"?" * 32, 4)}, "rejected")],
)
async def test_partition_is_lost_while_publishing(partition, context, last, outcome):
    """An attempt whose outcome is being published does not count as an open block."""
    records = changed(pieces(), 3, **last)
    await partition.put(*records[:3])
    context.gate.clear()
    task = asyncio.create_task(partition.put(records[3]))
    await context.asked.wait()
    if outcome == "rejected":  # the quarantined record is published first
        context.gate.set()
        context.gate.clear()
        await eventually(lambda: context.stats.rejected)

    partition.receiver.drop()
    assert 0 == context.stats.open_blocks
    context.gate.set()
    await task
    assert [outcome] == context.outcomes
    assert 0 == context.stats.open_blocks
    assert context.persisted == context.begun


async def test_order_of_acknowledgement(partition, context):
    """Of two blocks that overlap, the later one waits for the earlier one."""
    first, second = pieces(), pieces(meta=OTHER)
    await partition.put(first[0], *second, *first[1:-1])
    assert [OTHER_ID] == [ack.file_id for ack in context.acks]
    assert [] == context.done

    await partition.put(first[-1])
    assert list(range(8)) == context.done


async def test_duplicates(partition, context):
    """A frame that is delivered twice is written once."""
    await partition.put(*(record for record in pieces() for _ in range(2)))

    assert {"persisted"} == set(context.outcomes)
    assert list(range(8)) == context.done
    assert 1 == context.stats.blocks


async def test_stored_block_again(partition, context, store):
    """A block that is persisted already is published again, and not written again."""
    await partition.put(*pieces())
    path = next(store.roots[0].path.rglob("*.bin"))
    before = path.stat()
    await partition.put(*pieces(attempt=2))

    assert [1, 2] == [ack.attempt for ack in context.acks]
    assert list(range(8)) == context.done
    assert (1, 1, 1) == (context.stats.blocks, context.stats.repeated, context.begun)
    assert (before.st_ino, before.st_mtime_ns) == (path.stat().st_ino, path.stat().st_mtime_ns)


async def test_stored_block_that_is_lost_while_it_comes_again(
    partition, context, store, monkeypatch
):
    """A repeated block is looked up again at its last frame: it may have been revoked meanwhile."""
    await partition.put(*pieces())
    await partition.put(pieces(attempt=2)[0])
    monkeypatch.setattr(store, "stored", lambda *_: None)
    await partition.put(*pieces(attempt=3)[:2], *pieces(attempt=2)[1:3])
    assert 1 == context.stats.open_blocks
    assert [0, 1, 2, 3] == context.done

    await partition.put(pieces(attempt=2)[3])
    assert [(1, "persisted"), (2, "rejected")] == [(a.attempt, a.outcome) for a in context.acks]
    await partition.put(*pieces(attempt=3)[2:])
    assert (3, "persisted") == (context.acks[-1].attempt, context.acks[-1].outcome)
    assert list(range(12)) == context.done


async def test_middle_of_a_stored_block(partition, context):
    """Repeated frames of a stored block are settled when the block is acknowledged again."""
    await partition.put(*pieces())
    partition.rewind(2)
    context.seen.clear()
    await partition.put(pieces()[2])
    assert [] == context.seen

    await partition.put(pieces()[3])
    assert [context.acks[0], 2, 3] == context.seen
    assert ["persisted"] == context.outcomes


@pytest.mark.parametrize("first", [0, 1], ids=["from its first frame", "from within"])
async def test_kept_and_not_told(partition, context, store, first):
    """Frames of a block that a dead worker did not publish are settled when it is published."""
    context.gate.clear()
    task = asyncio.create_task(partition.put(*pieces()))
    await context.asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    context.gate.set()
    assert store.stored(FILE_ID, 0)

    again = Partition(context)
    await again.put(*pieces()[first:-1])
    assert [] == context.seen  # were it passed here, another machine might read on: it has no block
    await again.put(pieces()[-1])

    assert [context.acks[0], *range(again.offset)] == context.seen
    assert ["persisted"] == context.outcomes


async def test_stored_block_of_which_the_rest_does_not_come(partition, context, clock):
    """When no more frames of a stored block come, it is acknowledged, its frames are settled."""
    await partition.put(*pieces())
    await partition.put(*pieces(attempt=2)[:2], pieces(attempt=3)[0])
    await expire(partition, clock, after=TIMEOUT - 1)
    assert [0, 1, 2, 3] == context.done

    await expire(partition, clock, after=2)
    assert [(1, "persisted"), (2, "persisted")] == [(a.attempt, a.outcome) for a in context.acks]
    assert list(range(7)) == context.done


async def test_lost_block_of_which_the_rest_does_not_come(
    partition, context, store, clock, monkeypatch
):
    """A stored block that was revoked meanwhile is not acknowledged as persisted."""
    await partition.put(*pieces())
    await partition.put(*pieces(attempt=2)[:2])
    monkeypatch.setattr(store, "stored", lambda *_: None)
    await expire(partition, clock)

    assert [(1, "persisted"), (2, "rejected")] == [(a.attempt, a.outcome) for a in context.acks]
    assert list(range(6)) == context.done


async def test_forged_attempt_at_what_is_not_told(partition, context, store):
    """A rejected attempt with other content settles no frame of a block that is not published."""
    await Partition(FakeContext(store)).put(*pieces())
    await partition.put(pieces()[1], *pieces(DATA[::-1], attempt=2))
    assert (["rejected"], []) == (context.outcomes, context.done)

    await partition.put(*pieces()[2:])
    assert ["rejected", "persisted"] == context.outcomes
    assert list(range(7)) == context.done


async def test_interleaved_attempts(partition, context, store):
    """Frames of two attempts never mix; the first attempt that completes settles both."""
    good, bad = pieces(attempt=2), pieces(DATA[::-1], attempt=1)
    mixed = [record for pair in zip(bad, good, strict=True) for record in pair]
    await partition.put(*mixed[:-2])
    assert 2 == context.stats.open_blocks

    await partition.put(mixed[-1])
    assert [2] == [ack.attempt for ack in context.acks]
    assert list(range(7)) == context.done
    assert 0 == context.stats.open_blocks

    await partition.put(mixed[-2])
    assert ["persisted", "rejected"] == context.outcomes
    assert [(2, "persisted"), (1, "rejected")] == [(a.attempt, a.outcome) for a in context.acks]
    assert context.acks[0].sha256 == store.stored(FILE_ID, 0).sha256


async def test_conflict(partition, context, store):
    """Other content for a stored block is rejected, and the stored block does not change."""
    await partition.put(*pieces())
    await partition.put(*pieces(DATA[::-1], attempt=2))

    assert ["persisted", "rejected"] == context.outcomes
    assert "is stored already" in context.acks[1].reason
    assert list(range(8)) == context.done
    assert context.acks[0].sha256 == store.stored(FILE_ID, 0).sha256


async def test_other_file_under_the_same_id(partition, context, store):
    """A file whose block size differs from that of the stored file with its id is rejected."""
    other = store.begin(FILE_ID, 0, meta_of(5))  # begun by a worker that looked at no identity
    await partition.put(*pieces())
    other.abort()

    assert ["rejected"] == context.outcomes
    assert "another file" in context.acks[0].reason
    assert list(range(4)) == context.done


@pytest.mark.parametrize("is_stored", [False, True])
async def test_forged_identity(partition, context, store, is_stored):
    """Bytes under the id of another file are quarantined, and no block is begun."""
    if is_stored:
        await partition.put(*pieces())
    before = len(context.outcomes), len(context.done)
    await partition.put(*pieces(b"12345", frame_size=3, file_id=FILE_ID, attempt=9))

    assert ["rejected"] == context.outcomes[before[0] :]
    assert "not the digest" in context.acks[-1].reason
    assert context.acks[-1].reason == context.quarantined[-1].reason
    assert 2 == len(context.done) - before[1]
    assert is_stored == (store.stored(FILE_ID, 0) is not None)
    assert is_stored or context.begun == 0


async def test_metadata_carry_the_identity(partition, context, store):
    """The metadata and the acknowledgement have the file's identity and the producer's proof."""
    path = "sal\udce9"
    named = meta_of(len(DATA), name=path, ctime_ns=7, version="0123456789abcdef")
    file_id = id_of(named)
    meta = msgspec.structs.replace(named, name="sal%E9", raw_name=b"sal\xe9")
    records = pieces(meta=meta, file_id=file_id)
    seal = msgspec.structs.replace(records[-1][0].seal, proof=bytes(range(16)))
    await partition.put(*changed(records, 3, seal=seal))
    stored, (ack,) = store.stored(file_id, 0), context.acks

    assert (b"sal\xe9", 7, meta.version) == (stored.raw_name, stored.ctime_ns, stored.version)
    assert ("1", "7", meta.version) == (ack.mtime_ns, ack.ctime_ns, ack.version)
    assert bytes(range(16)).hex() == ack.proof == stored.proof
    assert id_of(meta_of(len(DATA), name=path)) == ack.version_of


# --- what should not come


FRAME, SEAL = frames.encode(pieces(b"x")[0][0])[0], frames.encode(pieces(b"x")[0][0])[2]
STRANGERS = {
    "nothing": None,
    "no headers": [],
    "another's": [("traceparent", b"00-1-2-01")],
    "a null": [("frame", None)],
    "numbers": [("frame", 7)],
    "no pair": ["frame"],
    "a dictionary": {"frame": b""},
    "short": [("frame", FRAME[1][:-1])],
    "long": [("frame", FRAME[1] + b"\0")],
    "magic": [("frame", b"XXXX" + FRAME[1][4:])],
    "version": [("frame", FRAME[1][:4] + b"\3" + FRAME[1][5:])],
    "twice": [FRAME, FRAME],
    "many": [FRAME, *((f"h{n}", b"") for n in range(200_000))],
    "heavy": [FRAME, ("h", b"x" * 100_000)],
    "half": [FRAME],
    "bad block": [FRAME, ("block", b'{"name": "../x"}'), SEAL],
    "deep block": [FRAME, ("block", b"[" * 10_000), SEAL],
    "bad seal": [FRAME, frames.encode(pieces(b"x")[0][0])[1], ("seal", b"x" * 35)],
}


@pytest.mark.parametrize("headers", STRANGERS.values(), ids=STRANGERS)
@pytest.mark.parametrize("value", [b"", b"\0" * 100_000], ids=["null", "value"])
async def test_stranger(partition, context, store, headers, value):
    """A record that is no frame is quarantined with its reason, published, then acknowledged."""
    await partition.put((headers, value))

    (told,) = context.quarantined
    assert [told, 0] == context.seen
    assert told.reason
    assert (3, 0, "data-blocks") == (told.partition, told.offset, told.topic)
    kept = store.roots[0].path / "quarantine" / "data-blocks-3-0.json"
    assert str(kept) == told.path
    kept_record = msgspec.json.decode(kept.read_bytes())
    assert (told.reason, len(value)) == (kept_record["reason"], kept_record["value_bytes"])
    assert value[: 64 * 1024] == kept.with_suffix(".bin").read_bytes()
    await partition.put(*pieces())
    assert ["persisted"] == context.outcomes


def _bomb():
    return zstandard.ZstdCompressor().compress(bytes(10_000_000))


PACKED = pieces(codec=Codec.ZSTD)
UNSIZED = zstandard.ZstdCompressor(write_content_size=False).compress(DATA[:256])
BAD_BLOCKS = {
    "wrong hash": changed(pieces(), 3, seal=Seal(bytes(32), 4)),
    "a bit": changed(pieces(), 1, value=b"?" + DATA[257:512]),
    "short value": changed(pieces(), 1, value=DATA[256:511]),
    "long value": changed(pieces(), 1, value=DATA[256:513]),
    "null value": changed(pieces(), 1, value=b""),
    "gap": [pieces()[0], *pieces()[2:]],
    "other offset": changed(pieces(), 1, offset=255),
    "too many bytes": changed(pieces(), 3, length=257, value=bytes(257)),
    "sealed early": [pieces()[0], pieces(DATA[:512], file_id=FILE_ID)[1]],
    "cut zstd": changed(PACKED, 1, value=PACKED[1][1][:-3]),
    "no zstd": changed(PACKED, 1, value=b"zstd?" * 9),
    "zstd bomb": changed(PACKED, 1, value=_bomb()),
    "unsized zstd": changed(PACKED, 1, value=UNSIZED),
    "two zstd": changed(PACKED, 1, value=PACKED[1][1] * 2),
    "gzip as zstd": changed(PACKED, 1, value=pieces(codec=Codec.GZIP)[1][1]),
    "cut gzip": changed(pieces(codec=Codec.GZIP), 1, value=pieces(codec=Codec.GZIP)[1][1][:-9]),
}  # fmt: skip


@pytest.mark.parametrize("records", BAD_BLOCKS.values(), ids=BAD_BLOCKS)
async def test_bad_block(partition, context, store, records):
    """A block that differs from its declaration is quarantined and rejected, and is settled."""
    await partition.put(*records)

    assert ["rejected"] == context.outcomes
    assert 1 == len(context.quarantined) == context.stats.quarantined == context.stats.rejected
    assert context.acks[0].reason == context.quarantined[0].reason
    assert (FILE_ID, 0, 1) == (
        context.acks[0].file_id,
        context.acks[0].block,
        context.acks[0].attempt,
    )
    assert list(range(len(records))) == context.done
    assert (0, 0, 0) == (context.stats.open_blocks, context.begun, context.stats.blocks)
    assert store.stored(FILE_ID, 0) is None

    await partition.put(*pieces(attempt=2))
    assert ["rejected", "persisted"] == context.outcomes
    assert list(range(len(records) + 4)) == context.done
    assert [] == [p for p in store.roots[0].path.rglob("*.part") if "data-blocks" not in p.name]


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a/../../b", "a//b", "./a", "a\0b", "..", "x/" * 200, "x" * 5000],
)
async def test_hostile_name(partition, context, store, name):
    """A name that leads out of the folder is quarantined; no file is created."""
    meta = meta_of(len(DATA), name=name)
    await partition.put(*pieces(meta=meta))

    assert list(range(4)) == (context.done if context.outcomes else [*context.done, 1, 2, 3])
    assert 1 == context.stats.quarantined
    assert "persisted" not in context.outcomes
    assert {".lock", ".folder.json", "quarantine"} == {
        path.name for path in store.roots[0].path.iterdir()
    }


@pytest.mark.parametrize(
    "name", ["<img src=x onerror=alert(1)>", "-rf", "a\u202eb", "a\nb", "\ud800", "con", "a b "]
)
async def test_odd_name(partition, context, name):
    """A block with an unusual name is accepted."""
    if name == "\ud800":  # JSON has no such character: a producer escapes it
        name = "%ED%A0%80"
    await partition.put(*pieces(meta=meta_of(len(DATA), name=name)))

    assert ["persisted"] == context.outcomes
    assert name == context.acks[0].name


async def test_quarantine_has_an_end(partition, context, store, monkeypatch):
    """Many bad records are counted and logged, and fill neither the disk nor the topic."""
    monkeypatch.setattr(outcomes, "MAX_QUARANTINED", 3)
    await partition.put(*[(None, b"x")] * 10)

    assert 10 == context.stats.quarantined == len(context.done)
    assert 3 == len(context.quarantined)
    assert 6 == len(list((store.roots[0].path / "quarantine").iterdir()))


async def test_quarantine_that_cannot_be_kept(partition, context, store, monkeypatch):
    """A bad record that cannot be written to quarantine is published nevertheless."""

    def refuse(*_):
        raise StoreFullError("full")

    monkeypatch.setattr(store, "set_aside", refuse)
    await partition.put((None, b"x"))

    assert [0] == context.done
    assert "" == context.quarantined[0].path


async def test_many_open_blocks(partition, context, monkeypatch):
    """The number of open blocks is limited: the one that is idle for longest is rejected."""
    monkeypatch.setattr(partition_module, "MAX_OPEN_BLOCKS", 4)
    for attempt in range(200):
        await partition.put(pieces(attempt=attempt)[0])

    assert 4 == context.stats.open_blocks == context.begun
    assert ["rejected"] * 196 == context.outcomes
    assert list(range(196)) == context.done


async def test_flood_of_begun_blocks(partition, context, monkeypatch):
    """Any number of new blocks, in any order, does not end a block with more bytes."""
    monkeypatch.setattr(partition_module, "MAX_OPEN_BLOCKS", 4)
    good = pieces(meta=OTHER)
    begun = itertools.count()
    for record in good:
        for number in itertools.islice(begun, 50):
            await partition.put(pieces(DATA, frame_size=10, attempt=number)[0])
        await partition.put(record)

    assert [OTHER_ID] == [ack.file_id for ack in context.acks if ack.outcome == "persisted"]
    assert 1 == sum(ack.file_id == OTHER_ID for ack in context.acks)


async def test_made_up_attempts_are_forgotten(partition, context, monkeypatch):
    """An unknown producer can invent any number of attempts; only some are remembered."""
    monkeypatch.setattr(attempts, "MAX_ATTEMPTS", 5)
    await partition.put(*pieces())
    await partition.put(*(pieces(attempt=n)[0] for n in range(100)))
    await partition.put(*(pieces(attempt=n, meta=OTHER)[1] for n in range(100)))
    receiver = partition.receiver

    assert [4, 5, 5] == [receiver._attempts.count(n) for n in (Repeated, Orphaned, Closed)]
    assert list(range(4 + 96)) == context.done
    assert {"persisted"} == set(context.outcomes)
    await partition.put(*pieces(attempt=7))
    assert 7 == context.acks[-1].attempt
    assert list(range(4 + 100 + 95)) == context.done


# --- orphans, rewinds, giving up


async def test_orphan_waits(partition, context):
    """A frame whose first frame was not received is not settled until its block is persisted."""
    await partition.put(*pieces()[1:])
    assert [] == context.seen

    await partition.put(*pieces(attempt=2))
    assert list(range(7)) == context.done
    assert [2] == [ack.attempt for ack in context.acks]


async def test_orphan_of_what_another_intake_stored(partition, context, store):
    """An orphan of a block that another receiver persisted is settled when that is published."""
    await partition.put(pieces()[1])
    await Partition(FakeContext(store)).put(*pieces())
    await partition.put(pieces()[2])
    assert [] == context.seen

    await partition.put(pieces()[3])
    assert [context.acks[0], 0, 1, 2] == context.seen


async def test_orphan_is_given_up(partition, context, clock):
    """An orphan is not settled before its attempt expires."""
    await partition.put(*pieces()[1:])
    await expire(partition, clock, after=TIMEOUT - 1)
    assert [] == context.seen

    await expire(partition, clock, after=2)
    assert [0, 1, 2] == context.seen


async def test_orphans_of_a_rejected_attempt(partition, context):
    """When an attempt ends, its frames that came before its first frame are settled too."""
    first, second, third, last = pieces()
    await partition.put(second, first, third)

    assert ["rejected"] == context.outcomes
    assert [0, 1, 2] == context.done
    await partition.put(last)
    assert [0, 1, 2, 3] == context.done


async def test_rewind(partition, context, store):
    """After a rebalance, a block that was begun is received again from its first frame."""
    await partition.put(*pieces()[:3])
    partition.rewind(0)
    await partition.put(*pieces())

    assert ["persisted"] == context.outcomes
    assert [0, 1, 2, 3] == context.done
    assert (0, 1) == (context.stats.open_blocks, context.begun)
    assert store.stored(FILE_ID, 0)
    await eventually(lambda: not half_written(store))


async def test_same_generation_rewind(partition, context):
    """An offset that does not increase is treated like a rebalance."""
    await partition.put(*pieces()[:2])
    partition.offset = 1
    await partition.put(*pieces()[1:])

    assert [] == context.seen
    assert {1, 2, 3} == set(partition.receiver._ledger._waiting)


async def test_drop(partition, context, store):
    """A revoked partition leaves no open block, and publishes nothing."""
    await partition.put(*pieces()[:2], *pieces(meta=OTHER)[1:])
    partition.receiver.drop()
    await eventually(lambda: not half_written(store))

    assert [] == context.seen
    assert (0, 0) == (context.stats.open_blocks, context.begun)


@pytest.mark.parametrize("moment", ["stored", "begin", "write", "commit"])
async def test_cancelled(partition, context, store, monkeypatch, moment):
    """A rebalance at any moment leaves no reserved disk space, no file and no count."""
    loop = asyncio.get_running_loop()
    reached, go_on = asyncio.Event(), asyncio.Event()

    def slowly(real):
        def call(*args, **kwargs):
            loop.call_soon_threadsafe(reached.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
            return real(*args, **kwargs)

        return call

    target = BlockWriter if moment in {"write", "commit"} else store
    monkeypatch.setattr(target, moment, slowly(getattr(target, moment)))
    task = asyncio.create_task(partition.put(*pieces()))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    partition.receiver.drop()
    go_on.set()

    await eventually(lambda: not store.roots[0]._writers)
    await eventually(lambda: not half_written(store))
    assert [] == context.seen
    assert (0, 0) == (context.stats.open_blocks, context.begun)
    monkeypatch.undo()
    await Partition(context).put(*pieces())
    assert ["persisted"] == context.outcomes


async def test_cancelled_while_telling(partition, context, store):
    """A persisted block counts, even if it is published only when it is delivered again."""
    context.gate.clear()
    task = asyncio.create_task(partition.put(*pieces()))
    await context.asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    context.gate.set()
    assert [] == context.seen
    assert 1 == context.persisted == context.begun

    again = Partition(context)
    await again.put(*pieces())
    assert ["persisted"] == context.outcomes
    assert [0, 1, 2, 3] == context.done
    assert store.stored(FILE_ID, 0)


async def test_give_up(partition, context, clock):
    """A block without new frames for a block timeout is rejected, so that it is sent again."""
    await partition.put(*pieces()[:2])
    await expire(partition, clock, after=TIMEOUT - 1)
    assert [] == context.seen

    await expire(partition, clock, after=2)
    assert ["rejected"] == context.outcomes
    assert "given up: no frame of it came for 60 s" == context.acks[0].reason
    assert [0, 1] == context.done
    await partition.put(*pieces()[2:], *pieces(attempt=2))
    assert ["rejected", "persisted"] == context.outcomes
    assert list(range(8)) == context.done


async def test_late_reader_gives_nothing_up(partition, context, clock):
    """While the partition is not read to its end, no attempt expires."""
    await partition.put(*pieces()[:2])
    await expire(partition, clock, highwater=500)
    await expire(partition, clock, highwater=1000)
    assert [] == context.seen

    await partition.put(*pieces()[2:])
    assert ["persisted"] == context.outcomes


async def test_give_up_while_others_send(partition, context, clock):
    """If other producers send without a pause, the end at the time of the timeout counts."""
    await partition.put(*pieces()[:2], pieces(file_id="a" * 32)[1])
    await expire(partition, clock, highwater=7)
    for number in range(1, 5):
        assert [] == context.done
        other = pieces(b"x", meta=meta_of(1, name=str(number)))
        await partition.put(*other)
        await expire(partition, clock, highwater=1000, after=1)

    assert [FILE_ID] == [ack.file_id for ack in context.acks if ack.outcome == "rejected"]
    assert list(range(7)) == context.done


async def test_frame_that_comes_late(partition, context, clock):
    """A new frame starts the timeout again."""
    await partition.put(*pieces()[:2])
    await expire(partition, clock, highwater=3)
    await partition.put(pieces()[2])
    await expire(partition, clock, after=1)
    assert [] == context.seen

    await expire(partition, clock, highwater=5)
    assert [] == context.seen
    await partition.put(pieces()[3])
    assert ["persisted"] == context.outcomes


async def test_repeated_frame_keeps_nothing_open(partition, context, clock):
    """A repeated frame does not start the timeout again."""
    await partition.put(*pieces()[:2])
    for _ in range(7):
        await partition.put(pieces()[0])
        await expire(partition, clock, after=8)
    assert [] == context.outcomes

    await partition.put(pieces()[1])
    await expire(partition, clock, after=8)
    assert ["rejected"] == context.outcomes
    assert list(range(10)) == context.done


def trickle(**fields):
    """Return the records of a producer that keeps a block open: one byte at a time."""
    return pieces(bytes(2000), frame_size=1, **fields)


async def touched(partition, clock, records, *, seconds, every=5.0):
    """Let one of *records* come at intervals; return after how many the partition was settled."""
    for number, record in enumerate(records[: int(seconds / every)], start=1):
        await partition.put(record)
        await expire(partition, clock, after=every)
        if partition.receiver.safe_offset is None:
            return number
    return None


async def test_block_that_is_touched_for_ever(partition, context, clock):
    """A producer that sends a byte now and then does not delay the commit for long."""
    ended = await touched(partition, clock, trickle(), seconds=10_000)

    assert 121 == ended  # ten times the block timeout, and a moment
    assert ["rejected"] == context.outcomes
    assert "given up: 121 B of it came, which is too slow" in context.acks[0].reason
    assert "after 600 s it must be 32.0 KiB a second" in context.acks[0].reason


async def test_orphan_that_is_touched_for_ever(partition, context, clock):
    """Frames without a first frame do not delay it for long either."""
    assert 121 == await touched(partition, clock, trickle()[1:], seconds=10_000)
    assert [] == context.outcomes


async def test_stored_block_that_is_touched_for_ever(partition, context, clock):
    """Frames of a stored block do not delay it for long either."""
    await partition.put(*pieces(bytes(2000), frame_size=1000))
    ended = await touched(partition, clock, trickle(attempt=2), seconds=10_000)

    assert 121 == ended
    assert [(1, "persisted"), (2, "persisted")] == [(a.attempt, a.outcome) for a in context.acks]


async def test_block_elsewhere_that_is_touched_for_ever(partition, context, clock):
    """Frames of a block that another machine has do not delay it for long either."""
    records = trickle()
    context.claims.claim(records[0][0].file_id, 0, records[-1][0].seal.sha256.hex())

    assert 121 == await touched(partition, clock, records, seconds=10_000)
    assert ([], 1) == (context.outcomes, context.stats.elsewhere)


async def test_repeats_keep_no_block_open_that_is_elsewhere(partition, context, clock):
    """Repeated frames of a block that another machine has do not start the timeout again."""
    records = pieces()
    context.claims.claim(FILE_ID, 0, records[-1][0].seal.sha256.hex())

    assert 13 == await touched(partition, clock, [records[0]] * 20, seconds=100)


async def test_slow_producer(partition, context, clock, monkeypatch):
    """A block that arrives at the required rate is persisted, however long it takes."""
    monkeypatch.setattr(lateness, "SLOWEST_BYTES", 10)
    data = bytes(20_000)
    records = pieces(data, frame_size=50)
    assert 400 == await touched(partition, clock, records, seconds=2_000)

    assert ["persisted"] == context.outcomes


async def test_slow_reader_is_not_a_slow_producer(partition, context, clock):
    """Frames that this worker has not read yet do not count as slow."""
    records = trickle()
    await partition.put(*records[:500])
    for _ in range(200):
        await partition.put(records[partition.offset])
        await expire(partition, clock, after=5, highwater=2000)
    assert [] == context.outcomes

    await partition.put(*records[700:])
    assert ["persisted"] == context.outcomes


@pytest.mark.parametrize("taken", [1, 3])
async def test_abort(partition, context, taken):
    """When a producer aborts its attempt, the frames are settled and nothing is published."""
    abort = Frame(
        file_id=FILE_ID, block=0, attempt=1, frame=taken, offset=256 * taken, length=0, abort=True
    )
    await partition.put(*pieces()[:taken], (abort, b""))

    assert list(range(taken + 1)) == context.seen
    assert (0, 0) == (context.stats.open_blocks, context.begun)
    await partition.put(*pieces()[taken:], *pieces(attempt=2))
    assert [2] == [ack.attempt for ack in context.acks]
    assert list(range(9)) == context.done


async def test_abort_of_an_orphan_and_of_what_is_stored(partition, context):
    """An abort ends an orphaned or a repeated attempt; a stored block does not change."""
    abort = Frame(file_id=FILE_ID, block=0, attempt=1, frame=3, offset=768, length=0, abort=True)
    await partition.put(*pieces()[1:3], (abort, b""))
    assert [0, 1, 2] == context.seen

    await partition.put(*pieces(attempt=2), (abort, b""))
    assert ["persisted"] == context.outcomes
    assert list(range(8)) == context.done

    abort = msgspec.structs.replace(abort, attempt=3)
    await partition.put(*pieces(attempt=3)[:3], (abort, b""))
    assert ["persisted"] == context.outcomes
    assert list(range(12)) == context.done
    assert 1 == context.stats.blocks


async def test_deleted_unread(partition, context):
    """Missing offsets were deleted before they were read: that is published."""
    await partition.put(*pieces()[:2])
    partition.offset = 10
    await partition.put(*pieces(attempt=2))

    assert 8 == context.stats.deleted_unread
    assert "offsets 2 to 9" in context.quarantined[0].reason
    assert ["persisted"] == context.outcomes
    assert [0, 1, 10, 11, 12, 13] == context.done


@pytest.mark.parametrize(("committed", "deleted"), [(0, 0), (10, 0), (7, 3)])
async def test_deleted_while_away(context, committed, deleted):
    """Records deleted since the group's commit are reported; without a commit none are."""
    partition = Partition(context)
    partition.receiver = PartitionReceiver("data-blocks", 3, context, committed=committed)
    partition.offset = 10
    await partition.put(*pieces())

    assert deleted == context.stats.deleted_unread
    assert ["persisted"] == context.outcomes
    reasons = [record.reason for record in context.quarantined]
    assert [True] * bool(deleted) == ["offsets 7 to 9" in reason for reason in reasons]


# --- a store that cannot


class Failing:
    """Lets the store fail for a while: *left* calls of *what*."""

    def __init__(self, monkeypatch, target, what, left, error):
        self.left = left
        self.calls = 0
        real = getattr(target, what)

        def call(*args, **kwargs):
            self.calls += 1
            if self.left:
                self.left -= 1
                raise error
            return real(*args, **kwargs)

        monkeypatch.setattr(target, what, call)


@pytest.mark.parametrize("what", ["stored", "begin"])
async def test_hold_and_go_on(partition, context, store, monkeypatch, what):
    """While the store cannot write, nothing is skipped; when it can, the partition resumes."""
    failing = Failing(monkeypatch, store, what, 10_000, StoreFullError("disk full"))
    task = asyncio.create_task(partition.put(*pieces()))
    await eventually(lambda: failing.calls > 10)
    assert ("holding", "disk full") == (context.stats.state, context.stats.reason)
    assert [] == context.seen

    failing.left = 0
    await task
    assert ["persisted"] == context.outcomes
    assert ("running", "") == (context.stats.state, context.stats.reason)


@pytest.mark.parametrize(
    ("call", "error"),
    list(itertools.product(["pwrite", "fsync", "rename"], [errno.ENOSPC, errno.EIO])),
)
async def test_hold_on_a_failing_disk(partition, context, monkeypatch, call, error):
    """A full or failing disk pauses the partition; nothing is lost when the disk works again."""
    await partition.put(*pieces()[:1])
    failing = Failing(monkeypatch, os, call, 10_000, OSError(error, os.strerror(error)))
    task = asyncio.create_task(partition.put(*pieces()[1:]))
    await eventually(lambda: failing.calls > 10)
    assert "holding" == context.stats.state
    assert [] == context.seen

    failing.left = 0
    await task
    assert ["persisted"] == context.outcomes
    assert [0, 1, 2, 3] == context.done
    assert "running" == context.stats.state


@pytest.mark.parametrize("what", ["stored", "begin"])
async def test_refused_on_a_healthy_disk(partition, context, store, monkeypatch, what):
    """A block that a healthy disk refuses several times is rejected; other blocks continue."""
    Failing(monkeypatch, store, what, 10_000, StoreError("permission denied"))
    if what == "stored":
        Failing(monkeypatch, store, "begin", 10_000, StoreError("permission denied"))
    await partition.put(*pieces())

    assert ["rejected"] == context.outcomes
    assert "refused it 4 times: permission denied" in context.acks[0].reason
    assert "running" == context.stats.state
    assert 0 == context.begun
    monkeypatch.undo()
    await partition.put(*pieces(attempt=2))
    assert ["rejected", "persisted"] == context.outcomes
    assert list(range(8)) == context.done


async def test_orphan_of_what_cannot_be_read(partition, context, store, monkeypatch):
    """If the disk cannot be read, no block counts as persisted: its frames wait."""
    Failing(monkeypatch, store, "stored", 10_000, StoreError("permission denied"))
    await partition.put(*pieces()[1:])

    assert [] == context.seen
    assert "running" == context.stats.state


async def test_folder_that_someone_removed(partition, context, store):
    """A block whose folder was removed is rejected, and sent again."""
    await partition.put(*pieces()[:2])
    for path in sorted(store.roots[0].path.rglob("*"), reverse=True):
        if path.name != ".lock":
            path.unlink() if path.is_file() else path.rmdir()
    await partition.put(*pieces()[2:])
    await partition.put(*pieces(attempt=2))

    assert ["rejected", "persisted"] == context.outcomes
    assert list(range(8)) == context.done


async def test_nothing_is_late_after_a_hold(partition, context, store, monkeypatch, clock):
    """The time for which a disk was full does not count towards a timeout."""
    await partition.put(pieces()[0])
    failing = Failing(monkeypatch, store, "begin", 10_000, StoreFullError("full"))
    task = asyncio.create_task(partition.put(*pieces(meta=OTHER)[:1]))
    await eventually(lambda: failing.calls > 2)
    clock.now += TIMEOUT / 2
    failing.left = 0
    await task
    await expire(partition, clock, after=TIMEOUT - 1)
    assert [] == context.seen


async def test_room_that_dead_blocks_hold(partition, context, monkeypatch, clock):
    """If blocks of dead producers reserve the last disk space, the next block gets it."""
    free = [1500 + 2 * BESIDE_BYTES]
    monkeypatch.setattr("streamapp.store.dirfd.free_bytes", lambda _fd: free[0])
    await partition.put(pieces()[0])
    task = asyncio.create_task(partition.put(*pieces(attempt=2)))
    await eventually(lambda: context.stats.state == "holding")
    await partition.receiver.expire(highwater=1)
    assert [] == context.seen

    clock.now += TIMEOUT + 1
    await task
    assert [(1, "rejected"), (2, "persisted")] == [(a.attempt, a.outcome) for a in context.acks]


async def test_room_that_dead_blocks_of_another_partition_hold(
    partition, context, store, monkeypatch, clock
):
    """The same holds for blocks of another partition that gets no records."""
    other = Partition(context, 4)
    limit(store, monkeypatch, 2048)
    dead = pieces(bytes(2048))
    await partition.put(*dead[:-1])
    task = asyncio.create_task(other.put(*pieces()))
    await eventually(lambda: context.stats.state == "holding")
    await expire(partition, clock, highwater=1000, after=TIMEOUT - 1)
    assert [] == context.seen

    await expire(partition, clock, highwater=1000, after=2)
    await task
    assert [(dead[0][0].file_id, "rejected"), (FILE_ID, "persisted")] == [
        (ack.file_id, ack.outcome) for ack in context.acks
    ]
    assert set() == context.without_space


async def test_two_blocks_that_wait_for_the_same_room(partition, context, store, monkeypatch):
    """The younger of two blocks that cannot both be written is rejected, and sent again."""
    monkeypatch.setattr(free_space, "FRESH_SECONDS", 0)
    other = Partition(context, 4)
    limit(store, monkeypatch, 1600)
    older, younger = pieces(), pieces(meta=OTHER)
    await partition.put(older[0])
    await other.put(*younger[:3])
    await partition.put(*older[1:3])
    tasks = [asyncio.create_task(other.put(younger[3]))]
    await eventually(lambda: context.stats.state == "holding")
    assert [] == context.seen
    tasks.append(asyncio.create_task(partition.put(older[3])))
    await asyncio.gather(*tasks)

    assert {(FILE_ID, "persisted"), (OTHER_ID, "rejected")} == {
        (ack.file_id, ack.outcome) for ack in context.acks
    }
    assert 0 == context.stats.quarantined
    assert "running" == context.stats.state


def limit(store, monkeypatch, size):
    """Let the store's volume have space for *size* bytes of blocks and their metadata."""

    def free(_fd):
        found = (p.stat().st_size for p in store.roots[0].path.rglob("*.bin*"))
        return size + 2 * BESIDE_BYTES - sum(found)

    monkeypatch.setattr("streamapp.store.dirfd.free_bytes", free)


async def test_hold_is_not_counted_as_slowness(partition, context, monkeypatch, clock):
    """However long a disk is full, no block that waits for it counts as too slow."""
    await partition.put(pieces()[0])
    failing = Failing(monkeypatch, BlockWriter, "write", 10_000, StoreFullError("full"))
    task = asyncio.create_task(partition.put(pieces()[1]))
    await eventually(lambda: failing.calls > 2)
    clock.now += 100 * TIMEOUT
    failing.left = 0
    await task
    await expire(partition, clock, after=1)
    assert [] == context.seen

    await partition.put(*pieces()[2:])
    assert ["persisted"] == context.outcomes


# --- a limit of blocks


async def test_max_blocks_is_exact(partition, context):
    """A block that may not begin waits, and none of its frames is acknowledged."""
    context.settings.max_blocks = 1
    await partition.put(*pieces())
    task = asyncio.create_task(partition.put(*pieces(meta=OTHER)))
    await eventually(partition.receiver._lock.locked)
    assert 1 == context.begun
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ["persisted"] == context.outcomes
    assert [0, 1, 2, 3] == context.done
    assert (1, 1) == (context.begun, context.persisted)


async def test_max_blocks_and_a_dead_producer(partition, context):
    """An attempt whose producer died does not make the next block wait for ever."""
    context.settings.max_blocks = 1
    await partition.put(*pieces()[:2])
    await partition.put(*pieces(attempt=2))

    assert [(1, "rejected"), (2, "persisted")] == [(a.attempt, a.outcome) for a in context.acks]
    assert 1 == context.persisted


async def test_expiry_does_not_wait(partition, context):
    """`expire` does not wait for a frame that is being received."""
    context.gate.clear()
    task = asyncio.create_task(partition.put((None, b"")))
    await context.asked.wait()
    await asyncio.wait_for(partition.receiver.expire(highwater=1), 1)
    context.gate.set()
    await task


def test_meta_is_what_the_tests_think():
    """The blocks of these tests are like those of a producer."""
    counts = collections.Counter(type(frame.meta) for frame, _ in pieces())

    assert {BlockMeta: 1, type(None): 3} == counts


async def test_partition_that_others_had(partition, context, store):
    """Attempts of an older generation are discarded, even if no record comes any more."""
    await partition.put(*pieces()[:2])
    await partition.receiver.forget_older(partition.generation)
    assert 1 == context.stats.open_blocks

    await partition.receiver.forget_older(partition.generation + 1)

    await eventually(lambda: not half_written(store))
    assert 0 == context.stats.open_blocks
    assert ([], None) == (context.seen, partition.receiver.safe_offset)
