"""The rules of a delivery: which blocks are sent, sent again, failed or done."""

from collections import Counter

import pytest

from hypothesis import given
from hypothesis import strategies as st

from streamapp.producer.model import Phase
from streamapp.protocol import fileplan
from tests.unit.deliveries import (
    BLOCK,
    FIRST_ATTEMPT,
    GRACE,
    PARTITIONS,
    ack,
    delivery,
    digest,
    kinds,
    only_file,
    send,
    source,
    status,
    view,
)


WEEK = 7 * 24 * 3600.0


@given(sizes=st.lists(st.integers(0, 95), min_size=1, max_size=6))
def test_every_block_is_taken_once(sizes):
    """For any files, each block is taken once, and never on a busy partition."""
    made = delivery(*(source(f"f{n}", size) for n, size in enumerate(sizes)))
    taken, busy = [], set()
    while (block := made.take(0.0, busy)) or busy:
        if block is None:
            busy.clear()
            continue
        assert block.partition not in busy
        busy.add(block.partition)
        taken.append(block.key)

    wanted = {(f.source.file_id, n) for f in made.files.values() for n in range(f.blocks)}
    assert len(taken) == len(wanted)
    assert wanted == set(taken)


class Chaos:
    """Kafka and a group that answer anything: unasked, twice, in any order."""

    def __init__(self, sizes):
        self.made = delivery(*(source(f"f{n}", size) for n, size in enumerate(sizes)))
        self.files = list(self.made.files.values())
        self.attempts = []
        self.now = 0.0

    def place(self, number):
        """Some file and some block of it."""
        file = self.files[number % len(self.files)]
        return file, number % file.blocks

    def attempt(self, number):
        """Some attempt that was begun, perhaps long ago."""
        return self.attempts[number % len(self.attempts)]

    def take(self, number):
        """Begin an attempt."""
        if block := self.made.take(self.now, {number % PARTITIONS}):
            self.attempts.append((block, block.attempt))

    def persisted(self, number):
        """A machine acknowledges a block."""
        self.made.acknowledged(ack(*self.place(number)), self.now)

    def lost(self, number):
        """A machine reports that a block is lost."""
        self.made.acknowledged(ack(*self.place(number), "lost"), self.now)

    def rejected(self, number):
        """A machine rejects an attempt."""
        block, attempt = self.attempt(number)
        self.made.acknowledged(ack(block.file, block.number, "rejected", attempt), self.now)

    def sent(self, number):
        """Kafka has an attempt."""
        block, attempt = self.attempt(number)
        self.made.sent(block, attempt, (number, number + 3), digest(block.number))

    def refused(self, number):
        """Kafka refuses an attempt."""
        self.made.retry(*self.attempt(number), "Kafka said no", self.now)

    def look(self, number):
        """The group has committed, and Kafka has deleted, up to somewhere."""
        self.made.look(view(committed=number * 10, starts=number), self.now)

    def change(self, number):
        """A file changes."""
        if number == 0:
            self.made.abort(self.files[0], "changed", "it grew")

    def settle(self):
        """From now on, everything that is sent is stored and acknowledged."""
        while not self.made.is_done:
            self.now += 100.0
            for partition in (0, 1):  # one of them is not in use
                self.take(partition)
            for number in range(len(self.attempts)):
                self.sent(number)
            for block in self.made.in_flight:
                if block.phase is Phase.SENT:
                    self.made.acknowledged(ack(block.file, block.number), self.now)
            self.check()

    def check(self):
        """The counters are correct, and a delivery that is done has every block."""
        left = sum(
            not (file.is_persisted(number) or number in (file.failed or ()))
            for file in self.files
            if not file.is_aborted
            for number in range(file.blocks)
        )
        assert left == self.made._left == sum(file.left for file in self.files)
        assert self.made._busy == sum(file.busy for file in self.files)
        assert self.made.is_done == (left == 0)


STEPS = ["take", "sent", "persisted", "lost", "rejected", "refused", "look", "change"]


@given(
    sizes=st.lists(st.integers(0, 45), min_size=1, max_size=4),
    steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 50)), max_size=80),
)
def test_any_order_repetition_and_loss(sizes, steps):
    """Whatever comes in any order, the delivery ends, and done means that all is stored."""
    chaos = Chaos(sizes)
    for what, number in steps:
        chaos.now += 1.0
        if chaos.attempts or what not in {"sent", "rejected", "refused"}:
            getattr(chaos, what)(number)
        chaos.check()
    chaos.settle()

    for file in chaos.files:
        is_whole = all(file.is_persisted(number) for number in range(file.blocks))
        assert is_whole == (file.state == "complete") or file.is_aborted
        assert is_whole or file.failed or file.is_aborted


def test_waiting_is_no_reason():
    """Without commits beyond the block, a week without an answer sends nothing again."""
    made = delivery()
    sent = [send(made) for _ in range(3)]
    for is_up in (False, True, None):
        for now in (0.0, WEEK):
            made.look(view(committed=109, starts=100, is_group_up=is_up), now)
        for now in (WEEK, 2 * WEEK):
            made.look(view(is_group_up=is_up), now)

    assert made.take(3 * WEEK, ()) is None
    assert [1, 1, 1] == [block.tries for block in sent]


def test_passed_over():
    """A block is sent again if the group committed beyond it some time ago."""
    made = delivery(source(size=5))
    block = send(made, offsets=(100, 109))
    made.look(view(committed=110), 0.0)
    made.look(view(committed=110), GRACE - 0.1)
    assert made.take(WEEK, ()) is None

    made.look(view(committed=110), GRACE)
    again = made.take(GRACE + 1.0, ())

    assert block is again
    assert (FIRST_ATTEMPT + 1, 2) == (again.attempt, again.tries)


def test_passed_over_twice():
    """The time is counted from the newest attempt."""
    made = delivery(source(size=5))
    block = send(made)
    for now in (0.0, GRACE):
        made.look(view(committed=110), now)
    assert block is send(made, 2 * GRACE, offsets=(200, 209))

    made.look(view(committed=210), 3 * GRACE)

    assert made.take(WEEK, ()) is None


def test_acknowledged_in_time():
    """An acknowledgement that comes soon after the commit ends the wait."""
    made = delivery(source(size=5))
    send(made)
    made.look(view(committed=110), 0.0)
    made.acknowledged(ack(only_file(made), 0), 1.0)
    made.look(view(committed=110), WEEK)

    assert made.is_done
    assert made.take(2 * WEEK, ()) is None


def test_commit_that_went_back():
    """If the group's commit goes back behind the block, the time is counted anew."""
    made = delivery(source(size=5))
    send(made)
    for now, committed in [(0.0, 110), (10.0, 50), (20.0, 110), (30.0, 110)]:
        made.look(view(committed=committed), now)

    assert made.take(WEEK, ()) is None


def test_commits_of_another_topic():
    """A commit beyond the end of the log is of a topic that was deleted, and is ignored."""
    made = delivery(source(size=5))
    send(made)
    for now in (0.0, WEEK):
        made.look(view(committed=500, end=110), now)

    assert made.take(2 * WEEK, ()) is None


@pytest.mark.parametrize(("is_up", "tries"), [(True, 2), (None, 2), (False, 1)])
def test_deleted_by_retention(is_up, tries):
    """What Kafka deleted is sent again, but not while no machine is up to read it."""
    made = delivery(source(size=5))
    block = send(made, offsets=(100, 109))
    for now in (0.0, WEEK):
        made.look(view(starts=101, is_group_up=is_up), now)
    made.take(2 * WEEK, ())

    assert tries == block.tries


def test_offsets_that_kafka_did_not_say():
    """If Kafka returned no offset, the end of the log is used: a resend is later, not missed."""
    made = delivery(source(size=5))
    block = send(made, offsets=(-1, -1))
    made.look(view(end=200), 0.0)
    for now in (1.0, WEEK):
        made.look(view(committed=200, end=300), now)

    assert block is made.take(2 * WEEK, ())


def test_rejected():
    """A rejected block is sent again after a pause; the rest of its attempt is not sent."""
    made = delivery(source(size=5))
    block = made.take(0.0, ())
    made.acknowledged(ack(block.file, 0, "rejected"), 0.0)

    assert not block.is_wanted(FIRST_ATTEMPT)
    assert made.take(0.4, ()) is None
    assert block is made.take(1.0, ())
    assert ["announced", "BlockResent"] == kinds(made)


def test_rejected_before():
    """A rejection of an older attempt does not end the current one."""
    made = delivery(source(size=5))
    block = send(made)
    made.acknowledged(ack(block.file, 0, "rejected", FIRST_ATTEMPT - 1), 0.0)

    assert made.take(WEEK, ()) is None


def test_given_up():
    """After the last attempt a block is reported as failed; the other blocks are sent."""
    made = delivery(source(size=15))
    bad = made.take(0.0, ())
    for now in (0.0, 100.0, 200.0):
        made.acknowledged(ack(bad.file, bad.number, "rejected", bad.attempt), now)
        made.take(now + 50.0, {bad.partition + 1})
    good = send(made, 300.0)
    made.acknowledged(ack(good.file, good.number), 300.0)

    assert made.is_done
    assert "failed" == good.file.state
    assert {bad.number: "w1 rejected it: because"} == good.file.failed
    assert {"BlockResent": 2, "BlockFailed": 1, "failed": 1}.items() <= Counter(kinds(made)).items()


def test_stored_after_all():
    """An acknowledgement that arrives after the block failed makes the file complete."""
    made = delivery(source(size=5), max_attempts=1)
    block = send(made)
    made.acknowledged(ack(block.file, 0, "rejected"), 0.0)
    assert "failed" == block.file.state

    made.acknowledged(ack(block.file, 0), 0.0)

    assert "complete" == block.file.state
    assert made.is_done


@pytest.mark.parametrize("when", ["before", "after"])
def test_lost(when):
    """A stored block that a machine lost is sent again, even if its file was complete."""
    made = delivery(source(size=5), begun=False)
    file = only_file(made)
    if when == "before":
        made.acknowledged(ack(file, 0), 0.0)
        made.begin()
    else:
        made.begin()
        send(made)
        made.acknowledged(ack(file, 0), 0.0)
    assert made.is_done
    made.acknowledged(ack(file, 0, "lost"), 1.0)
    assert not made.is_done

    send(made, 1.0)
    made.acknowledged(ack(file, 0), 2.0)

    assert made.is_done
    assert "complete" == file.state


def test_lost_and_given_up():
    """A lost block that failed while it was queued is not sent."""
    made = delivery(source("first", 395), source("then", 5), begun=False, max_attempts=1)
    first, then = made.files.values()
    made.acknowledged(ack(then, 0), 0.0)
    made.begin()
    made.acknowledged(ack(then, 0, "lost"), 0.0)
    block = send(made)
    made.acknowledged(ack(then, 0, "rejected", block.attempt), 0.0)
    taken = []
    while (block := made.take(0.0, ())) is not None:
        taken.append(block)

    assert [(first, number) for number in range(40)] == [(b.file, b.number) for b in taken]


def test_rejection_does_not_undo():
    """A persisted block stays persisted when another machine rejects a copy."""
    made = delivery(source(size=5))
    block = send(made)
    made.acknowledged(ack(block.file, 0), 0.0)
    made.acknowledged(ack(block.file, 0, "rejected"), 0.0)

    assert made.is_done
    assert "complete" == block.file.state


def test_second_run():
    """What was acknowledged before is neither sent nor counted; the rest of a file is sent."""
    made = delivery(source("whole", 15), source("half", 25), begun=False)
    whole, half = made.files.values()
    for file, number in [(whole, 0), (whole, 1), (half, 1)]:
        made.acknowledged(ack(file, number, attempt=1), 0.0)
    made.begin()

    assert ("skipped", "waiting") == (whole.state, half.state)
    assert 15 == made.bytes_wanted
    assert {0, 2} == {made.take(0.0, ()).number for _ in range(2)}
    assert made.take(0.0, ()) is None


@pytest.mark.parametrize("is_recorded", [True, False])
def test_recorded_as_complete(is_recorded):
    """If a delivered file has no status record, because its producer died, it gets one."""
    made = delivery(source(size=5), begun=False)
    file = only_file(made)
    made.acknowledged(ack(file, 0), 0.0)
    if is_recorded:
        made.recorded(status(file))
    made.begin()

    assert ([] if is_recorded else [file]) == list(made.touched.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"file_id": "0" * 32},
        {"blocks": 9},
        {"sha256": ""},
    ],
)
def test_foreign_acknowledgement(changes):
    """An acknowledgement of another file, or with wrong sizes, changes nothing."""
    made = delivery()
    made.acknowledged(ack(only_file(made), 0, **changes), 0.0)

    assert not only_file(made).is_persisted(0)


def test_changed():
    """After a file changed, no block of it is sent or waited for; other files are sent."""
    made = delivery(source("changes", 95), source("stays", 5))
    changes, stays = made.files.values()
    block = made.take(0.0, ())
    made.abort(changes, "changed", "it grew")

    assert not block.is_wanted(block.attempt)
    assert 5 == made.bytes_wanted
    assert stays is send(made).file
    made.acknowledged(ack(stays, 0), 0.0)
    made.acknowledged(ack(changes, 0), 0.0)
    assert made.is_done
    assert ("changed", "complete") == (changes.state, stays.state)


def test_without_waiting():
    """Without waiting for the group, a file is done when Kafka has it."""
    made = delivery(wait=False)
    for _ in range(3):
        assert not made.is_done
        send(made)

    assert made.is_done
    assert "sent" == only_file(made).state
    assert ["announced", "sent"] == kinds(made)


def test_states_of_a_file():
    """A file is announced, sent when Kafka has all of it, complete when the group has."""
    made = delivery()
    file = only_file(made)
    for _ in range(3):
        send(made)
    for number in range(3):
        made.acknowledged(ack(file, number), 0.0)

    assert ["announced", "sent", "complete"] == kinds(made)
    assert fileplan.file_digest(digest(n) for n in range(3)) == file.version.file_digest()


def test_huge_file():
    """The blocks of a file of a million blocks are made one by one."""
    made = delivery(source(size=BLOCK << 20))
    for _ in range(3):
        send(made)

    assert 3 == len(made.in_flight)
    assert len(made._queue._ahead) <= 32


def test_unacknowledged_blocks_are_bounded(monkeypatch):
    """At the limit of blocks in flight no fresh block is taken, but blocks are sent again."""
    monkeypatch.setattr("streamapp.producer.in_flight.MAX_UNACKNOWLEDGED", 2)
    made = delivery(source(size=95))
    first = send(made)
    send(made)
    assert made.take(0.0, ()) is None

    made.acknowledged(ack(first.file, first.number, "rejected"), 0.0)

    assert first is made.take(10.0, ())
