"""Findings F1 to F3: stock Faust loses a message after a restart, our acknowledging does not.

Both are asserted. When a repaired Faust keeps the message, the first test fails: then look
whether the ledger is still needed.
"""

import contextlib
import sys

from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests import harness
from tests.waiting import wait_for


STOCK = {
    "stock-slow": b"1",  # F1: concurrency 2
    "stock-raise": b"3",  # F2: an exception
    "stock-noack-raise": b"3",  # F3: manual acknowledgement, out of order
}
FIRST = [str(number).encode() for number in range(1, 9)]
LAST = b"9"
TICK = b"tick"


class Run:
    """One small application on a topic of its own, with two partitions."""

    def __init__(self, site, how):
        self.site, self.how = site, how
        self.folder = site.folder / how
        self.folder.mkdir()
        admin = AdminClient({"bootstrap.servers": site.brokers, **harness.QUIET})
        admin.create_topics([NewTopic(how, 2)])[how].result(30)
        self.write(0, *FIRST)

    def start(self, *fault):
        """Start it, with a *fault* or without."""
        arguments = (self.how, self.site.brokers, self.how, self.folder, *fault)
        command = [sys.executable, "-m", "tests.faults.small_app", *arguments]
        return self.site.process(f"{self.how}{len(fault)}", command)

    def write(self, partition, *values):
        """Write *values* to a partition."""
        producer = Producer({"bootstrap.servers": self.site.brokers, **harness.QUIET})
        for value in values:
            producer.produce(self.how, value, partition=partition)
        assert 0 == producer.flush(30)

    def committed(self, partition):
        """Return the offset that is committed; below 0 when none is."""
        place = TopicPartition(self.how, partition)
        with (
            harness.reader(self.site.brokers, self.how) as consumer,
            contextlib.suppress(KafkaException),  # the group is being moved
        ):
            return consumer.committed([place], timeout=10)[0].offset
        return -1

    def done(self):
        """Return what was handled, in that order."""
        path = self.folder / "done"
        return path.read_bytes().split() if path.exists() else []


def handled_after_a_crash(site, hows, *, until):
    """Run applications with their fault *until* something holds, crash, run them without it.

    Return what each has handled once a last message is handled too.
    """
    runs = {how: Run(site, how) for how in hows}
    first = {how: run.start(how.rpartition("-")[2]) for how, run in runs.items()}
    for how, run in runs.items():
        until(run, first[how])
    for process in first.values():
        process.clean_up()
    for run in runs.values():
        run.start()
        run.write(0, LAST)
    for how, run in runs.items():
        wait_for(lambda run=run: LAST in run.done(), within=60, what=f"{how}: the last message")
    return {how: set(run.done()) - {TICK} for how, run in runs.items()}


def test_stock_loses(site):
    """Stock Faust commits past a message that is not done; after a crash it is gone."""

    def all_committed(run, _):
        wait_for(lambda: run.committed(0) == len(FIRST), within=60, what=f"{run.how}: commits")

    handled = handled_after_a_crash(site, STOCK, until=all_committed)

    assert {how: {*FIRST, LAST} - {lost} for how, lost in STOCK.items()} == handled


def test_ours_loses_none(site):
    """The ledger commits nothing past a message that is not done; after a crash it comes again."""

    def faulty(run, process):
        if run.how.endswith("raise"):
            assert 70 == process.wait(60)
        else:
            wait_for(lambda: set(FIRST[1:]) <= set(run.done()), within=60, what="the others")
            run.write(1, TICK)  # once it is committed, a commit has passed partition 0 by
            wait_for(lambda: run.committed(1) == 1, within=30, what="a commit")
            assert run.committed(0) <= 0
            process.kill()

    handled = handled_after_a_crash(site, ["ours-slow", "ours-raise"], until=faulty)

    assert [{*FIRST, LAST}] * 2 == [*handled.values()]
