"""Tables that are lost in many ways: the worker notices, and comes back with exact ones (R13).

What the tables must say is what was acknowledged, block by block; `tests.checker` compares.
"""

import os
import shutil
import sys
import time

from contextlib import contextmanager

import pytest

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from rocksdict import Options, Rdict

from streamapp.kafka import topic_admin
from streamapp.protocol import topics
from streamapp.worker import table_recovery
from tests import checker, harness
from tests.harness import MIB
from tests.waiting import wait_for


BLOCK = MIB // 4
SIZES = {f"f{number}": number * 3 * BLOCK + 1 for number in range(7)} | {"empty": 0}
BLOCKS = sum(max(1, -(-size // BLOCK)) for size in SIZES.values())
FLAGS = {"block_size": "256KiB", "frame_size": "64KiB", "compression": "none"}
ACKS = topic_admin.file_places(topics.ACKS)


class Group:
    """A worker that has all blocks of a source; its tables are harmed while it is stopped."""

    def __init__(self, site, rng):
        self.site = site
        self.source = site.source(SIZES, rng)
        self.admin = AdminClient({"bootstrap.servers": site.brokers, "log_level": 0})
        (self.worker,) = site.ready_workers("w1")
        assert 0 == site.producer(self.source, **FLAGS).wait()
        self.check()

    @property
    def tables(self):
        """Where its databases are."""
        return self.worker.root / ".streamapp"

    @property
    def changelogs(self):
        """The names of the changelogs."""
        return [f"{self.site.group}-{table}-changelog" for table in topics.TABLES]

    def files(self, pattern):
        """The files of its databases of such a name, the largest first."""
        found = self.tables.glob(f"v1/tables/*.db/{pattern}")
        return sorted(found, key=lambda path: -path.stat().st_size)

    def check(self):
        """The tables count what was acknowledged, no more and no less, and all of it is there."""
        verdict = self.site.verdict({"source": self.source}, block_size=BLOCK)
        assert ([], [], BLOCKS) == (verdict.problems, verdict.doubled, verdict.acks)

    @contextmanager
    def stopped(self):
        """Stop the worker; give back the length of its log, and start it again."""
        assert 0 == self.worker.terminate()
        before = len(self.worker.said())
        yield
        with harness.healing("tables lost, worker started"):
            self.worker.start().wait_until_ready()
            self.check()
        said = self.worker.said()[before:]
        assert "Traceback" not in said
        self.said = said

    def fold_again(self):
        """Have the worker fold all once more, as after a crash what was not committed."""
        places = [*ACKS, *topic_admin.file_places(harness.STATUS)]
        with self.stopped(), harness.reader(self.site.brokers, self.site.group) as group:
            ends = {place: group.get_watermark_offsets(TopicPartition(*place))[1] for place in ACKS}
            group.commit(offsets=[TopicPartition(*p, 0) for p in places], asynchronous=False)

        def is_done():
            with harness.reader(self.site.brokers, self.site.group) as group:
                found = group.committed([TopicPartition(*place) for place in ACKS], timeout=10)
            return all(at.offset >= ends[at.topic, at.partition] for at in found)

        wait_for(is_done, within=60, what="all to be folded again", every=0.3)

    def delete_records(self, places):
        """Delete all records at *places*; Kafka does that to a compacted topic if it may delete."""
        names = {name for name, _ in places}
        for name in names:
            self.configure(name, **{"cleanup.policy": "compact,delete"})
        wait_for(lambda: self._has_deleted(places), within=30, what="Kafka to delete", every=0.3)
        for name in names:
            self.configure(name, **{"cleanup.policy": "compact"})

    def _has_deleted(self, places):
        wanted = [TopicPartition(*place, -1) for place in places]
        try:
            for future in self.admin.delete_records(wanted).values():
                future.result(30)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.POLICY_VIOLATION:  # not every broker knows yet
                raise
            return False
        return True

    def configure(self, name, **config):
        """Change settings of the topic *name*."""
        to_set = AlterConfigOpType.SET
        entries = [ConfigEntry(*pair, incremental_operation=to_set) for pair in config.items()]
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)
        for future in self.admin.incremental_alter_configs([resource]).values():
            future.result(30)

    def rebuild(self, *flags):
        """Run `streamapp tables rebuild`; return its exit code and what it said."""
        common = ["--brokers", self.site.brokers, "--group-id", self.site.group]
        common += ["--machine-id", "w1", "--data-dir", self.worker.folder]
        command = [sys.executable, "-m", "streamapp", "tables", "rebuild", *common, *flags]
        process = self.site.process(f"rebuild-{time.monotonic_ns()}", command)
        return process.wait(60), process.said()


@pytest.fixture
def group(site):
    """A worker that has all, once for all that a test does to its tables."""
    return Group(site, harness.seeded())


def test_databases_lost(group):
    """A folder that is gone, a table file cut, a MANIFEST and a CURRENT broken: from Kafka.

    Rows of what was folded again before that are as good as any other.
    """
    group.fold_again()
    with group.stopped():
        shutil.rmtree(group.tables)
    assert "wiping" not in group.said
    assert "came late" not in group.said

    with group.stopped():
        os.truncate(group.files("*.sst")[0], 100)
    assert "is damaged" in group.said

    with group.stopped():
        os.truncate(group.files("MANIFEST-*")[0], 20)
        group.files("CURRENT")[0].unlink()
    assert "is damaged" in group.said

    with group.stopped():  # from nowhere: more than its changelog ever had
        database = next(group.tables.glob("v1/tables/files-*.db"))
        opened = Rdict(str(database), options=Options(raw_mode=True))
        opened[table_recovery.OFFSET_KEY] = b"1000000"
        opened.close()
    assert "has offset 1000000" in group.said


def test_changelogs_lost(group):
    """Changelogs that are emptied or made anew, the databases gone too: from the acks."""
    places = [(name, n) for name in group.changelogs for n in range(topics.FILE_PARTITIONS)]
    with group.stopped():
        shutil.rmtree(group.tables)
        group.delete_records(places)
    assert "has lost records" in group.said

    with group.stopped():
        shutil.rmtree(group.tables)
    assert "has lost records" in group.said

    with group.stopped():  # the databases are there, and of topics that are no more
        for future in group.admin.delete_topics(group.changelogs).values():
            future.result(30)
        wait_for(
            lambda: not set(group.changelogs) & set(group.admin.list_topics(timeout=10).topics),
            within=30,
            what="the changelogs to be deleted",
        )
    assert "topics that are no more" in group.said

    with group.stopped():
        pass
    assert "wiping" not in group.said
    assert "has lost" not in group.said


def test_another_life(group):
    """All topics deleted: the databases are of another life. The disks bring all back.

    The worker acknowledges what lies on them when it starts; a rebuild does it once more.
    """
    assert 0 == group.worker.terminate()
    harness.delete_topics(group.site.brokers)
    group.worker.start().wait_until_ready()
    assert "topics that are no more" in group.worker.said()
    group.check()

    code, said = group.rebuild("--from", "disks")

    assert (0, True) == (code, f"{BLOCKS} blocks acknowledged again" in said)
    group.check()
    records = group.site.records()
    assert 0 == group.site.producer(group.source, **FLAGS).wait(60)
    assert records == group.site.records()  # there is nothing to send
    group.check()


def test_rebuild(group):
    """`tables rebuild` does it on command: from the acks, and from the disks where they are lost.

    It refuses while workers run, and tables that were made wrong are right afterwards.
    """
    code, said = group.rebuild()
    assert (2, True) == (code, "stop them all" in said)

    with group.stopped():
        for database in group.tables.glob("v1/tables/files-*.db"):
            opened = Rdict(str(database), options=Options(raw_mode=True))
            for key in list(opened.keys()):
                if key != table_recovery.OFFSET_KEY:
                    del opened[key]
            opened.close()
        assert 0 == group.rebuild()[0]

    group.delete_records(ACKS)
    assert [] == group.site.acks()
    assert 0 == group.rebuild("--from", "disks")[0]
    group.check()
    with group.stopped():
        shutil.rmtree(group.tables)
        assert 0 == group.rebuild()[0]


def test_rows_that_come_late(group):
    """Rows of a worker that had lost its partition: not believed, and what they hide is there."""
    name = f"{group.site.group}-files-changelog"
    first, last = {}, {}
    for row in checker.read_topic(group.site.brokers, name):
        first.setdefault(row.key(), row)
        last[row.key()] = row
    late = [row for key, row in first.items() if row.value() != last[key].value()]
    assert late
    producer = Producer({"bootstrap.servers": group.site.brokers, "log_level": 0})

    with group.stopped():
        for row in late:
            producer.produce(
                name, row.value(), row.key(), partition=row.partition(), headers=row.headers()
            )
        assert 0 == producer.flush(10)
    assert len(late) == group.said.count("came late")

    def newest():
        rows = checker.read_topic(group.site.brokers, name)
        return {row.key(): row.value() for row in rows if row.key() in last}

    wait_for(
        lambda: newest() == {key: row.value() for key, row in last.items()},
        within=30,
        what="the rows to be written again",
    )
    with group.stopped():
        shutil.rmtree(group.tables)


@pytest.mark.long
def test_compacted_changelog(group):
    """A changelog that compaction has thinned out brings back the same rows."""
    rows = f"{group.site.group}-files-changelog"
    for name in group.changelogs:
        group.configure(
            name,
            **{
                "cleanup.policy": "compact",
                "min.cleanable.dirty.ratio": "0.001",
                "segment.ms": "100",
                "min.compaction.lag.ms": "0",
                "max.compaction.lag.ms": "100",
                "delete.retention.ms": "100",
            },
        )
    before = len(checker.read_topic(group.site.brokers, rows))
    producer = Producer({"bootstrap.servers": group.site.brokers, "log_level": 0})

    def is_compacted():
        """Segments roll when something is written: of a file that no table knows."""
        for number in range(topics.FILE_PARTITIONS):
            producer.produce(rows, None, b"0" * 32, partition=number)
        producer.flush(10)
        return len(checker.read_topic(group.site.brokers, rows)) < before // 2

    with group.stopped():
        wait_for(is_compacted, within=120, what="the changelog to be compacted", every=1)
        shutil.rmtree(group.tables)
