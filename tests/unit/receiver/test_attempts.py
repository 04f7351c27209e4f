"""The attempts of one partition: which phase may follow which, and which attempts are found."""

import itertools

import pytest

from streamapp.receiver.attempts import (
    Attempts,
    Closed,
    Elsewhere,
    Ending,
    Orphaned,
    Repeated,
    Writing,
)
from streamapp.receiver.context import AttemptId


ID = AttemptId("f" * 32, 7, 1)
PHASES = {
    Orphaned: Orphaned(),
    Writing: Writing(None, None),
    Repeated: Repeated(None),
    Elsewhere: Elsewhere(None, None),
    Ending: Ending(),
    Closed: Closed(),
}
ALLOWED = {
    (Orphaned, Writing),
    (Orphaned, Repeated),
    (Orphaned, Elsewhere),
    (Orphaned, Ending),
    (Orphaned, Closed),
    (Writing, Ending),
    (Writing, Closed),
    (Repeated, Ending),
    (Repeated, Closed),
    (Elsewhere, Ending),
    (Elsewhere, Closed),
    (Ending, Closed),
}


@pytest.fixture
def attempts():
    """The attempts of a partition, none yet."""
    return Attempts(lambda: 0.0)


@pytest.mark.parametrize(("before", "after"), [*itertools.product(PHASES, repeat=2)])
def test_transitions(attempts, before, after):
    """An attempt may take the transitions of the table; any other one raises AssertionError."""
    attempts.move(ID, PHASES[before])
    if (before, after) in ALLOWED:
        assert isinstance(attempts.move(ID, PHASES[after]).phase, after)
        assert (0, 1) == (attempts.count(before), attempts.count(after))
    else:
        with pytest.raises(AssertionError, match=f"{before.__name__} cannot become"):
            attempts.move(ID, PHASES[after])


def test_order_within_a_phase(attempts):
    """Attempts are listed in the order in which they entered their phase."""
    first, second = ID, ID._replace(attempt=2)
    attempts.move(first, Orphaned())
    attempts.move(second, PHASES[Repeated])
    attempts.move(first, PHASES[Repeated])

    assert [second, first] == [attempt.id for attempt in attempts.within(Repeated)]


def test_attempts_of_a_block(attempts):
    """The attempts of one block are found until they are closed or removed."""
    closed, other, removed = ID._replace(attempt=2), ID._replace(block=8), ID._replace(attempt=3)
    for attempt_id in (ID, closed, other, removed):
        attempts.move(attempt_id, Orphaned())
    attempts.move(closed, Closed())
    attempts.remove(attempts.get(removed))

    assert [ID] == [attempt.id for attempt in attempts.of_block(ID.block_id)]
    assert attempts.get(removed) is None
    assert 2 == attempts.count(Orphaned)


def test_removed_attempt_is_closed(attempts):
    """A reference to a removed attempt shows that the attempt is closed."""
    attempt = attempts.move(ID, Orphaned())
    attempts.remove(attempt)

    assert isinstance(attempt.phase, Closed)


def test_clear(attempts):
    """After a rebalance no attempt is left, and none is counted."""
    attempts.move(ID, Orphaned())
    attempts.clear()

    assert (None, 0, []) == (attempts.get(ID), attempts.count(Orphaned), attempts.within(Orphaned))
