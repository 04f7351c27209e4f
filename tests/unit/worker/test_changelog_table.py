"""Commits wait for the changelogs, and a row that Kafka refuses is written again."""

import asyncio
import types

import pytest

from faust.exceptions import ProducerSendError
from faust.types import TP

from streamapp.worker import changelog_table
from streamapp.worker.changelog_table import ChangelogTable
from streamapp.worker.consumer import OrderedCommitConsumer
from streamapp.worker.pending_writes import PendingWrites


PLACE = TP("g1-files-changelog", 1)


class FakeData(dict):
    """Rows, and the persisted offset of each changelog partition."""

    def __init__(self, *rows):
        super().__init__(*rows)
        self.persisted = {}
        self.persisted_offset = self.persisted.get
        self.set_persisted_offset = self.persisted.__setitem__


class Table(ChangelogTable):
    """A `ChangelogTable` without Faust, whose sends a test answers."""

    app = data = changelog_topic = None

    def __init__(self):
        self._folded, self._newest, self._hidden = {}, {}, {}
        self.key_serializer = self.value_serializer = "raw"
        self.sent = []
        self.data = FakeData({b"k": b"old"})
        self.assigned = {PLACE}
        self.app = types.SimpleNamespace(
            pending_writes=PendingWrites(),
            consumer=types.SimpleNamespace(assignment=lambda: self.assigned),
        )
        self.changelog_topic = types.SimpleNamespace(
            get_topic_name=lambda: PLACE.topic, send_soon=self.send_soon
        )

    def send_soon(self, *, value, partition, headers, **_):
        """As a topic's: a future that a test answers."""
        future = asyncio.get_running_loop().create_future()
        future.message = types.SimpleNamespace(partition=partition, headers=headers)
        self.sent.append((value, future))
        return future


@pytest.fixture
def table(monkeypatch):
    """A table whose changelog is the test's."""
    monkeypatch.setattr(changelog_table, "RETRY_SECONDS", 0)
    return Table()


def restore(table, monkeypatch, *rows, key=b"k"):
    """Restore *rows* (offset, folded) of *key*; return the offsets of those that were taken."""
    taken = []
    monkeypatch.setattr(
        changelog_table.faust.Table,
        "apply_changelog_batch",
        lambda _, events: taken.extend(event.message.offset for event in events),
    )
    table.apply_changelog_batch(
        types.SimpleNamespace(
            key=key,
            message=types.SimpleNamespace(
                tp=PLACE, partition=PLACE.partition, offset=offset, headers=headers
            ),
        )
        for offset, headers in rows
    )
    return taken


def folded(offset, topic="acks"):
    """Return the headers of a row that was folded from the record at that offset."""
    return [("folded", f"{topic}:{offset}".encode())]


async def settle():
    """Let every task run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_wait(table):
    """A wait ends when the rows sent before it are in the changelog, not those sent later."""
    table.send_changelog(1, b"k", b"old")
    waiting = asyncio.ensure_future(table.app.pending_writes.wait())
    await settle()
    table.send_changelog(1, b"k", b"new")
    assert not waiting.done()

    table.sent[0][1].set_result(None)
    await settle()

    assert waiting.done()
    table.sent[1][1].set_result(None)
    await table.app.pending_writes.wait()


async def test_refused(table):
    """A row that Kafka refused is sent again with its current value, until Kafka has it."""
    table.send_changelog(1, b"k", b"old")
    waiting = asyncio.ensure_future(table.app.pending_writes.wait())
    table.data[b"k"] = b"new"
    for _ in range(2):
        table.sent[-1][1].set_exception(TimeoutError())
        await settle()
    assert not waiting.done()

    table.sent[-1][1].set_result(None)
    await settle()

    assert waiting.done()
    assert [b"old", b"new", b"new"] == [value for value, _ in table.sent]


async def test_refused_and_gone(table):
    """A refused row of a revoked partition is not sent: another worker has a newer one."""
    table.send_changelog(1, b"k", b"old")
    table.assigned = set()
    table.sent[0][1].set_exception(TimeoutError())

    await table.app.pending_writes.wait()

    assert 1 == len(table.sent)


async def test_stopped(table):
    """A worker that stops before the changelogs are written commits nothing."""
    table.send_changelog(1, b"k", b"old")
    waiting = asyncio.ensure_future(table.app.pending_writes.wait())
    await settle()
    table.sent[0][1].cancel()

    with pytest.raises(ProducerSendError, match="stops"):
        await waiting


async def test_commit(table, monkeypatch):
    """The consumer commits source records only when the changelogs have their rows."""
    consumer = object.__new__(OrderedCommitConsumer)
    consumer.app = types.SimpleNamespace(
        pending_writes=table.app.pending_writes, settings=types.SimpleNamespace(topic_prefix="")
    )
    committed = []

    async def commit(_, offsets, **_options):
        committed.append(offsets)

    async def nothing(*_):
        pass

    monkeypatch.setattr(OrderedCommitConsumer, "_filter_committable_offsets", lambda *_: {PLACE: 7})
    monkeypatch.setattr(OrderedCommitConsumer, "_commit_offsets", commit)
    monkeypatch.setattr(OrderedCommitConsumer.__mro__[1], "_handle_attached", nothing)
    table.send_changelog(1, b"k", b"row")
    committing = asyncio.ensure_future(consumer._commit_tps([PLACE], start_new_transaction=False))
    await settle()
    assert [] == committed

    table.sent[0][1].set_result(None)
    await committing

    assert [{PLACE: 7}] == committed
    table.send_changelog(1, b"k", b"newer")
    await consumer._handle_attached({TP("data-blocks", 0): 3})  # blocks need no changelog


def test_late_row(table, monkeypatch):
    """A row that a worker sent before it lost the partition, and that came late, is ignored."""
    rows = [(5, folded(10)), (6, folded(11)), (7, folded(9)), (8, folded(3, "status"))]
    assert [5, 6, 8] == restore(table, monkeypatch, *rows)
    assert {PLACE: 8} == table.data.persisted
    assert [10] == restore(table, monkeypatch, (9, folded(10)), (10, folded(11)))


@pytest.mark.parametrize(
    "headers", [None, [], [("folded", b"")], [("folded", b"acks:x")], [("folded", b"\xff:1")]]
)
def test_row_of_another_version(table, monkeypatch, headers):
    """A row without the header is restored, at any position."""
    assert [5, 6, 7] == restore(table, monkeypatch, (5, folded(10)), (6, headers), (7, headers))


async def test_restored_anew(table, monkeypatch):
    """After a rebalance, rows are restored again and compared anew."""
    assert [5] == restore(table, monkeypatch, (5, folded(10)))

    async def nothing(*_):
        pass

    monkeypatch.setattr(changelog_table.faust.Table, "on_rebalance", nothing)
    await table.on_rebalance(set(), set(), set(), 2)

    assert [4, 5] == restore(table, monkeypatch, (4, folded(9)), (5, folded(10)))


@pytest.fixture
def recovered(monkeypatch):
    """Let Faust's own part of a completed recovery succeed."""

    async def nothing(*_):
        pass

    monkeypatch.setattr(changelog_table.faust.Table, "on_recovery_completed", nothing)


@pytest.mark.usefixtures("recovered")
async def test_row_behind_a_late_one(table, monkeypatch):
    """A row that a late row hides is sent again: compaction would keep only the late one."""
    restore(table, monkeypatch, (5, folded(10)), (6, folded(9)))
    table.data[b"k"] = b"newest"
    await table.on_recovery_completed({PLACE}, set())

    ((value, future),) = table.sent
    assert (b"newest", 1) == (value, future.message.partition)
    assert {"folded": b"acks:10"} == future.message.headers

    waiting = asyncio.ensure_future(table.app.pending_writes.wait())
    await settle()
    assert not waiting.done()  # commits wait for it as well
    future.set_result(None)
    await waiting
    await table.on_recovery_completed({PLACE}, set())
    assert 1 == len(table.sent)


@pytest.mark.usefixtures("recovered")
async def test_row_that_was_written_again(table, monkeypatch):
    """A late row hides nothing if a newer row followed it."""
    restore(table, monkeypatch, (5, folded(10)), (6, folded(9)), (7, folded(10)))
    restore(table, monkeypatch, (8, folded(9)), key=b"of nobody")
    await table.on_recovery_completed({PLACE}, set())

    assert [] == table.sent


@pytest.mark.parametrize(
    ("known", "begun"), [(None, None), (0, -1), (499, -1), (500, 0), (501, 1), (9_000, 8_500)]
)
def test_looks_back(table, known, begun):
    """A recovery begins some rows earlier, so that late rows can be recognized."""
    if known is not None:
        table.data.persisted[PLACE] = known

    assert begun == table.persisted_offset(PLACE)


@pytest.mark.parametrize(
    ("known", "written", "noted"), [(None, 0, 0), (7, 8, 8), (7, 12, 7), (None, 3, None)]
)
def test_how_far(table, known, written, noted):
    """If other rows came in between, the persisted offset does not pass them."""
    if known is not None:
        table.data.persisted[PLACE] = known
    metadata = types.SimpleNamespace(topic_partition=PLACE, offset=written)
    table._on_changelog_sent(types.SimpleNamespace(result=lambda: metadata))

    assert noted == table.data.persisted.get(PLACE)


async def test_folded_again(table, monkeypatch):
    """A row of a record that is folded again has the newest offset in its header: it is not late.

    Its record was folded before a crash, and not committed; nobody knows whether all rows that
    were made then have arrived.
    """
    restore(table, monkeypatch, (5, folded(10)), (6, folded(8, "status")))
    event = types.SimpleNamespace(message=types.SimpleNamespace(topic="acks", offset=9))
    monkeypatch.setattr(changelog_table, "current_event", lambda: event)
    for event.message.topic, event.message.offset in [
        ("acks", 9), ("status", 7), ("status", 9), ("acks", 12), ("acks", 11), ("other", 3)
    ]:  # fmt: skip
        table.send_changelog(1, b"k", b"row")

    said = [future.message.headers["folded"] for _, future in table.sent]
    assert [b"acks:10", b"status:8", b"status:9", b"acks:12", b"acks:12", b"other:3"] == said


async def test_says_what_was_folded(table, monkeypatch):
    """A row's header names its source record; that of a row sent again, the newest one."""
    event = types.SimpleNamespace(message=types.SimpleNamespace(topic="acks", offset=4))
    monkeypatch.setattr(changelog_table, "current_event", lambda: event)
    table.send_changelog(1, b"k", b"old")
    event.message.offset = 5
    table.send_changelog(1, b"l", b"row")
    table.sent[0][1].set_exception(TimeoutError())
    await settle()

    assert [b"acks:4", b"acks:5", b"acks:5"] == [
        future.message.headers["folded"] for _, future in table.sent
    ]
    for _, future in table.sent[1:]:
        future.set_result(None)
    await table.app.pending_writes.wait()
