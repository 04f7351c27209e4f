"""Which block comes next, and how long a failed one rests."""

from hypothesis import given
from hypothesis import strategies as st

from streamapp.producer.model import Block, File
from streamapp.producer.send_queue import LOOK_AHEAD, MAX_BACKOFF_SECONDS, SendQueue, backoff
from tests.unit.deliveries import source


def block(number, partition=0):
    """A block of some file."""
    return Block(File(source(), 1000), number, partition)


@given(
    tries=st.integers(1, 1000),
    base=st.floats(0.001, 3600),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_backoff_is_bounded(tries, base, chance):
    """It doubles with each attempt, at least half of it is sure, and it has a ceiling."""
    longest = min(MAX_BACKOFF_SECONDS, base * 2.0 ** min(tries - 1, 32))

    assert longest / 2 <= backoff(tries, base, chance) <= longest


def test_scheduled_first():
    """A scheduled block that is due comes before fresh ones, and not sooner."""
    fresh, scheduled = block(0), block(1)
    queue = SendQueue(iter([fresh]))
    queue.schedule(scheduled, due=5.0)

    assert [fresh, None, scheduled, None] == [
        queue.take(now, (), with_fresh=True) for now in (4.9, 4.9, 5.0, 5.0)
    ]


def test_partition_in_use():
    """A block whose partition is in use waits, and the next that can go goes first."""
    first, second = block(0, partition=1), block(1, partition=2)
    queue = SendQueue(iter([first, second]))

    assert second is queue.take(0.0, {1}, with_fresh=True)
    assert queue.take(0.0, {1}, with_fresh=True) is None
    assert first is queue.take(0.0, {2}, with_fresh=True)


def test_scheduled_on_a_partition_in_use():
    """The same for scheduled blocks: none is lost while it is passed over."""
    scheduled = [block(n, partition=n % 2) for n in range(4)]
    queue = SendQueue(iter([]))
    for each in scheduled:
        queue.schedule(each, due=0.0)
    taken = [queue.take(1.0, {0}, with_fresh=False) for _ in range(3)]
    taken += [queue.take(1.0, {1}, with_fresh=False) for _ in range(3)]

    assert [scheduled[1], scheduled[3], None, scheduled[0], scheduled[2], None] == taken


def test_looks_ahead_a_little():
    """Only so many blocks are planned before they are needed."""
    planned = iter(block(n) for n in range(1000))
    queue = SendQueue(planned)
    queue.take(0.0, (), with_fresh=True)

    assert LOOK_AHEAD == next(planned).number
