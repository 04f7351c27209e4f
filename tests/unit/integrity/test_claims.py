"""A block that another machine has is settled without a second copy, and never on a stale claim."""

import asyncio
import hashlib
import inspect
import threading
import time

from types import SimpleNamespace

import pytest

from hypothesis import given
from hypothesis import strategies as st

from streamapp.integrity import claims as claims_module
from streamapp.integrity.claims import Claims
from streamapp.integrity.inventory import Differences
from streamapp.kafka import clients, groups
from streamapp.protocol import messages, topics
from streamapp.protocol.messages import BlockAck, Heartbeat
from streamapp.protocol.presence import Roster
from streamapp.receiver.context import ClaimLookup
from streamapp.settings import Settings
from tests.fake_kafka import FakeKafka, Message
from tests.fakes import FakeClaims
from tests.unit.receivers import DATA, FILE_ID, expire, pieces
from tests.waiting import eventually


SHA256 = hashlib.sha256(DATA).hexdigest()


def ack(block=0, *, machine="other", outcome="persisted", group="g", sha256=SHA256):
    """Return an acknowledgement."""
    return BlockAck(
        file_id=FILE_ID, block=block, blocks=1 << 17, group=group, machine=machine,
        outcome=outcome, attempt=1, size=len(DATA), sha256=sha256, folder="f" * 32,
    )  # fmt: skip


@pytest.fixture
def known():
    """The claims of a worker that is called m, of group g."""
    return Claims(Settings(machine_id="m", group_id="g"), Roster("g"))


# --- which claims are known


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from(["m", "n", "o"]),
            st.sampled_from(["persisted", "persisted", "lost", "rejected"]),
            st.sampled_from(["g", "g", "h"]),
        )
    )
)
def test_as_the_inventory(taken):
    """A worker's claims and a machine's inventory agree on which machine has a block."""
    known = Claims(Settings(machine_id="m", group_id="g"), Roster("g"))
    inventories = {name: Differences((), group="g", machine=name) for name in ("m", "n", "o")}
    for block, machine, outcome, group in taken:
        one = ack(block, machine=machine, outcome=outcome, group=group)
        for follower in (known, *inventories.values()):
            follower.take(one)

    for block in range(3):
        claim = known.of(FILE_ID, block)
        holders = {name for name, i in inventories.items() if (FILE_ID, block) in i.missing}
        assert holders - {"m"} == ({claim.machine} if claim else set())
        assert len(holders) <= 1


def test_newest_counts(known):
    """The newest acknowledgement of the group says who has a block; ours are no claims."""
    for one in (ack(), ack(1), ack(2), ack(2, machine="m"), ack(3, group="h"), ack(4)):
        known.take(one)
    known.take(ack(1, outcome="lost"))
    known.take(ack(4, outcome="rejected"))

    found = {block: known.of(FILE_ID, block) for block in range(5)}
    assert ["other", None, None, None, "other"] == [c and c.machine for c in found.values()]
    assert (SHA256, "f" * 32) == (found[0].sha256, found[0].folder)


def test_memory_is_bounded(known, monkeypatch):
    """The oldest claims are forgotten."""
    monkeypatch.setattr(claims_module, "MAX_CLAIMS", 3)
    for block in (0, 1, 2, 0, 3):
        known.take(ack(block))
    assert [0, 2, 3] == [block for block in range(4) if known.of(FILE_ID, block)]


def test_machines_are_heard(known):
    """All machines of the group are known by their heartbeats until they are forgotten.

    Another worker under this machine id is reported only for its new heartbeats: those on the
    topic at the start may be of this worker's own earlier run.
    """
    own, spoken = [], {"state": "running", "at": time.time()}
    known._on_heartbeat = own.append
    earlier = Heartbeat(machine="m", group="g", **spoken)
    known._take_all([heartbeat(earlier), heartbeat(Heartbeat(machine="w2", group="g", **spoken))])
    known._is_caught_up = True
    later = Heartbeat(machine="m", group="g", start_id="f" * 32, **spoken)
    known._take_all([heartbeat(later), heartbeat(Heartbeat(machine="h", group="h", **spoken))])

    assert [later] == own
    assert ["m", "w2"] == [m.heartbeat.machine for m in known._roster.machines]
    known._take_all([Message(topics.STATUS, 0, 5, key=b"w2:h")])
    assert ["m", "w2"] == [m.heartbeat.machine for m in known._roster.machines]
    known._take_all([Message(topics.STATUS, 0, 6, key=b"w2:g")])
    assert ["m"] == [m.heartbeat.machine for m in known._roster.machines]


def heartbeat(record):
    """Return *record* as a message of the status topic."""
    return Message(topics.STATUS, 0, 0, key=record.machine.encode(), value=messages.encode(record))


async def test_kafka_that_does_not_answer(known, monkeypatch):
    """A wait for the newest claims is short, and blocks no thread that other code needs."""
    monkeypatch.setattr(claims_module, "CONFIRM_SECONDS", 0.2)
    answered = threading.Event()
    monkeypatch.setattr(groups, "ends", lambda *_: answered.wait(30))
    monkeypatch.setattr(Claims, "_admin", None)
    known._follower = SimpleNamespace(positions={})
    waiting = [asyncio.ensure_future(known.catch_up()) for _ in range(40)]
    try:
        assert await asyncio.wait_for(asyncio.to_thread(lambda: True), 10)
        assert [False] * 40 == await asyncio.wait_for(asyncio.gather(*waiting), 10)
    finally:
        answered.set()


@pytest.fixture
def followed(known, monkeypatch):
    """A Kafka in memory whose acknowledgements *known* follows in a thread."""
    fake, stop = FakeKafka(group="g"), threading.Event()
    monkeypatch.setattr(clients, "consumer", fake.consumer)
    monkeypatch.setattr(clients, "admin", fake.admin)
    fake.append(topics.ACKS, 0, messages.encode(ack(1)))
    fake.append(topics.ACKS, 0, messages.encode(ack()))
    silent = {"on_lost": lambda _: None, "on_heartbeat": lambda _: None}
    thread = threading.Thread(target=lambda: known.follow(stop, **silent))
    thread.start()
    yield fake
    stop.set()
    thread.join()


async def test_topic_that_is_another_one(known, followed):
    """Records of a deleted topic confirm nothing; its replacement is followed."""
    assert await known.catch_up()
    assert known.of(FILE_ID, 0)

    followed.logs.clear()
    followed.append(topics.ACKS, 0, messages.encode(ack(2)))

    assert not await known.catch_up()
    await eventually(lambda: known.of(FILE_ID, 0) is None)
    assert await known.catch_up()
    assert known.of(FILE_ID, 2)


# --- what a receiver does with them


async def test_settled_without_a_copy(partition, context, store):
    """A block that another machine has is done, and neither written nor acknowledged here."""
    context.claims.claim(FILE_ID, 0, SHA256)
    await partition.put(*pieces())

    assert (list(range(4)), []) == (context.done, context.acks)
    assert store.stored(FILE_ID, 0) is None
    assert 1 == context.stats.elsewhere
    assert context.claims.catch_ups


async def test_nothing_is_done_before_the_end(partition, context):
    """Its frames are not done before its last frame shows that it is the same block."""
    context.claims.claim(FILE_ID, 0, SHA256)
    await partition.put(*pieces()[:3])
    assert [] == context.done


async def test_revoked_before_it_begins(partition, context):
    """A claim that is revoked on the topic counts for nothing, also where it is known here yet."""
    context.claims.claim(FILE_ID, 0, SHA256)
    context.claims.revoked.add((FILE_ID, 0))
    await partition.put(*pieces())
    assert ["persisted"] == context.outcomes


async def test_revoked_meanwhile(partition, context):
    """A claim that is revoked before the last frame settles nothing: the attempt is rejected."""
    context.claims.claim(FILE_ID, 0, SHA256)
    await partition.put(*pieces()[:3])
    context.claims.revoked.add((FILE_ID, 0))
    await partition.put(pieces()[3])

    assert ["rejected"] == context.outcomes
    assert 0 == context.stats.elsewhere
    await partition.put(*pieces(attempt=2))
    assert ["rejected", "persisted"] == context.outcomes


async def test_another_content(partition, context):
    """If the other machine has other content, the attempt is rejected with that reason."""
    context.claims.claim(FILE_ID, 0, "0" * 64)
    await partition.put(*pieces())
    assert ["rejected"] == context.outcomes
    assert "0" * 64 == context.acks[0].sha256


async def test_out_of_reach(partition, context):
    """While Kafka does not say what is acknowledged, a block is written: twice is no loss."""
    context.claims.claim(FILE_ID, 0, SHA256)
    context.claims.is_reachable = False
    await partition.put(*pieces())
    assert ["persisted"] == context.outcomes


async def test_out_of_reach_at_the_end(partition, context):
    """A claim that cannot be confirmed at the end settles nothing."""
    context.claims.claim(FILE_ID, 0, SHA256)
    await partition.put(*pieces()[:3])
    context.claims.is_reachable = False
    await partition.put(pieces()[3])
    assert ["rejected"] == context.outcomes


async def test_the_rest_does_not_come(partition, context, clock):
    """Frames whose last one never comes are done when the other machine has the block."""
    context.claims.claim(FILE_ID, 0, SHA256)
    await partition.put(*pieces()[:3])
    await expire(partition, clock)
    await expire(partition, clock)
    assert ([0, 1, 2], []) == (context.done, context.acks)


async def test_asked_anew_after_a_rebalance(partition, context):
    """Claims from before the partition was assigned are read before a block begins."""
    await partition.put(*pieces())
    before = context.claims.catch_ups
    await partition.put(*pieces(attempt=2))
    assert before == context.claims.catch_ups
    partition.rewind(0)
    context.store = SimpleNamespace(stored=lambda *_: None)
    context.claims.claim(FILE_ID, 0, SHA256)
    await partition.put(*pieces())
    assert context.claims.catch_ups > before


@pytest.mark.parametrize("claims", [Claims, FakeClaims])
def test_claims_are_what_a_receiver_asks_for(claims):
    """The claims of a worker, and those of the tests, have the methods of `ClaimLookup`."""
    wanted = {name: f for name, f in vars(ClaimLookup).items() if name in {"of", "catch_up"}}
    assert 2 == len(wanted)
    for name, method in wanted.items():
        found = getattr(claims, name)
        assert [*inspect.signature(method).parameters] == [*inspect.signature(found).parameters]
        assert inspect.iscoroutinefunction(method) == inspect.iscoroutinefunction(found)
