"""Which status records of a file are published, and how often."""

import pytest

from streamapp.producer.status_updates import HOLD_SECONDS, StatusUpdates
from streamapp.producer.superseding import EarlierVersions
from streamapp.protocol import messages
from tests.unit.deliveries import BLOCK, PROVER, ack, delivery, only_file, send, source


@pytest.fixture
def updates():
    """A board of machine m."""
    earlier = EarlierVersions("m", [])
    return StatusUpdates(machine="m", block_size=BLOCK, run_at=7.0, prover=PROVER, earlier=earlier)


def test_one_record_a_second(updates):
    """All changes of a file within a second are one record, with its last state."""
    made = delivery(source(size=5))
    file = only_file(made)
    updates.touch([file], now=0.0)
    send(made)
    updates.touch([file], now=0.5)
    made.acknowledged(ack(file, 0), 0.0)
    updates.touch([file], now=0.9)

    assert [] == updates.take_due(HOLD_SECONDS - 0.01, wall=7.0)
    assert ["complete"] == [status.state for _, status in updates.take_due(HOLD_SECONDS, wall=7.0)]
    assert [] == updates.take_due(100.0, wall=7.0)


def test_complete(updates):
    """A record can be read back, and has the file digest once all is stored, not before."""
    made = delivery(source("a/ü", 15))
    file = only_file(made)
    taken = []
    for number in range(2):
        made.acknowledged(ack(file, number), 0.0)
        updates.touch([file], now=0.0)
        taken += [status for _, status in updates.take_due(10.0, wall=7.0)]

    assert ["", file.version.file_digest()] == [status.digest for status in taken]
    assert taken == [messages.decode_status(messages.encode(status)) for status in taken]
    assert ("a/ü", 15, 2, BLOCK, "m", 7.0) == (
        taken[0].name,
        taken[0].size,
        taken[0].blocks,
        taken[0].block_size,
        taken[0].source,
        taken[0].at,
    )


def test_failed(updates):
    """A file with a failed block is failed, even while other blocks are in flight."""
    made = delivery(source(size=15), max_attempts=1)
    block = send(made)
    made.acknowledged(ack(block.file, block.number, "rejected"), 0.0)
    updates.touch([block.file], now=0.0)
    ((_, status),) = updates.take_due(10.0, wall=7.0)

    assert "failed" == status.state
    assert [(block.number, "w1 rejected it: because")] == [
        (failed.block, failed.reason) for failed in status.failed_blocks
    ]


@pytest.mark.parametrize(("state", "shown"), [("changed", "changed"), ("unreadable", "failed")])
def test_dropped(updates, state, shown):
    """A file that is not sent any more says why."""
    made = delivery()
    made.abort(only_file(made), state, "it moved")
    updates.touch(made.touched.values(), now=0.0)
    ((_, status),) = updates.take_due(10.0, wall=7.0)

    assert (shown, "it moved") == (status.state, status.reason)
