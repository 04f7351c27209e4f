"""A flood of connections to the views does not slow down blocks or Kafka."""

import contextlib
import socket

from tests import harness
from tests.harness import MIB


FLAGS = {"block_size": "1MiB", "frame_size": "256KiB"}
DESCRIPTORS = 256
LIMITED = ("sh", "-c", f'ulimit -n {DESCRIPTORS} && exec "$@"', "sh")


def test_half_open_requests(site):
    """More half-open requests than descriptors: a delivery arrives meanwhile, the log is short."""
    rng = harness.seeded()
    worker = site.worker("w1", under=LIMITED).wait_until_ready(range(harness.PARTITIONS))
    pid = worker.pid
    source = site.source({"a": 20 * MIB, "b": 10}, rng)
    with contextlib.ExitStack() as stack:
        for number in range(3 * DESCRIPTORS):
            where = ("127.0.0.1", int(worker.url.rpartition(":")[2]))
            local = (f"127.0.0.{2 + number % 100}", 0)
            half = stack.enter_context(socket.create_connection(where, 10, local))
            with contextlib.suppress(OSError):
                half.sendall(b"GET /progress/ HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        assert 0 == site.producer(source, **FLAGS).wait(60)
    assert (pid, True) == (worker.pid, worker.is_running)
    assert [] == site.verdict({"source": source}).problems
    assert len(worker.said()) < 100_000
    assert "Too many open files" not in worker.said()
