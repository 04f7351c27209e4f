"""A worker that is stuck: its watchdog ends it, and nothing that it held is lost."""

from streamapp.errors import WatchdogError
from tests import harness
from tests.harness import MIB
from tests.storage import damage
from tests.waiting import wait_for


FLAGS = {"block_size": "1MiB", "frame_size": "256KiB", "compression": "none"}
BLOCKS = 12
NEVER = "delay_enter=3600000000"  # microseconds


def test_disk_that_never_answers(site):
    """Where fsync hangs nothing is committed: the worker ends, and is whole when it is back."""
    damage.need("strace", what="that the watchdog ends a worker that a disk holds up")
    rng = harness.seeded()
    source = site.source({"a": BLOCKS * MIB}, rng)
    (worker,) = site.ready_workers("w1", watchdog_patience=10)
    calls = "fsync,fdatasync"
    attach = ("strace", "-f", "-p", worker.pid, "-e", f"trace={calls}")
    strace = site.process("strace", [*attach, "-e", f"inject={calls}:{NEVER}"])
    wait_for(lambda: "attached" in strace.said(), within=30, what="strace to attach")

    producer = site.producer(source, **FLAGS)

    with harness.healing("disk that never answers, seen by a watchdog with a patience of 10 s"):
        wait_for(lambda: "watchdog: data-blocks" in worker.said(), within=90, what="the watchdog")
    strace.kill()  # the kernel ends no thread that a tracer holds
    assert WatchdogError.exit_code == worker.wait()
    assert "none taken and none committed" in worker.said()
    assert "Traceback" not in worker.said()
    assert [] == site.acks()
    worker.start().wait_until_ready()
    assert 0 == producer.wait()
    verdict = site.verdict({"source": source})
    assert ([], BLOCKS) == (verdict.problems, verdict.acks)
