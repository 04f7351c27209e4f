"""Threads that share a delivery: which blocks they take, and how long they wait."""

import threading
import time

from streamapp.producer.shared_delivery import SharedDelivery
from tests.unit.deliveries import ack, delivery, only_file, source


def test_one_partition_one_reader():
    """A partition belongs to the reader that has a block of it, until it is released."""
    shared = SharedDelivery(delivery(*(source(f"f{n}", 55) for n in range(4))), time.monotonic)
    taken = [shared.take(0.0) for _ in range(6)]

    assert 6 == len({block.partition for block in taken})
    assert shared.take(0.0) is None

    shared.release(taken[2].partition)
    assert taken[2].partition == shared.take(0.0).partition


def test_waits_for_a_partition():
    """A reader that has to wait is woken when a partition is released."""
    shared = SharedDelivery(delivery(source(size=5), source("g", 5)), time.monotonic)
    shared.take(0.0)
    waiting = threading.Thread(target=shared.take, args=(30.0,))
    shared.delivery.take(0.0, ())
    waiting.start()
    for _ in range(1000):  # it may not wait yet
        shared.release(0)
        waiting.join(0.01)

    assert not waiting.is_alive()


def test_reported_at_once():
    """A thread that waits for events is woken as soon as the delivery is done."""
    shared = SharedDelivery(delivery(source(size=5)), time.monotonic)
    shared.take(0.0)
    shared.drain(0.0)
    drained = []
    waiting = threading.Thread(target=lambda: drained.append(shared.drain(30.0)))
    waiting.start()
    with shared.locked() as (made, now):
        made.acknowledged(ack(only_file(made), 0), now)
    waiting.join(10.0)

    assert not waiting.is_alive()
    assert ["complete"] == [event.state for event in drained[0][0]]
