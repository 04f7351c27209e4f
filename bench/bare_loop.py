"""The least that a consumer can do: aiokafka reads the topic to its end and drops it all.

``bare_loop.py BROKERS BYTES`` prints MiB/s and CPU seconds, both from the first record on.
"""

from __future__ import annotations

import asyncio
import sys
import time

from aiokafka import AIOKafkaConsumer

from streamapp.protocol.topics import DATA_BLOCKS
from streamapp.units import MIB
from streamapp.worker.application import FETCH_BYTES


async def read(brokers: str, size: int) -> tuple[float, float]:
    """Read *size* bytes; return MiB/s and CPU seconds."""
    consumer = AIOKafkaConsumer(
        DATA_BLOCKS,
        bootstrap_servers=brokers,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_partition_fetch_bytes=FETCH_BYTES,
    )
    await consumer.start()
    try:
        began, cpu, left, first = 0.0, 0.0, size, 0
        while left > 0:
            for records in (await consumer.getmany(timeout_ms=1000, max_records=64)).values():
                left -= sum(len(record.value) for record in records)
            if not began and left < size:
                began, cpu, first = time.monotonic(), time.process_time(), size - left
        seconds, cpu = time.monotonic() - began, time.process_time() - cpu
        return (size - first) / MIB / seconds, cpu
    finally:
        await consumer.stop()


if __name__ == "__main__":
    print(*asyncio.run(read(sys.argv[1], int(sys.argv[2]))))
