"""``--window`` bounds the bytes in flight, whatever happens to the blocks."""

import pytest

from hypothesis import given
from hypothesis import strategies as st

from streamapp.errors import ClusterError
from streamapp.producer.model import Phase
from tests.unit.deliveries import BLOCK, ack, delivery, digest, only_file, send, source, view


def under_way(made):
    """The bytes of the blocks in flight, counted again."""
    return sum(made.size_of(block.file, block.number) for block in made.in_flight)


def answer(made, what, block, number, now):
    """Let something happen to a block that was taken, perhaps long ago."""
    if what == "s":
        made.sent(block, block.attempt, (number, number), digest(block.number))
    elif what == "a":
        made.acknowledged(ack(block.file, block.number), now)
    elif what == "r":
        made.acknowledged(ack(block.file, block.number, "rejected", block.attempt), now)
    elif what == "l":
        made.look(view(committed=number), now)


@given(
    sizes=st.lists(st.integers(0, 200), min_size=1, max_size=5),
    window=st.integers(1, 80),
    steps=st.lists(st.tuples(st.sampled_from("tsarld"), st.integers(0, 30)), max_size=120),
)
def test_never_more(sizes, window, steps):
    """Never more than the window, or one block, is in flight."""
    made = delivery(*(source(f"f{n}", size) for n, size in enumerate(sizes)), window=window)
    files, taken, now = list(made.files.values()), [], 0.0
    for what, number in steps:
        now += 100.0
        if what == "t":
            taken += filter(None, [made.take(now, ())])
        elif what == "d" and number == 0:
            made.abort(files[0], "changed", "it grew")
        elif taken:
            answer(made, what, taken[number % len(taken)], number, now)
        assert under_way(made) == made.in_flight.bytes
        assert under_way(made) <= max(window, BLOCK)

    while not made.is_done:  # and it never stands still
        now += 100.0
        block = made.take(now, ()) or next(iter(made.in_flight))
        if block.phase is Phase.SENDING:
            made.sent(block, block.attempt, (1, 1), digest(block.number))
        made.acknowledged(ack(block.file, block.number), now)
    assert 0 == made.in_flight.bytes


def test_full_window_waits():
    """When the window is full nothing new is sent, until a block of it is persisted."""
    made = delivery(source(size=10 * BLOCK), window=3 * BLOCK)
    sent = [send(made) for _ in range(3)]
    assert made.take(0.0, ()) is None

    made.acknowledged(ack(only_file(made), sent[1].number), 1.0)

    assert 3 == made.take(1.0, ()).number
    assert made.take(1.0, ()) is None


@pytest.mark.parametrize("window", [1, BLOCK - 1, BLOCK])
def test_one_block_always(window):
    """A window smaller than a block does not hold up the delivery for ever."""
    made = delivery(source(size=3 * BLOCK), window=window)
    for number in range(3):
        assert number == send(made).number
        assert made.take(0.0, ()) is None
        made.acknowledged(ack(only_file(made), number), 0.0)

    assert made.is_done


def test_lost_on_top():
    """A block that a machine lost is sent again though the window is full."""
    made = delivery(source(size=4 * BLOCK), window=BLOCK)
    send(made)
    made.acknowledged(ack(only_file(made), 0), 0.0)
    send(made)
    made.acknowledged(ack(only_file(made), 0, "lost"), 0.0)

    assert 0 == made.take(100.0, ()).number
    assert 2 * BLOCK == under_way(made)
    assert made.take(100.0, ()) is None


# --- --release


@pytest.fixture
def kafka_of(monkeypatch):
    """Makes a releaser on a Kafka that has what is given, and the list of what it deleted."""
    from concurrent.futures import Future  # noqa: PLC0415 - for this fixture alone

    from streamapp.kafka import clients, groups  # noqa: PLC0415
    from streamapp.producer.purge import RecordPurger  # noqa: PLC0415

    class Client:
        def close(self):
            """As a consumer."""

    def make(commits, ends, starts=None):
        starts = dict.fromkeys(ends, 0) | (starts or {})
        deleted = {}

        class Admin:
            def delete_records(self, wanted, request_timeout):
                assert request_timeout > 0
                done = Future()
                done.set_result(None)
                deleted.update({(p.topic, p.partition): p.offset for p in wanted})
                return dict.fromkeys(wanted, done)

        readers = {}

        def reader(_, group):
            readers[client := Client()] = group
            return client

        monkeypatch.setattr(clients, "admin", lambda _: Admin())
        monkeypatch.setattr(groups, "names", lambda _: list(commits))
        monkeypatch.setattr(groups, "reader", reader)
        monkeypatch.setattr(groups, "committed", lambda client, _: commits[readers[client]])
        monkeypatch.setattr(groups, "starts", lambda *_: starts)
        monkeypatch.setattr(groups, "ends", lambda *_: ends)
        return RecordPurger(None, list(ends)), deleted

    return make


A, B = ("data-blocks", 0), ("data-blocks", 1)


@pytest.mark.parametrize(
    ("commits", "deleted", "is_all"),
    [
        ({}, {}, False),  # nobody has read
        ({"reader": {}}, {}, False),  # a group of another topic
        ({"g": {A: 9, B: 7}}, {A: 9, B: 7}, True),
        ({"g": {A: 9}}, {A: 9}, False),  # what it never committed it may still need
        ({"g": {A: 9, B: 7}, "h": {A: 3}}, {A: 3}, False),  # the slowest of all groups
        ({"g": {A: 9, B: 7}, "other": {}}, {A: 9, B: 7}, True),
        ({"g": {A: 99, B: 7}}, {B: 7}, False),  # a commit of another life of the topic
    ],
)
def test_released(kafka_of, commits, deleted, is_all):
    """Only what every group that ever read the topic has committed is deleted."""
    purger, found = kafka_of(commits, {A: 9, B: 7})

    assert is_all == purger.release()
    assert deleted == found
    assert sum(deleted.values()) == purger.released


def test_released_before(kafka_of):
    """Records that are deleted already are not deleted again."""
    purger, found = kafka_of({"g": {A: 9, B: 7}}, {A: 9, B: 7}, starts={A: 9, B: 5})

    assert purger.release()
    assert ({B: 7}, 2) == (found, purger.released)


def test_release_goes_on(kafka_of, monkeypatch):
    """A Kafka that refuses to delete is no reason to end a delivery."""
    import threading  # noqa: PLC0415 - for this test alone

    purger, _ = kafka_of({"g": {A: 9}}, {A: 9})

    def refuse():
        stop.set()
        raise ClusterError("no")

    stop = threading.Event()
    monkeypatch.setattr(purger, "release", refuse)
    purger.finish(stop)

    assert stop.is_set()
