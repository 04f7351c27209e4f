"""Which machines are up, and what keeps a group from its work."""

import pytest

from streamapp.protocol.presence import MAX_MACHINES, Presence, Roster, reasons_to_wait
from tests.unit.heartbeats import DAY, INTERVAL, NOW, beat, presence


def follow(presence, *, ahead, seconds, start=NOW):
    """Return *presence* after heartbeats of *seconds*, from a clock that is *ahead*."""
    for step in range(1, int(seconds / INTERVAL) + 1):
        now = start + step * INTERVAL
        late = 0.4 * (step % 3)
        presence = presence.with_heartbeat(beat(now - late + ahead), now=now)
    return presence


@pytest.mark.parametrize("ahead", [0.0, DAY, -DAY, 40.0, -40.0])
def test_wrong_clock(ahead):
    """A machine is up while its heartbeats come, whatever its clock says, and then it is not."""
    found = follow(Presence.first(beat(NOW + ahead), now=NOW), ahead=ahead, seconds=9)
    now = NOW + 9

    assert found.is_up(now)
    assert not found.is_silent(now)
    assert ahead == pytest.approx(found.ahead, abs=1.0)
    assert not found.is_silent(now + 4.9)
    assert found.is_silent(now + 5.5)
    assert found.is_up(now + 14.0)
    assert not found.is_up(now + 15.1)


@pytest.mark.parametrize("history", [[-DAY], [-DAY, -DAY + 3, -DAY + 6], [-40.0, -37.0]])
def test_history(history):
    """Heartbeats that were on Kafka for a while and are read in one go are not received now."""
    found = Presence.first(beat(NOW + history[0]), now=NOW)
    for at in history[1:]:
        found = found.with_heartbeat(beat(NOW + at), now=NOW + 0.001)

    assert not found.is_up(NOW)
    assert -history[-1] == pytest.approx(found.silent_seconds(NOW))


def test_repeated():
    """A heartbeat that is read a second time was not received a second time."""
    found = follow(Presence.first(beat(NOW), now=NOW), ahead=0.0, seconds=6)

    assert found is found.with_heartbeat(found.heartbeat, now=NOW + 60)
    assert found is found.with_heartbeat(beat(NOW + 3), now=NOW + 60)


@pytest.mark.parametrize("step", [-DAY, DAY])
@pytest.mark.parametrize("started_at", [0.0, 5.0])
def test_clock_is_set(step, started_at):
    """A clock that is set right, or a machine that starts with a wrong one, stays up."""
    found = follow(Presence.first(beat(NOW - step), now=NOW), ahead=-step, seconds=6)
    found = found.with_heartbeat(beat(NOW + 9, started_at=started_at), now=NOW + 9)

    assert found.is_up(NOW + 9)
    assert 0.0 == found.silent_seconds(NOW + 9)


def test_stopped():
    """A machine that stopped on purpose is not up."""
    assert not presence(state="stopped").is_up(NOW)


def test_old_rows():
    """A row from before there was a time of receipt has that of the heartbeat."""
    assert 7.0 == Presence(heartbeat=beat(NOW - 7.0)).silent_seconds(NOW)


def test_reasons():
    """Machines that hold or are silent are named, with the consequence."""
    found = [
        presence(machine="w1", state="holding", reason="disk\x07 full", partitions=(0, 1)),
        presence(machine="w2", silent=12.0, partitions=(2, 3)),
        presence(machine="w3", partitions=(4, 5)),
        presence(machine="w4", silent=50.0, partitions=(4,)),  # w3 has taken it over
        presence(machine="w5", silent=9.0, partitions=(2,), state="stopped"),
        presence(machine="w6", silent=40.0, partitions=(3,)),
    ]

    assert [
        "w1 holds: disk\\x07 full",
        "w2 is silent for 12.0 s; others take over within 30 s",
        "w6 is silent for 40.0 s; nobody has taken its partitions over",
    ] == [reason.text for reason in reasons_to_wait(found, partitions=6, now=NOW)]
    assert [
        ("w2 is silent", "w2 is silent for 12.0 s; nobody has taken its partitions over")
    ] == reasons_to_wait(found[1:2], partitions=6, now=NOW)
    assert [] == reasons_to_wait(found[2:3], partitions=6, now=NOW)


@pytest.mark.parametrize(
    ("partitions", "silent", "is_reason"),
    [
        ((0, 1, 2), 12.0, True),
        ((0, 1, 2, 3, 4, 5), 12.0, False),  # all were taken over
        ((0, 1, 2), 31.0, False),  # its session is over, and it had none
    ],
)
def test_silent_since_it_got_partitions(partitions, silent, is_reason):
    """A machine may be silent from before it could report its partitions."""
    found = [presence(partitions=partitions), presence(machine="w2", silent=silent)]

    assert is_reason == bool(reasons_to_wait(found, partitions=6, now=NOW))


def test_roster():
    """A roster knows the machines of its group, by name, and not any number of them."""
    roster = Roster("g")
    roster.receive(beat(NOW, "w2"), now=NOW)
    roster.receive(beat(NOW, "w1", blocks=1), now=NOW)
    roster.receive(beat(NOW + 3, "w1", blocks=2), now=NOW + 3)
    roster.receive(beat(NOW, "x", group="others"), now=NOW)
    assert [("w1", 2), ("w2", 0)] == [
        (m.heartbeat.machine, m.heartbeat.blocks) for m in roster.machines
    ]

    for number in range(MAX_MACHINES + 10):
        roster.receive(beat(NOW, f"m{number}"), now=NOW)
    assert MAX_MACHINES == len(roster.machines)
