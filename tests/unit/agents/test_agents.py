"""The agents: no exception escapes them, and they acknowledge only finished records."""

import asyncio
import dataclasses
import inspect
import logging
import os
import signal
import time
import types

import pytest

from faust.exceptions import ConsumerNotStarted
from faust.types import TP

from streamapp.agents import blocks, claims, faust_topics, guard, heartbeat, progress
from streamapp.app import app
from streamapp.integrity import machines
from streamapp.integrity.machines import SecondWorkers
from streamapp.kafka import topic_admin
from streamapp.protocol import frames, messages, topics
from streamapp.protocol.messages import BlockAck, FileStatus, Heartbeat, Quarantined
from streamapp.protocol.routing import partition_of
from streamapp.receiver import context as receiver_context
from streamapp.receiver.context import Clock
from streamapp.receiver.partition import PartitionReceiver
from streamapp.store import BlockStore
from streamapp.tables import folds
from streamapp.worker import readiness
from streamapp.worker.consumer import OrderedCommitConsumer
from streamapp.worker.own_heartbeat import own_heartbeat
from streamapp.worker.session_guard import SessionGuard
from tests.fakes import FakeClaims
from tests.frames import FILE_ID, frames_of
from tests.unit.rows import ack_of
from tests.waiting import eventually


DATA = b"0123456789" * 10
PLACE = TP(topic_admin.names(app.settings).data_blocks, 2)


class Ended(BaseException):
    """The process ended."""


class FakeMessage:
    """Like Faust's: it has a partition, and notes whether it was acknowledged."""

    def __init__(self, offset, generation, headers, value):
        self.topic, self.partition, self.tp = PLACE.topic, PLACE.partition, PLACE
        self.offset, self.generation_id = offset, generation
        self.headers, self.key, self.value = headers, b"k", value
        self.timestamp = 1.0
        self.acked = False

    def ack(self, _consumer):
        """As `Message.ack`."""
        self.acked = True


class FakeStream:
    """Yields events, and then waits for more, as Faust's stream does."""

    def __init__(self, *events):
        self._events = events
        self.is_manual = False
        self.is_read = asyncio.Event()

    def noack(self):
        """As `Stream.noack`."""
        self.is_manual = True
        return self

    async def events(self):
        """As `Stream.events`, whose compiled form acknowledges without asking anybody."""
        for event in self._events:
            yield event
            if not self.is_manual:
                event.message.acked = True
        self.is_read.set()
        await asyncio.Event().wait()


def event_of(offset, frame, value, *, generation=1):
    """Return an event of a frame."""
    message = FakeMessage(offset, generation, frames.encode(frame) if frame else None, value)
    return types.SimpleNamespace(message=message, value=value)


def block_events(first=0, **kwargs):
    """Return the events of one block."""
    frames = frames_of(DATA, frame_size=40)
    return [event_of(first + n, frame, value, **kwargs) for n, (frame, value) in enumerate(frames)]


@pytest.fixture(autouse=True)
def worker(faust_app, tables, tmp_path, monkeypatch):
    """A worker with these agents; what it publishes goes to a list."""
    assert tables
    worker = types.SimpleNamespace(told=[], highwater=1000, refuses=0)
    store = BlockStore([tmp_path / "data"], min_free=0)
    store.open()

    async def publish(record):
        if worker.refuses:
            worker.refuses -= 1
            raise RuntimeError("Kafka is away")
        worker.told.append(record)

    def highwater(_place):
        if isinstance(worker.highwater, Exception):
            raise worker.highwater
        return worker.highwater

    consumer = types.SimpleNamespace(highwater=highwater, _committed_offset={PLACE: 0})
    monkeypatch.setattr(os, "fsync", lambda _fd: None)
    monkeypatch.setattr(faust_topics, "publish", publish)
    monkeypatch.setattr(faust_app, "block_store", store)
    monkeypatch.setattr(faust_app, "stats", type(faust_app.stats)())
    # One that did not see the tests before this.
    monkeypatch.setattr(faust_app, "session", SessionGuard(app.settings.session_timeout))
    fields = {"store": store, "stats": app.stats, "send": publish, "begun": 0, "persisted": 0}
    fields["claims"] = FakeClaims()  # nothing follows the topics: real ones would wait for them
    context = dataclasses.replace(app.context, **fields)
    monkeypatch.setattr(faust_app, "context", context)
    monkeypatch.setattr(type(faust_app), "consumer", consumer)
    monkeypatch.setattr(faust_app, "consumer_generation_id", 1)
    monkeypatch.setattr(receiver_context, "RETRY_SECONDS", 0.001)
    monkeypatch.setattr(progress, "TABLE_RETRY_SECONDS", 0.0)
    faust_app.flow_control.resume()
    yield worker
    faust_app.flow_control.suspend()
    store.close()


@pytest.fixture
def ends(monkeypatch):
    """The exit codes with which the process would have ended."""
    codes = []

    def end(code):
        codes.append(code)
        raise Ended

    monkeypatch.setattr(guard.os, "_exit", end)
    monkeypatch.setattr(logging, "shutdown", lambda: None)
    return codes


@pytest.fixture
async def run():
    """Runs an agent over events, until all are read; it is cancelled at the end."""
    tasks = []

    async def run(agent, *events):
        stream = FakeStream(*events)
        task = asyncio.ensure_future(agent.fun(stream))
        tasks.append(task)
        reading = asyncio.ensure_future(stream.is_read.wait())
        await asyncio.wait({task, reading}, return_when=asyncio.FIRST_COMPLETED)
        reading.cancel()
        if task.done():
            await task
        return task

    yield run
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def limited(monkeypatch, limit):
    """Let the worker stop after *limit* blocks; return the signals that it raises."""
    signals = []
    settings = types.SimpleNamespace(
        max_blocks=limit, group_id="g1", machine_id="m1", block_timeout=60.0
    )
    monkeypatch.setattr(app, "settings", settings)
    monkeypatch.setattr(app.context, "settings", settings)
    monkeypatch.setattr(blocks.os, "kill", lambda _pid, number: signals.append(number))
    return signals


# --- blocks


async def test_block(run, worker):
    """A block is persisted and published before the agent acknowledges its records."""
    events = block_events()
    await run(blocks.keep_blocks, *events[:-1])
    assert not any(event.message.acked for event in events)
    events = block_events()
    await run(blocks.keep_blocks, *events)

    assert ["persisted"] == [record.outcome for record in worker.told]
    assert all(event.message.acked for event in events)
    assert 3 + 2 == app.stats.taken[PLACE]


async def test_bytes_are_let_go(run):
    """Faust's reference to an event does not hold its bytes."""
    events = block_events()
    await run(blocks.keep_blocks, *events[:2])

    assert [None, None] == [event.message.value for event in events[:2]]
    assert [None, None] == [event.value for event in events[:2]]


async def test_null_value(run, worker):
    """A record with a null value is received as one with no bytes."""
    await run(blocks.keep_blocks, event_of(0, None, None))

    (told,) = worker.told
    assert isinstance(told, Quarantined)


async def test_stale_event(run, worker):
    """An event of an older generation is ignored and not acknowledged: Kafka delivers it again."""
    stale = block_events(generation=0)
    await run(blocks.keep_blocks, *stale)

    assert [] == worker.told
    assert not any(event.message.acked for event in stale)


async def test_unforeseen_error(run, ends, monkeypatch):
    """An unexpected error ends the process before the event is acknowledged."""

    async def fail(*_):
        raise KeyError("unforeseen")

    monkeypatch.setattr(PartitionReceiver, "take", fail)
    events = block_events()
    with pytest.raises(Ended):
        await run(blocks.keep_blocks, *events)

    assert [70] == ends
    assert not events[0].message.acked


async def test_partition_that_goes(run):
    """When a partition is revoked, the blocks that its agent had begun are discarded."""
    task = await run(blocks.keep_blocks, *block_events()[:2])
    assert 1 == len(app.receivers)
    assert 1 == app.stats.open_blocks

    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert {} == app.receivers
    assert 0 == app.stats.open_blocks
    await eventually(lambda: not app.block_store.roots[0]._writers)


@pytest.mark.parametrize("answer", [None, AssertionError("not assigned"), ConsumerNotStarted("x")])
async def test_expiry_while_partitions_move(run, worker, ends, answer):
    """During a rebalance a partition's end may be unknown: no attempt expires then."""
    await run(blocks.keep_blocks, *block_events()[:2])
    worker.highwater = answer
    await inspect.unwrap(blocks.expire_blocks)()

    assert 1 == app.stats.open_blocks
    assert [] == ends


async def test_expiry(run, worker):
    """A block whose producer died expires."""
    await run(blocks.keep_blocks, *block_events()[:2])
    worker.highwater = 2
    app.context.clock = Clock(monotonic=lambda: 1e12, wall=lambda: 1.0)
    await inspect.unwrap(blocks.expire_blocks)()

    assert ["rejected"] == [record.outcome for record in worker.told]


# --- the context


async def test_tells_until_it_is_told(worker):
    """While Kafka does not accept an acknowledgement, the worker is paused, and reports it."""
    worker.refuses = 10_000
    task = asyncio.ensure_future(app.context.publish(ack_of(0)))
    await eventually(lambda: app.stats.state == "holding")
    assert "Kafka is away" in app.stats.reason
    worker.refuses = 0
    await task

    assert [ack_of(0)] == worker.told
    assert "running" == app.stats.state


async def test_max_blocks(monkeypatch):
    """After exactly ``--max-blocks`` blocks the worker stops, once."""
    signals = limited(monkeypatch, 2)
    for _ in range(2):
        assert not app.context.is_full
        await app.context.begin_block()
    assert app.context.is_full
    waiting = asyncio.ensure_future(app.context.begin_block())
    app.context.finish_block()
    await asyncio.sleep(0)
    assert [] == signals
    assert not waiting.done()

    app.context.finish_block()
    assert [signal.SIGTERM] == signals
    waiting.cancel()


async def test_begun_in_vain(monkeypatch):
    """For each block that is aborted, one waiting block may begin, in any order."""
    limited(monkeypatch, 2)
    await app.context.begin_block()
    await app.context.begin_block()
    waiting = [asyncio.ensure_future(app.context.begin_block()) for _ in range(4)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    app.context.abandon_block()
    await eventually(lambda: sum(task.done() and not task.cancelled() for task in waiting) == 1)
    app.context.abandon_block()
    await eventually(lambda: sum(task.done() and not task.cancelled() for task in waiting) == 2)
    assert app.context.is_full

    app.context.abandon_block()
    await eventually(lambda: all(task.done() for task in waiting))
    assert 2 == app.context.begun


async def test_no_limit():
    """Without ``--max-blocks`` no block waits to begin."""
    for _ in range(100):
        await app.context.begin_block()

    assert not app.context.is_full


# --- progress


def small_event(raw, key=FILE_ID, *, off=0):
    """Return an event of a small topic, *off* partitions away from that of the row of *key*."""
    event = event_of(0, None, raw)
    partition = (partition_of(key.encode()) + off) % topics.FILE_PARTITIONS
    event.message.topic, event.message.partition = "small", partition
    event.message.tp = TP("small", partition)
    return event


async def test_folds_acks(run):
    """Acknowledgements of this group are folded; other groups and unknown producers are ignored."""
    ours = ack_of(0, blocks=1, file_size=10)
    acks = [BlockAck(**{f: getattr(ours, f) for f in ours.__struct_fields__} | {"group": g})
            for g in ("g1", "g2")]  # fmt: skip
    for raw in (None, b"", b"{", b"\xff", b'{"kind":"block"}', b"x" * 300_000):
        await run(progress.fold_acks, small_event(raw), small_event(messages.encode(acks[1])))
    assert folds.file_row(FILE_ID.encode()) is None

    row = []
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(progress, "fold_ack", row.append)
        await run(progress.fold_acks, *map(small_event, map(messages.encode, acks)))
    assert [acks[0]] == row


async def test_folds_status(run, monkeypatch):
    """Status records of all producers are folded; heartbeats only of this group's machines."""
    seen = []
    monkeypatch.setattr(progress, "fold_status", seen.append)
    file = FileStatus(
        file_id=FILE_ID, state="sent", name="n", size=1, blocks=1, block_size=1, source="s"
    )
    ours, theirs = (Heartbeat(machine="m", group=g, state="running") for g in ("g1", "g2"))
    await run(
        progress.fold_statuses,
        small_event(b"{"),
        small_event(messages.encode(file)),
        *(small_event(messages.encode(beat), "m") for beat in (ours, theirs)),
    )

    assert [file, ours] == seen


async def test_machine_is_forgotten(run, monkeypatch):
    """A tombstone removes the row of its group's machine; an older tombstone names no group."""
    forgotten = []
    monkeypatch.setattr(progress, "forget_machine", forgotten.append)
    for key in ("m:g1", "m:g2", "m", "g1:data-blocks:1:2"):
        event = small_event(None, key.partition(":")[0])
        event.key = key.encode()
        await run(progress.fold_statuses, event)

    assert [b"m", b"m"] == forgotten


@pytest.mark.parametrize("off", [0, 1, 2])
async def test_record_on_another_partition(run, monkeypatch, caplog, off):
    """A record on a wrong partition is ignored: it would make a second row on another worker."""
    seen = []
    for name in ("fold_ack", "fold_status"):
        monkeypatch.setattr(progress, name, seen.append)
    ours = ack_of(0)
    ack = BlockAck(**{f: getattr(ours, f) for f in ours.__struct_fields__} | {"group": "g1"})
    file = FileStatus(
        file_id=FILE_ID, state="sent", name="n", size=1, blocks=1, block_size=1, source="s"
    )
    beat = Heartbeat(machine="m", group="g1", state="running")
    bad = Quarantined(machine="m", group="g1", topic="t", partition=0, offset=0, file_id=FILE_ID)
    await run(progress.fold_acks, small_event(messages.encode(ack), off=off))
    for said, key in [(file, FILE_ID), (beat, "m"), (bad, "m")]:
        await run(progress.fold_statuses, small_event(messages.encode(said), key, off=off))

    assert ([] if off else [ack, file, beat, bad]) == seen
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert (4 if off else 0) == len(warnings)
    for warning, key in zip(warnings, [FILE_ID, FILE_ID, "m", "m"], strict=False):
        home = partition_of(key.encode())
        assert f"passed over a record on small: {key} " in warning
        found = (home + off) % topics.FILE_PARTITIONS
        assert warning.endswith(f"on partition {found}, expected {home}")


@pytest.mark.parametrize("agent", [progress.fold_acks, progress.fold_statuses])
async def test_stale_record_is_not_folded(run, monkeypatch, agent):
    """A record of an older generation is neither folded nor acknowledged."""
    seen = []
    monkeypatch.setattr(progress, "fold_ack", seen.append)
    raw = messages.encode(ack_of(0))
    stale, current = event_of(0, None, raw, generation=0), event_of(1, None, raw)
    await run(agent, stale, current)

    assert [] == seen
    assert (False, True) == (stale.message.acked, current.message.acked)


async def test_tables_that_cannot_be_written(run, monkeypatch, ends):
    """While the tables cannot be written the worker holds; after a minute it ends."""
    failures = [OSError("No space left")] * 3
    seen = []

    def fold(record):
        if failures:
            assert len(failures) == 3 or app.stats.state == "holding"
            raise failures.pop()
        seen.append(record)

    monkeypatch.setattr(progress, "fold_ack", fold)
    ack = BlockAck(
        **{f: getattr(ack_of(0), f) for f in BlockAck.__struct_fields__} | {"group": "g1"}
    )
    await run(progress.fold_acks, small_event(messages.encode(ack)))
    assert [ack] == seen
    assert "running" == app.stats.state

    failures += [OSError("No space left")] * 1000
    with pytest.raises(Ended):
        await run(progress.fold_acks, small_event(messages.encode(ack)))
    assert [70] == ends


# --- guard, heartbeat, channels, transport


def test_guard_lets_pass_what_is_no_error(ends):
    """The cancellation of a task is not an error."""
    for expected in (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt):
        with pytest.raises(expected), guard.stop_on_unforeseen("testing"):
            raise expected
    with guard.stop_on_unforeseen("testing"):
        pass

    assert [] == ends


async def test_heartbeat(worker, monkeypatch):
    """A heartbeat has the state of the worker, and can be decoded."""
    app.stats.hold("x", "disk\udcff full " + "x" * 5000)
    monkeypatch.setattr(readiness, "block_partitions", lambda _: [3])
    monkeypatch.setattr(readiness, "is_ready", lambda _: True)
    beat = await own_heartbeat(app)
    assert beat == messages.decode_status(messages.encode(beat))
    assert ("holding", "m1", "g1", (3,)) == (beat.state, beat.machine, beat.group, beat.partitions)
    app.stats.release("x")
    assert "running" == (await own_heartbeat(app)).state
    monkeypatch.setattr(readiness, "is_ready", lambda _: False)
    beat = await own_heartbeat(app)
    assert ("holding", readiness.RESTORING) == (beat.state, beat.reason)

    monkeypatch.setattr(heartbeat, "_log_partitions", lambda _: None)
    worker.refuses = 1
    await inspect.unwrap(heartbeat.beat)()
    await inspect.unwrap(heartbeat.beat)()
    assert 1 == len(worker.told)


async def test_heartbeats_before_the_tables(worker, monkeypatch):
    """Until it has its tables, a worker publishes heartbeats that say so; timers start later."""
    looks = [False, False, False, True]
    monkeypatch.setattr(readiness, "is_ready", lambda _: looks[0])
    monkeypatch.setattr(readiness, "block_partitions", lambda _: [])

    async def sleep(seconds):
        assert app.settings.heartbeat == seconds
        looks.pop(0)

    monkeypatch.setattr(app, "sleep", sleep)
    monkeypatch.setattr(app, "add_future", asyncio.ensure_future)
    recovered = asyncio.Event()
    monkeypatch.setattr(app.tables, "wait_until_recovery_completed", recovered.wait)
    waiting = asyncio.ensure_future(app._wait_for_table_recovery_completed())
    await eventually(lambda: looks == [True])
    recovered.set()

    assert await waiting
    assert [("holding", readiness.RESTORING)] * 3 == [(b.state, b.reason) for b in worker.told]


async def test_heartbeat_on_change(worker, monkeypatch):
    """A change of state is published before the next heartbeat is due, and once."""
    partitions = [1]
    monkeypatch.setattr(readiness, "block_partitions", lambda _: partitions)
    monkeypatch.setattr(readiness, "is_ready", lambda _: True)
    monkeypatch.setattr(app, "reported", None)
    beat_on_change = inspect.unwrap(heartbeat.beat_on_change)
    told = []
    for change in (
        lambda: None,
        lambda: app.stats.hold("x", "disk full"),
        lambda: partitions.append(2),
        lambda: app.stats.release("x"),
    ):
        change()
        for _ in range(3):
            await beat_on_change()
        told.append(len(worker.told))

    assert [1, 2, 3, 4] == told


@pytest.mark.parametrize(
    ("record", "topic", "key"),
    [
        (ack_of(0), "acks", FILE_ID),
        (Heartbeat(machine="m7", group="g", state="running"), "status", "m7"),
        (
            Quarantined(machine="m8", group="g", topic="t", partition=1, offset=2, reason="r"),
            "status",
            "m8",
        ),
    ],
    ids=["ack", "heartbeat", "quarantined"],
)
async def test_publish(monkeypatch, record, topic, key):
    """A record goes to the partition of its row, and `publish` returns when the brokers have it."""
    monkeypatch.undo()
    sent = []
    taken = asyncio.get_running_loop().create_future()

    async def send(**kwargs):
        sent.append(kwargs)
        return taken

    monkeypatch.setattr(getattr(faust_topics, topic), "send", send, raising=False)
    publishing = asyncio.ensure_future(faust_topics.publish(record))
    await eventually(lambda: sent)
    await asyncio.sleep(0)
    assert not publishing.done()
    assert {
        "key": record.key,
        "value": messages.encode(record),
        "partition": partition_of(key.encode()),
    } == sent[0]

    taken.set_result(None)
    await publishing


@pytest.mark.parametrize(
    ("generation", "is_active", "expected"),
    [(1, True, True), (0, True, False), (2, True, False), (1, False, False)],
)
def test_consumer_refuses_what_is_void(faust_app, monkeypatch, generation, is_active, expected):
    """An acknowledgement of an older generation, or during a rebalance, is refused."""
    acked = []
    parent = OrderedCommitConsumer.__mro__[1]
    monkeypatch.setattr(parent, "ack", lambda _self, message: acked.append(message) or True)
    monkeypatch.setattr(faust_app.flow_control, "is_active", lambda: is_active)
    consumer = object.__new__(OrderedCommitConsumer)
    consumer.app = faust_app
    message = FakeMessage(0, generation, None, b"")

    assert expected == consumer.ack(message)
    assert ([message] if expected else []) == acked


def test_many_lost():
    """Records of lost blocks use bounded memory: those beyond a limit are ignored."""
    queue = asyncio.Queue(2)
    for block in range(3):
        claims._remember(queue, block)

    assert [0, 1] == [queue.get_nowait() for _ in range(queue.qsize())]


async def test_other_worker_is_silent(monkeypatch):
    """A second worker under this machine id counts until its next heartbeats are overdue."""
    monkeypatch.setattr(app, "second_workers", SecondWorkers())
    ids = {"machine": app.settings.machine_id, "group": app.settings.group_id}
    began = time.monotonic()
    claims._note(Heartbeat(**ids, state="running", start_id="0" * 32, interval=60.0))
    try:
        for later, is_held in [(100.0, True), (179.0, True), (300.0, False)]:
            assert is_held == app.second_workers.forget_silent(now=began + later)
        assert "another worker runs" in app.stats.reason
        await inspect.unwrap(claims.look_at_others)()
        assert "another worker runs" not in app.stats.reason
    finally:
        app.stats.release(claims._MACHINE_ID)


def test_many_of_one_machine(monkeypatch, caplog):
    """Forged heartbeats under this machine id fill neither memory nor log; the worker holds."""
    monkeypatch.setattr(machines, "MAX_OTHERS", 2)
    monkeypatch.setattr(app, "second_workers", SecondWorkers())
    for number in range(4):
        claims._note(
            Heartbeat(
                machine=app.settings.machine_id,
                group=app.settings.group_id,
                state="running",
                at=7.0,
                start_id=f"{number:032x}",
            )
        )
    try:
        assert 2 == len(app.second_workers._until)
        assert 2 == sum(record.levelno == logging.ERROR for record in caplog.records)
        assert "another worker runs as machine" in app.stats.reason
    finally:
        app.stats.release(claims._MACHINE_ID)
