"""Commits wait for the changelogs, and a row that Kafka refuses is written again."""

import asyncio
import types

import pytest

from faust.exceptions import ProducerSendError
from faust.types import TP

from streamapp import changelogs
from streamapp.changelogs import Changelogs, SafeTable
from streamapp.transport import SafeConsumer


PLACE = TP("g1-files-changelog", 1)


class FakeTable:
    """What `SafeTable` stands on: sends that a test answers, and rows."""

    def __init__(self):
        self.sent = []
        self.data = {b"k": b"old"}
        self.app = types.SimpleNamespace(
            changelogs=Changelogs(),
            consumer=types.SimpleNamespace(assignment=lambda: self.assigned),
        )
        self.assigned = {PLACE}
        self.changelog_topic = types.SimpleNamespace(get_topic_name=lambda: PLACE.topic)

    def send_changelog(self, partition, _key, value, *_):
        """As Faust's: a future that a test answers."""
        future = asyncio.get_running_loop().create_future()
        future.message = types.SimpleNamespace(partition=partition)
        self.sent.append((value, future))
        return future


class Table(SafeTable):
    """`SafeTable` on that, without Faust."""

    __init__ = FakeTable.__init__
    changelog_topic = app = data = None


@pytest.fixture
def table(monkeypatch):
    """A table whose changelog is the test's."""
    monkeypatch.setattr(changelogs, "RETRY_SECONDS", 0)
    monkeypatch.setattr(changelogs.faust.Table, "send_changelog", FakeTable.send_changelog)
    return Table()


async def settle():
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_wait(table):
    """A wait ends when what was written before it is in the changelog, not what came after."""
    table.send_changelog(1, b"k", b"old")
    waiting = asyncio.ensure_future(table.app.changelogs.wait())
    await settle()
    table.send_changelog(1, b"k", b"new")
    assert not waiting.done()

    table.sent[0][1].set_result(None)
    await settle()

    assert waiting.done()
    table.sent[1][1].set_result(None)
    await table.app.changelogs.wait()


async def test_refused(table):
    """What Kafka refuses is written again, as the row is by then, until Kafka has it."""
    table.send_changelog(1, b"k", b"old")
    waiting = asyncio.ensure_future(table.app.changelogs.wait())
    table.data = {b"k": b"new"}
    for _ in range(2):
        table.sent[-1][1].set_exception(TimeoutError())
        await settle()
    assert not waiting.done()

    table.sent[-1][1].set_result(None)
    await settle()

    assert waiting.done()
    assert [b"old", b"new", b"new"] == [value for value, _ in table.sent]


async def test_refused_and_gone(table):
    """A row of a partition that is another worker's by now is not written over its newer one."""
    table.send_changelog(1, b"k", b"old")
    table.assigned = set()
    table.sent[0][1].set_exception(TimeoutError())

    await table.app.changelogs.wait()

    assert 1 == len(table.sent)


async def test_stopped(table):
    """A worker that stops before the changelogs are written commits nothing."""
    table.send_changelog(1, b"k", b"old")
    waiting = asyncio.ensure_future(table.app.changelogs.wait())
    await settle()
    table.sent[0][1].cancel()

    with pytest.raises(ProducerSendError, match="stops"):
        await waiting


async def test_commit(table, monkeypatch):
    """The consumer commits what was folded only when the changelogs have it."""
    consumer = object.__new__(SafeConsumer)
    consumer.app = types.SimpleNamespace(changelogs=table.app.changelogs)
    committed = []

    async def commit(_, offsets, **_options):
        committed.append(offsets)

    async def nothing(*_):
        pass

    monkeypatch.setattr(SafeConsumer, "_filter_committable_offsets", lambda *_: {PLACE: 7})
    monkeypatch.setattr(SafeConsumer, "_commit_offsets", commit)
    monkeypatch.setattr(SafeConsumer.__mro__[1], "_handle_attached", nothing)
    table.send_changelog(1, b"k", b"row")
    committing = asyncio.ensure_future(consumer._commit_tps([PLACE], start_new_transaction=False))
    await settle()
    assert [] == committed

    table.sent[0][1].set_result(None)
    await committing

    assert [{PLACE: 7}] == committed
