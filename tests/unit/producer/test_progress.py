"""How far a delivery is, and for how long nothing was sent or persisted."""

from types import SimpleNamespace

import pytest

from streamapp.producer.model import final_states
from streamapp.producer.progress import ProgressTracker
from streamapp.protocol.presence import Reason
from tests.unit.deliveries import ack, delivery, only_file, send


@pytest.fixture
def sender():
    """The counters of a sender."""
    return SimpleNamespace(bytes_sent=0, bytes_checked=0)


def tracker(made, sender, *, waits=True):
    """A tracker of a run that began at 100 seconds."""
    final = final_states(waits=waits)
    return ProgressTracker(made, [sender], waits=waits, final_states=final, now=100.0)


def test_sent_and_persisted(sender):
    """Bytes are counted when they are sent, and again when they are persisted."""
    made = delivery()
    progress = tracker(made, sender)
    send(made)
    sender.bytes_sent = 10
    made.acknowledged(ack(only_file(made), 0), 0.0)
    progress.measure(101.0)
    event = progress.event(None)

    assert (25, 10, 10) == (event.bytes, event.bytes_sent, event.bytes_persisted)
    assert (1, 0) == (event.files, event.files_done)


def test_no_more_than_wanted(sender):
    """Bytes that were sent in vain do not count beyond the bytes of the files."""
    progress = tracker(delivery(), sender)
    sender.bytes_sent = 1000
    progress.measure(101.0)

    assert 25 == progress.event(None).bytes_sent


@pytest.mark.parametrize(("counter", "unsent", "unpersisted"), [
    (None, 8.0, 8.0), ("bytes_sent", 3.0, 8.0), ("bytes_checked", 3.0, 3.0),
])  # fmt: skip
def test_seconds_without(sender, counter, unsent, unpersisted):
    """Sending and comparing end the time without sending; comparing ends both times."""
    progress = tracker(delivery(), sender)
    if counter is not None:
        setattr(sender, counter, 5)
    progress.measure(105.0)
    progress.measure(108.0)

    assert unsent == progress.unsent_seconds(108.0)
    assert unpersisted == progress.unpersisted_seconds(108.0)


def test_final_files(sender):
    """A sent file is final only when the run does not wait for the group."""
    for waits in (True, False):
        made = delivery(wait=waits)
        for _ in range(3):
            send(made)
        progress = tracker(made, sender, waits=waits)
        progress.measure(101.0)
        assert int(not waits) == progress.event(None).files_done


def test_waiting(sender):
    """While the delivery waits, the event has the reason and no time left."""
    made = delivery()
    progress = tracker(made, sender)
    for second in range(10):
        sender.bytes_sent = second
        progress.measure(100.0 + second)
    event = progress.event(Reason("group", "no machine is up"))

    assert ("no machine is up", None) == (event.waiting, event.eta)
