"""The consumer: records fetched during a seek do not count, and a gap is exactly the gap."""

import asyncio
import types

import pytest

from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from intervaltree import IntervalTree

from streamapp.worker.consumer import OrderedCommitConsumer
from tests.waiting import eventually


PLACE = TP("data-blocks", 0)


class Log:
    """A partition in Kafka: it gives records from the position on, three at a time."""

    def __init__(self, monkeypatch):
        self.position = self.committed = 5
        self.seeks = 0
        self.interrupt = lambda: None
        self.refuses = False
        monkeypatch.setattr(driver.Consumer, "getmany", lambda _, timeout: self.getmany(timeout))
        monkeypatch.setattr(driver.Consumer, "perform_seek", lambda _: self.perform_seek())

    async def getmany(self, _timeout):
        """Yield the next records; all are fetched before the first one is yielded."""
        first = self.position
        self.position += 3
        for offset in range(first, first + 3):
            yield PLACE, types.SimpleNamespace(offset=offset)

    async def perform_seek(self):
        """Seek to the committed offset."""
        self.seeks += 1
        if self.refuses:
            raise driver.IllegalStateError
        self.position = self.committed


@pytest.fixture
def log(monkeypatch):
    """The log that the consumer reads."""
    return Log(monkeypatch)


@pytest.fixture
def consumer(log, monkeypatch):  # noqa: ARG001 - what it reads
    """A consumer with one partition, without Kafka."""
    consumer = object.__new__(OrderedCommitConsumer)
    consumer._committed_offset = {}
    monkeypatch.setattr("streamapp.worker.consumer.SEEK_RETRY_SECONDS", 0)

    async def nothing(*_):
        pass

    monkeypatch.setattr(OrderedCommitConsumer, "_seek_uncommitted", nothing)
    monkeypatch.setattr(OrderedCommitConsumer, "sleep", nothing)
    return consumer


async def drain(consumer, cycles, *, meanwhile=None):
    """Return the records of so many fetches; *meanwhile* is called at the second record."""
    seen = []
    for _ in range(cycles):
        async for _place, message in consumer.getmany(1.0):
            seen.append(message.offset)
            if meanwhile and len(seen) == 2:
                await meanwhile()
    return seen


async def test_without_a_seek(consumer, log):
    """Records come in order, and no seek is made."""
    assert [5, 6, 7, 8, 9, 10] == await drain(consumer, 2)
    assert 0 == log.seeks


async def test_seek_within_a_batch(consumer):
    """After a seek within a batch, the rest is dropped, and all records are fetched again."""
    assert [5, 6, 5, 6, 7] == await drain(consumer, 2, meanwhile=consumer.perform_seek)


async def test_seek_that_others_overtake(consumer, log):
    """A batch that was fetched before a seek, and the position after it, do no harm."""

    async def seek():
        await consumer.perform_seek()
        log.position = 99  # a fetch that was under way moved it behind our back

    assert [5, 6, 5, 6, 7, 8, 9, 10] == await drain(consumer, 3, meanwhile=seek)


async def test_seek_that_fails(consumer, log):
    """While the seek back fails, no records are yielded."""

    async def seek():
        await consumer.perform_seek()
        log.refuses = True

    assert [5, 6] == await drain(consumer, 3, meanwhile=seek)
    log.refuses = False
    assert [5, 6, 7] == await drain(consumer, 1)


async def test_gap(consumer, monkeypatch):
    """The record after a gap is not done, though Faust counts it as a part of the gap."""
    gaps = []

    async def add_gap(_, *gap):
        gaps.append(gap)

    monkeypatch.setattr(driver.Consumer, "_add_gap", add_gap)
    await consumer._add_gap(PLACE, 3, 7)

    assert [(PLACE, 3, 6)] == gaps


class Bookkeeping:
    """Faust's bookkeeping of one partition, committed up to 5."""

    def __init__(self, consumer):
        consumer._committed_offset = {PLACE: 5}
        consumer._gap = {PLACE: IntervalTree()}
        consumer._acked, consumer._acked_index = {PLACE: []}, {PLACE: set()}
        consumer._unread = {PLACE}
        self._consumer = consumer

    def done(self, *offsets):
        """Return what may be committed when the records at *offsets* are done."""
        self._consumer._acked[PLACE] += offsets
        self._consumer._acked_index[PLACE].update(offsets)
        return self._consumer._new_offset(PLACE)


def test_next_record_is_not_done():
    """Nothing is committed past the record at the commit while it is not done."""
    consumer = object.__new__(OrderedCommitConsumer)
    kept = Bookkeeping(consumer)
    consumer._note_first(PLACE, 5)

    assert kept.done(6, 7) is None
    assert 8 == kept.done(5)


def test_next_record_is_deleted():
    """Records after the commit that compaction or retention deleted are not waited for."""
    consumer = object.__new__(OrderedCommitConsumer)
    kept = Bookkeeping(consumer)
    consumer._note_first(PLACE, 7)
    consumer._note_first(PLACE, 9)  # the first one only says where reading went on

    assert 8 == kept.done(7)
    consumer._committed_offset[PLACE] = 8
    assert kept.done(9) is None


@pytest.mark.parametrize("committed", [None, 0])
def test_first_commit(committed):
    """Without a commit, the log may begin at any offset."""
    consumer = object.__new__(OrderedCommitConsumer)
    kept = Bookkeeping(consumer)
    consumer._committed_offset[PLACE] = committed

    assert kept.done() is None
    assert 10 == kept.done(8, 9)


@pytest.mark.parametrize("committed", [None, 0])
async def test_nothing_committed(committed, monkeypatch):
    """Without a commit, a seek goes to the beginning, except on changelogs."""
    changelog = TP("changelog", 0)
    sought = []
    consumer = object.__new__(OrderedCommitConsumer)
    tables = types.SimpleNamespace(changelog_topics={"changelog"})
    consumer.app = types.SimpleNamespace(tables=tables)
    consumer._committed_offset = {PLACE: committed, changelog: None, TP("acks", 1): 8}

    async def earliest(*places):
        return dict.fromkeys(places, 2)

    async def seek(*place):
        sought.append(place)

    monkeypatch.setattr(
        OrderedCommitConsumer, "assignment", lambda self: set(self._committed_offset)
    )
    monkeypatch.setattr(
        OrderedCommitConsumer, "earliest_offsets", lambda _, *places: earliest(*places)
    )
    monkeypatch.setattr(OrderedCommitConsumer, "seek", lambda _, *place: seek(*place))
    await consumer._seek_uncommitted()

    assert [(PLACE, 2)] == sought


async def test_blocks_are_committed_at_once(consumer, monkeypatch):
    """When a block is done its topic is committed at once, and no other topic."""
    consumer.app = types.SimpleNamespace(
        settings=types.SimpleNamespace(topic_prefix=""),
        consumer_generation_id=1,
        flow_control=types.SimpleNamespace(is_active=lambda: True),
    )
    consumer._commit_fut = None
    commits = asyncio.Queue()

    async def commit(_, places):
        commits.put_nowait(places)

    async def pause(*_):
        await asyncio.sleep(0)

    monkeypatch.setattr(OrderedCommitConsumer, "should_stop", False)
    monkeypatch.setattr(OrderedCommitConsumer, "commit", commit)
    monkeypatch.setattr(OrderedCommitConsumer, "sleep", pause)
    monkeypatch.setattr(driver.Consumer, "ack", lambda *_: True)
    task = asyncio.ensure_future(OrderedCommitConsumer._commit_blocks.fun(consumer))
    await eventually(lambda: consumer._block_done)
    for topic in ("block-acknowledgments", "data-blocks"):
        consumer.ack(types.SimpleNamespace(generation_id=1, topic=topic))
        await asyncio.sleep(0)
    assert {"data-blocks"} == await commits.get()
    assert commits.empty()
    task.cancel()
