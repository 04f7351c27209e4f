"""Observing the group: which views are passed on, and which are not."""

import threading

from types import SimpleNamespace

import pytest

from confluent_kafka import ConsumerGroupState, KafkaException
from confluent_kafka import KafkaError as Code

from streamapp.producer.group_monitor import GroupMonitor
from streamapp.producer.view import View
from streamapp.protocol import topics
from tests.fake_kafka import FakeAdmin, FakeConsumer, FakeKafka


@pytest.fixture
def fake():
    """A Kafka with two records on one partition, and a group that read them."""
    fake = FakeKafka(group="g")
    fake.logs[topics.DATA_BLOCKS, 0] = [None, None]
    fake.logs[topics.ACKS, 1] = [None]
    return fake


def monitor(admin, seen, *, has_read=lambda *_: True):
    """A monitor of two partitions."""
    reader = FakeConsumer(admin._kafka)
    return GroupMonitor(
        admin, reader, group="g", partitions=2, has_read=has_read, on_view=seen.append
    )


def answering(groups, *, errors=()):
    """An answer with the states of *groups*, from all brokers but those with an error."""
    listed = SimpleNamespace(
        valid=[SimpleNamespace(group_id=name, state=state) for name, state in groups.items()],
        errors=[Code(code) for code in errors],
    )
    return lambda **_: SimpleNamespace(result=lambda *_, **__: listed)


def test_view(fake):
    """A look shows commits, both ends of each partition, and whether machines are up."""
    seen = []
    monitor(FakeAdmin(fake), seen).look()

    assert [
        View(committed={0: 2, 1: 0}, starts={0: 0, 1: 0}, ends={0: 2, 1: 0}, is_group_up=True)
    ] == seen


def test_unread():
    """Unread records are counted from the group's commit, or from the beginning of the log."""
    view = View(
        committed={0: 5, 1: 2}, starts={0: 0, 1: 7, 2: 1}, ends={0: 9, 1: 9, 2: 3}, is_group_up=True
    )

    assert 4 + 2 + 2 == view.unread


def test_group_that_never_was(fake):
    """A group that Kafka does not know has committed nothing, and no machine."""
    seen, admin = [], FakeAdmin(fake)
    fake.machines = 0
    admin.list_consumer_groups = answering({"another": ConsumerGroupState.STABLE})
    monitor(admin, seen).look()

    assert ({}, False) == (seen[0].committed, seen[0].is_group_up)


@pytest.mark.parametrize(
    ("state", "is_up"),
    [
        (ConsumerGroupState.STABLE, True),
        (ConsumerGroupState.PREPARING_REBALANCING, True),
        (ConsumerGroupState.COMPLETING_REBALANCING, True),
        (ConsumerGroupState.UNKNOWN, True),
        (ConsumerGroupState.EMPTY, False),
        (ConsumerGroupState.DEAD, False),
    ],
)
@pytest.mark.parametrize("errors", [(), (Code._TRANSPORT,)])
def test_state_of_the_group(fake, state, is_up, errors):
    """Machines that come and go are up; brokers that are not asked for the group do not count."""
    seen, admin = [], FakeAdmin(fake)
    admin.list_consumer_groups = answering({"g": state}, errors=errors)
    monitor(admin, seen).look()

    assert is_up is seen[0].is_group_up


@pytest.mark.parametrize(
    "code", [Code.GROUP_AUTHORIZATION_FAILED, Code.COORDINATOR_LOAD_IN_PROGRESS, Code._TRANSPORT]
)
def test_machines_are_a_secret(fake, code):
    """An unknown state of the group is not the same as a group that is down."""
    seen, admin = [], FakeAdmin(fake)
    admin.list_consumer_groups = answering({"another": ConsumerGroupState.STABLE}, errors=[code])
    monitor(admin, seen).look()

    assert seen[0].is_group_up is None


def test_acknowledgements_are_behind(fake):
    """Commits say nothing while acknowledgements that came before them are not read."""
    seen, asked = [], []
    monitor(FakeAdmin(fake), seen, has_read=lambda ends, _: asked.append(ends)).look()

    assert [] == seen
    assert [{(topics.ACKS, 0): 0, (topics.ACKS, 1): 1, (topics.ACKS, 2): 0}] == asked


def test_look_that_fails(fake):
    """A look that fails is skipped, and another follows."""
    admin, stop, looks = FakeAdmin(fake), threading.Event(), []

    def fail(*_, **__):
        looks.append(1)
        stop.set()
        raise KafkaException(Code(Code._TRANSPORT))

    admin.list_offsets = fail
    monitor(admin, []).watch(stop)

    assert [1] == looks
