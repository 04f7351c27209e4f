"""Members of the consumer group that are no workers: they end no worker, and stall no block."""

import asyncio
import contextlib
import json

from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata

from tests import harness
from tests.harness import MIB, PARTITIONS


FLAGS = {"block_size": "1MiB", "frame_size": "256KiB"}


class Hostile(RangePartitionAssignor):
    """Calls itself a worker's assignor, and says what it likes."""

    name = "faust"
    user_data = b"\xff\x00 no worker"

    @classmethod
    def metadata(cls, topics):
        """Return what the leader is to read."""
        return ConsumerProtocolMemberMetadata(0, list(topics), cls.user_data)


class WithAddress(Hostile):
    """Gives an address that no worker has."""

    user_data = json.dumps(
        {
            "assignment": {"actives": {}, "standbys": {}},
            "url": "http://user@127.0.0.1:1/x?y=",
            "changelog_distribution": {},
        }
    ).encode()


class ByAnotherName(RangePartitionAssignor):
    """An ordinary consumer that somebody gave the group's id."""


@contextlib.asynccontextmanager
async def member(site, assignor):
    """Be a member of the group, as far as its broker lets one."""
    consumer = AIOKafkaConsumer(
        harness.DATA_BLOCKS,
        bootstrap_servers=site.brokers,
        group_id=site.group,
        partition_assignment_strategy=[assignor],
        enable_auto_commit=False,
        session_timeout_ms=6000,
    )
    joined = asyncio.create_task(consumer.start())
    try:
        yield joined
    finally:
        joined.cancel()
        await asyncio.gather(joined, return_exceptions=True)
        await consumer.stop()


async def test_members_that_are_no_workers(site):
    """The worker keeps all partitions, stores a delivery meanwhile, and after it as well."""
    rng = harness.seeded()
    worker = site.worker("w1").wait_until_ready(range(PARTITIONS))
    pid = worker.pid
    for number in range(2):
        source = site.source({f"file-{number}": 3 * MIB + 7}, rng, f"source-{number}")
        async with contextlib.AsyncExitStack() as members:
            joined = [
                await members.enter_async_context(member(site, assignor))
                for assignor in (Hostile, WithAddress, ByAnotherName)[: 3 * (number == 0)]
            ]
            if joined:
                await asyncio.wait(joined[:2], timeout=30)
            await asyncio.to_thread(worker.wait_until_ready, range(PARTITIONS))
            producer = site.producer(source, f"source-{number}", **FLAGS)
            assert 0 == await asyncio.to_thread(producer.wait)
    assert (pid, True) == (worker.pid, worker.is_running)
    assert [] == site.verdict().problems
    assert "metadata that is not a worker's" in worker.said()
    assert "url" in worker.said()
