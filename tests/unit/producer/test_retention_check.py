"""Warnings and errors about the topic's retention, before anything is sent."""

import pytest

from streamapp.errors import RetentionError
from streamapp.kafka.topic_admin import TopicState
from streamapp.producer import retention_check
from streamapp.units import GIB, MIB


BLOCK = 128 * MIB


def topic(size=-1, hours=72):
    """The blocks' topic, which keeps *size* bytes in a partition for *hours*."""
    config = {"retention.bytes": str(size), "retention.ms": str(int(hours * 3_600_000))}
    return TopicState("data-blocks", 6, 3, config)


def check(wanted, found, *, window=None):
    """The warning."""
    return retention_check.check(wanted, found, block_size=BLOCK, window=window)


@pytest.mark.parametrize("wanted", [0, 1, 100 * GIB])
def test_no_limit(wanted):
    """Without a size limit, and with a retention of days, there is no warning."""
    assert "" == check(wanted, topic())


@pytest.mark.parametrize(
    ("wanted", "window", "fits"),
    [
        (6 * GIB, None, True),
        (6 * GIB + 1, None, False),
        (100 * GIB, None, False),
        (100 * GIB, 6 * GIB, True),
        (100 * GIB, 7 * GIB, False),
        (GIB, 100 * GIB, True),
    ],
)
def test_size(wanted, window, fits):
    """Unread bytes, at most the window, must fit into a partition's retention size."""
    kept = topic(GIB)
    if fits:
        assert "" == check(wanted, kept, window=window)
    else:
        with pytest.raises(RetentionError, match=r"--window 6\.0 GiB"):
            check(wanted, kept, window=window)


@pytest.mark.parametrize("window", [None, 1])
def test_one_block(window):
    """A block is in one partition, whole, and one is always sent, however small the window."""
    assert "" == check(10 * GIB, topic(BLOCK), window=1)
    with pytest.raises(RetentionError, match="smaller --block-size"):
        check(BLOCK, topic(BLOCK - 1), window=window)


def test_short_time():
    """Less than an hour is a warning; the limit counts, not what is to be sent."""
    assert "" == check(GIB, topic(hours=1))
    assert "30 min" in check(GIB, topic(hours=0.5))
