"""Why a delivery waits, and when the reason is reported."""

import msgspec
import pytest

from streamapp.producer.rate import RateMeter, time_left
from streamapp.producer.waiting import REMIND_SECONDS, GroupSnapshot, Reminder, reason
from streamapp.protocol.presence import Reason
from tests.unit.heartbeats import NOW, presence


WELL = GroupSnapshot(
    no_broker="",
    group="g",
    is_group_up=True,
    unread=9,
    machines=[presence(machine="w1", partitions=(0,)), presence(machine="w2", partitions=(1,))],
    topic="blocks",
    partitions=2,
    unsent=0.0,
    unpersisted=4.9,
    waits=True,
    now=NOW,
)
HOLDING = presence(machine="w1", state="holding", reason="disk full", partitions=(0,))
NOTHING = "nothing was persisted for 5.0 s"
SILENCE = "w2 is silent for 12.0 s"
BEFORE_IT = "before it, see `streamapp status`"
SILENT = presence(machine="w2", silent=12.0, partitions=(1,))


@pytest.mark.parametrize(
    ("seen", "text"),
    [
        ({}, None),
        ({"no_broker": "no broker"}, "no broker"),
        ({"no_broker": "no broker", "machines": [HOLDING], "is_group_up": False}, "no broker"),
        ({"machines": [HOLDING]}, "w1 holds: disk full"),
        (
            {"machines": [HOLDING, SILENT], "unpersisted": 60.0},
            f"w1 holds: disk full; {SILENCE}; others take over within 30 s",
        ),
        ({"is_group_up": False, "machines": []}, "no machine of group g is up"),
        (
            {"machines": [SILENT]},
            f"no machine of group g is up; {SILENCE}; nobody has taken its partitions over",
        ),
        ({"unpersisted": 29.0}, None),  # it sends
        (
            {"unpersisted": 5.0, "unsent": 5.0},
            f"{NOTHING}; group g has 9 records {BEFORE_IT}",
        ),
        (
            {"unpersisted": 30.0, "unread": 1, "machines": []},
            f"nothing was persisted for 30.0 s; group g has 1 record {BEFORE_IT}",
        ),
        (
            {"unpersisted": 9.0, "unsent": 9.0, "unread": None, "is_group_up": None},
            "nothing was persisted for 9.0 s, and Kafka does not report why",
        ),
        ({"unpersisted": 99.0, "unsent": 99.0, "waits": False}, None),
        ({"partitions": 3}, None),  # they are about to be taken over
        (
            {"partitions": 3, "unpersisted": 5.0, "unsent": 5.0},
            f"{NOTHING}; no machine reports that it reads partition 2 of blocks",
        ),
        (
            {"partitions": 4, "unpersisted": 5.0, "unsent": 5.0},
            f"{NOTHING}; no machine reports that it reads partitions 2, 3 of blocks",
        ),
    ],
)
def test_reason(seen, text):
    """A known cause is reported; the backlog only without one."""
    found = reason(msgspec.structs.replace(WELL, **seen))

    assert text == (found and found.text)


def test_reminder():
    """A new reason is reported at once, and again after a while, even with other numbers."""
    reminder = Reminder()
    assert not reminder.is_due(None, 0.0)
    assert reminder.is_due(Reason("a", "for 1 s"), 1.0)
    assert not reminder.is_due(Reason("a", "for 2 s"), 2.0)
    assert reminder.is_due(Reason("b", "x"), 3.0)
    assert not reminder.is_due(Reason("b", "x"), 2.9 + REMIND_SECONDS)
    assert reminder.is_due(Reason("b", "x"), 3.0 + REMIND_SECONDS)
    assert not reminder.is_due(None, 4.0 + REMIND_SECONDS)
    assert reminder.is_due(Reason("b", "x"), 5.0 + REMIND_SECONDS)


def test_no_time_left_from_a_wait():
    """The seconds in which nothing came say nothing of how fast it comes now."""
    meter = RateMeter()
    for second in range(20):
        meter.note(float(second), 0)
    for second in range(20, 27):
        meter.note(float(second), 100 * (second - 19))
        told = meter.seconds_for(1000)
        assert told is None if second < 24 else told == pytest.approx(10.0)


def meters(*, bytes_a_second, files_a_second):
    """Meters of bytes and files that grew steadily for half a minute."""
    made = RateMeter(), RateMeter()
    for second in range(31):
        made[0].note(float(second), bytes_a_second * second)
        made[1].note(float(second), round(files_a_second * second))
    return made


@pytest.mark.parametrize(
    ("rates", "missing", "seconds"),
    [
        ((1000, 100), (1400, 5000), 50.0),  # many small files
        ((1000, 100), (90_000, 1), 90.0),  # and a large one
        ((1000, 0), (90_000, 3), 90.0),  # none of the large ones has ended
        ((0, 100), (1, 1), None),
        ((0, 100), (0, 10), 0.1),  # empty files
        ((0, 0), (0, 10), None),
        ((1000, 1), (0, 0), 0.0),
    ],
)
def test_time_left(rates, missing, seconds):
    """Files and bytes both take their time; unknown when the rate is."""
    of_bytes, of_files = meters(bytes_a_second=rates[0], files_a_second=rates[1])
    found = time_left(of_bytes, of_files, missing_bytes=missing[0], missing_files=missing[1])

    assert seconds == (found and pytest.approx(found))


def test_burst():
    """Growth within less than a second is not extrapolated to a rate."""
    meter = RateMeter()
    meter.note(0.0, 0)
    meter.note(0.001, 1 << 24)

    assert 1 << 24 == meter.rate


def test_first_seconds():
    """The time left is not known before what moves was watched for five seconds."""
    meter = RateMeter()
    meter.note(0.0, 0)
    meter.note(4.9, 490)

    assert 100 == pytest.approx(meter.rate)
    assert meter.seconds_for(1000) is None

    meter.note(5.0, 500)

    assert 10 == pytest.approx(meter.seconds_for(1000))
