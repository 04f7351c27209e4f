"""The fetcher: a broker holds a request that leaves a partition out only for a short time."""

import types

import pytest

from aiokafka.consumer import consumer, fetcher
from aiokafka.structs import TopicPartition

from streamapp.worker import consumer as worker_consumer
from streamapp.worker.aiokafka_overrides import fetcher as own_fetcher


STOCK = consumer.Fetcher
PATIENCE_MS = 1500
LEFT, RIGHT = 1, 2
"""Two brokers."""

LEADERS = {
    TopicPartition("data-blocks", number): node
    for number, node in enumerate([LEFT, LEFT, RIGHT, RIGHT])
}
FIRST, SECOND, THIRD, FOURTH = LEADERS


class Worker:
    """A fetcher without Kafka, with four partitions on two brokers."""

    def __init__(self, kind=own_fetcher.Fetcher):
        self.fetcher = fetcher = object.__new__(kind)
        fetcher._client = types.SimpleNamespace(
            cluster=types.SimpleNamespace(leader_for_partition=LEADERS.get)
        )
        fetcher._preferred_read_replica = {}
        fetcher._records = {}
        fetcher._in_flight = set()
        fetcher._fetch_max_wait_ms = PATIENCE_MS
        fetcher._fetch_min_bytes = fetcher._fetch_max_bytes = 1
        fetcher._max_partition_fetch_bytes = fetcher._isolation_level = 1
        fetcher._fetcher_timeout = 0.2
        fetcher._client_rack = None
        self._states = {
            tp: types.SimpleNamespace(
                has_valid_position=True, paused=False, position=0, resume_fut=None
            )
            for tp in LEADERS
        }

    def pause(self, tp):
        """Pause *tp*, as Faust does while a stream's queue is full."""
        self._states[tp].paused = True

    def has(self, tp, *, patience=0):
        """Buffer records of *tp*."""
        self.fetcher._records[tp] = types.SimpleNamespace(calculate_backoff=lambda: patience)

    def waits(self):
        """Return for how long each broker may hold the request that is made now."""
        assignment = types.SimpleNamespace(tps=list(LEADERS), state_value=self._states.get)
        requests = self.fetcher._get_actions_per_node(assignment)[0]
        return {node: request._max_wait_ms for node, request in requests}


@pytest.fixture
def worker():
    """A worker that has read everything."""
    return Worker()


def test_idle_worker_waits(worker):
    """A request for all partitions may be held for long: an idle worker asks seldom."""
    assert {LEFT: PATIENCE_MS, RIGHT: PATIENCE_MS} == worker.waits()


def test_partition_being_read(worker):
    """A request without a partition whose records are buffered is held only shortly."""
    worker.has(FIRST)

    assert {LEFT: own_fetcher.PARTIAL_WAIT_MS, RIGHT: PATIENCE_MS} == worker.waits()


def test_fault_of_aiokafka():
    """Aiokafka's own fetcher waits for the whole time; if not, the override may be deleted."""
    worker = Worker(STOCK)
    worker.has(FIRST)

    assert {LEFT: PATIENCE_MS, RIGHT: PATIENCE_MS} == worker.waits()


def test_partition_held(worker):
    """The same holds while a stream accepts no more records of a partition."""
    worker.pause(THIRD)

    assert {LEFT: PATIENCE_MS, RIGHT: own_fetcher.PARTIAL_WAIT_MS} == worker.waits()


def test_aiokafkas_own_patience_stays(worker):
    """While records that were just fetched wait to be taken, no request is made."""
    worker.has(FIRST, patience=0.1)

    assert {RIGHT: PATIENCE_MS} == worker.waits()


def test_lesser_patience_stays(worker):
    """A shorter wait than the limit does not change."""
    worker.fetcher._fetch_max_wait_ms = 10
    worker.has(FIRST)

    assert {LEFT: 10, RIGHT: 10} == worker.waits()


def test_replica_that_is_read_counts(worker):
    """A partition whose nearest replica is elsewhere is no reason to be asked soon again."""
    far = fetcher.time.monotonic() + 60
    worker.fetcher._preferred_read_replica[SECOND] = (RIGHT, far)
    worker.fetcher._client.cluster.broker_metadata = lambda node: node
    worker.has(FOURTH)

    assert {LEFT: PATIENCE_MS, RIGHT: own_fetcher.PARTIAL_WAIT_MS} == worker.waits()


def test_consumer_asks_for_it(monkeypatch):
    """Aiokafka's consumer takes the class from where `ask_soon_again` puts it.

    When this fails, aiokafka was changed: look for where it makes its fetcher now.
    """
    monkeypatch.setattr(consumer, "Fetcher", STOCK)
    monkeypatch.setattr(
        worker_consumer.fetcher, "MemoryRecords", worker_consumer.fetcher.MemoryRecords
    )
    monkeypatch.setattr(worker_consumer.responses, "receive_straight", lambda **_: None)
    worker_consumer.install_overrides(on_response=lambda: None)

    assert consumer.Fetcher is own_fetcher.Fetcher
    assert "Fetcher" in consumer.AIOKafkaConsumer.start.__code__.co_names
    assert STOCK is not own_fetcher.Fetcher
