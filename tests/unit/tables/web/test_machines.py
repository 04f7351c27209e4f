"""Machines of a group: how they are identified, waited for, and forgotten."""

import msgspec
import pytest

from streamapp.integrity import inventory, machines
from streamapp.kafka import clients, publish, topic_admin
from streamapp.protocol import messages, routing, topics
from streamapp.protocol.messages import Heartbeat
from streamapp.settings import Settings
from tests.fake_kafka import FakeConsumer, FakeKafka, Message
from tests.fakes import ManualClock


PLACE = routing.partition_of(b"m")


@pytest.fixture
def fake(monkeypatch):
    """A Kafka in memory."""
    fake = FakeKafka(group="g")
    monkeypatch.setattr(clients, "consumer", lambda _settings: FakeConsumer(fake))
    return fake


@pytest.fixture
def settings():
    """The settings of a command in group g."""
    return Settings(group_id="g", machine_id="m", heartbeat=1)


def write(fake, value, key):
    """Write a status record under *key* where machine m's are."""
    log = fake.log(topics.STATUS, PLACE)
    log.append(Message(topics.STATUS, PLACE, len(log), value=value, key=key))


def beat(fake, group="g", key=None, **fields):
    """Write a heartbeat of machine m."""
    said = Heartbeat(machine="m", group=group, **{"state": "running", "interval": 1.0} | fields)
    write(fake, messages.encode(said), said.key if key is None else key)
    return said


@pytest.fixture
def watch(settings, fake):  # noqa: ARG001 - what it reads
    """A watch on machine m."""
    return machines.MachineWatch(settings, "m")


@pytest.mark.parametrize(
    ("interval", "after", "is_up"),
    [
        (1.0, 2, True),
        (1.0, 5, False),
        (20.0, 50, True),
        (20.0, 70, False),
        (0.0, 8, True),
        (0.0, 11, False),
        (0.01, 2, True),
        (9e9, 320, False),
    ],
)
def test_how_long(watch, fake, monkeypatch, interval, after, is_up):  # noqa: PLR0913, PLR0917
    """Three heartbeats are waited for, as far apart as the machine itself says; not for ever."""
    beat(fake, interval=interval)
    watch.read()
    clock = ManualClock()

    def a_second_passes():
        clock.now += 1
        if clock.now == after:
            beat(fake, interval=interval)
        read_some()

    read_some = watch._follower.read_some
    monkeypatch.setattr(watch._follower, "read_some", a_second_passes)
    monkeypatch.setattr(machines.time, "monotonic", clock)

    assert is_up == watch.is_up()


def test_other_group(fake, settings, watch):
    """The heartbeats of two groups with a machine of one id are two records to compaction."""
    ours, theirs = beat(fake), beat(fake, "other")
    write(fake, None, theirs.key)

    assert ours == watch.read()
    assert ours.key != theirs.key
    assert {PLACE} == {routing.partition_of(h.machine.encode()) for h in (ours, theirs)}
    write(fake, None, ours.key)
    assert machines.MachineWatch(settings, "m").read() is None


def test_old_key(fake, settings, watch):
    """Heartbeats under the machine id alone, of an older version, are read, and their end too."""
    old = beat(fake, key=b"m", at=1.0)
    assert old == watch.read()
    write(fake, None, b"m")
    assert machines.MachineWatch(settings, "m").read() is None

    new = beat(fake, at=2.0)
    write(fake, None, b"m")  # by an older version of another group
    assert new == machines.MachineWatch(settings, "m").read()


@pytest.mark.parametrize(
    ("old_group", "removed"), [(None, [b"m:g"]), ("g", [b"m:g", b"m"]), ("other", [b"m:g"])]
)
def test_forget(fake, settings, monkeypatch, old_group, removed):
    """A machine's heartbeats are removed under both keys, those of another group never."""
    if old_group:
        beat(fake, old_group, key=b"m")
        for _ in range(3):
            beat(fake, "third")
    beat(fake, state="stopped")
    produced = []
    monkeypatch.setattr(topic_admin, "check", lambda _settings: {})
    monkeypatch.setattr(inventory, "read_acks", lambda *_: None)
    monkeypatch.setattr(publish, "publish", lambda _, sent: produced.extend(sent))
    monkeypatch.setattr(publish, "publish_acks", lambda *_: None)
    monkeypatch.setattr(machines, "LOOK_BACK", 2)

    assert 0 == machines.forget(settings, "m", force=False)
    assert [(topics.STATUS, key, None, PLACE) for key in removed] == produced


def test_is_of(settings):
    """A heartbeat is of this machine only with its id and its group."""
    said = Heartbeat(machine="m", group="g", state="running")
    others = [msgspec.structs.replace(said, **{k: "x"}) for k in ("machine", "group")]

    assert [True, False, False] == [machines.is_of(h, settings) for h in (said, *others)]
