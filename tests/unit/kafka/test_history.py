"""Which records a group without commits will read, reported before a delivery."""

import pytest

from streamapp.errors import BrokerUnreachableError
from streamapp.kafka import clients, history
from streamapp.protocol import topics
from streamapp.settings import Settings
from tests.fake_kafka import FakeKafka


@pytest.fixture
def fake(monkeypatch):
    """A Kafka in memory, without machines."""
    fake = FakeKafka(group="g", machines=0)
    for name in ("consumer", "admin"):
        monkeypatch.setattr(clients, name, getattr(fake, name))
    return fake


@pytest.fixture
def data_blocks(fake):
    """The topic of the blocks."""
    return fake.ensure()[topics.DATA_BLOCKS]


def said(data_blocks):
    """The sentence about group g."""
    return history.ahead_of(Settings(group_id="g"), data_blocks)


def fill(fake, records):
    """Have the topic hold *records*."""
    for number in range(records):
        fake.append(topics.DATA_BLOCKS, number % 6, b"v")


def test_new_group(fake, data_blocks):
    """The sentence has the number of records, and their bytes at most."""
    fill(fake, 7)
    found = said(data_blocks)

    assert found.startswith("group g has no position in topic data-blocks")
    assert "7 records, up to 7.0 MiB" in found
    assert "--group-id" in found


def test_one_record(fake, data_blocks):
    """One record is not several."""
    fill(fake, 1)

    assert " 1 record, up to 1.0 MiB" in said(data_blocks)


def test_empty_topic(fake, data_blocks, monkeypatch):
    """If there are no records to read, the group's coordinator is not asked."""
    monkeypatch.setattr(clients, "consumer", None)

    assert "" == said(data_blocks)
    assert [] == fake.log(topics.DATA_BLOCKS)


def test_known_group(fake, data_blocks):
    """Nothing is reported about a group that has commits."""
    fill(fake, 7)
    fake.machines = 1

    assert "" == said(data_blocks)


def test_kafka_does_not_say(data_blocks, monkeypatch):
    """Without an answer of Kafka nothing is reported, and the delivery begins."""

    def refuse(*_):
        raise BrokerUnreachableError("no broker")

    monkeypatch.setattr(history.groups, "starts", refuse)

    assert "" == said(data_blocks)
