"""The watchdog: it notices a stuck worker, and not a slow, waiting or suspended one."""

import subprocess
import sys

import pytest

from streamapp.errors import WatchdogError
from streamapp.receiver.stats import WorkerStats
from streamapp.worker.watchdog import LOOK_SECONDS, LOOP_LOOKS, Sample, Watchdog


PATIENCE, RECOVERY = 60.0, 300.0
PLACE, OTHER = ("data-blocks", 3), ("processing-status", 0)


class Worker:
    """A worker as the samples show it; a test changes its state between looks."""

    def __init__(self):
        self.now = 1000.0
        self.seen = {
            "loop_answered": True,
            "ready": True,
            "holding": False,
            "taken": {PLACE: 5},
            "committed": {PLACE: 5},
            "ends": {PLACE: 9},
        }
        self._watchdog = Watchdog(patience=PATIENCE, recovery_patience=RECOVERY)

    def look(self, *, after=LOOK_SECONDS, **changes):
        """Look once more, *after* so many seconds; return the reason."""
        self.now += after
        self.seen |= changes
        return self._watchdog.judge(Sample(now=self.now, **self.seen))

    def alarm_within(self, seconds):
        """Look until there is an alarm; return it, or an empty string."""
        looks = int(seconds / LOOK_SECONDS)
        return next(filter(None, (self.look() for _ in range(looks))), "")


@pytest.fixture
def worker():
    """A worker with four records to process."""
    return Worker()


def test_silent_loop(worker):
    """An event loop counts as stuck after many consecutive looks without an answer."""
    worker.seen |= {"committed": {PLACE: 9}}
    reasons = [worker.look(loop_answered=False) for _ in range(LOOP_LOOKS - 1)]
    assert {""} == set(reasons)
    assert not worker.look(loop_answered=True)

    reasons = [worker.look(loop_answered=False) for _ in range(LOOP_LOOKS)]

    assert {""} == set(reasons[:-1])
    assert "event loop" in reasons[-1]


def test_busy_loop(worker):
    """While the event loop is busy, no partition counts as stuck; afterwards one may."""
    looks = int(2 * PATIENCE / LOOK_SECONDS)
    reasons = [worker.look(loop_answered=number % 4 == 0) for number in range(looks)]
    assert {""} == set(reasons)
    assert "none taken" in [worker.look(loop_answered=True) for _ in range(looks)][-1]


def test_silent_loop_without_a_broker(worker):
    """A stuck event loop is noticed also when no broker answers."""
    worker.seen |= {"loop_answered": False, "committed": None, "ends": None}

    assert "event loop" in worker.alarm_within(LOOP_LOOKS * LOOK_SECONDS)


def test_stuck(worker):
    """With records to process, none taken and none committed for too long, it is stuck."""
    assert not worker.alarm_within(PATIENCE)
    assert "data-blocks-3: 4 records" in worker.alarm_within(3 * LOOK_SECONDS)


def test_never_committed(worker):
    """A group without commits can be stuck as well."""
    worker.seen |= {"committed": {}, "taken": {}}

    assert "9 records" in worker.alarm_within(2 * PATIENCE)


def test_all_is_done(worker):
    """Without records to process, it is not stuck, not after a week."""
    worker.seen |= {"committed": {PLACE: 9}}

    assert not worker.alarm_within(7 * 24 * 3600)


def test_slow_block(worker):
    """A large block over a slow link takes frames and commits nothing for hours: no alarm."""
    for number in range(1000):
        assert not worker.look(after=PATIENCE / 2, taken={PLACE: number})


def test_heartbeats_hide_nothing(worker):
    """Progress in other partitions does not hide a stuck one."""
    reasons = [
        worker.look(
            taken={PLACE: 5, OTHER: n}, committed={PLACE: 5, OTHER: n}, ends={PLACE: 9, OTHER: 99}
        )
        for n in range(20)
    ]

    assert any("data-blocks-3" in reason for reason in reasons)


def test_holding(worker):
    """A paused worker (a full disk) is not stuck."""
    worker.seen |= {"holding": True}

    assert not worker.alarm_within(24 * 3600)


@pytest.mark.parametrize("ready", [True, False])
def test_frozen(worker, ready):
    """The time for which a machine or process was suspended does not count."""
    worker.look(ready=ready)

    assert not worker.look(after=10 * 3600.0)
    assert not worker.look(after=10 * 3600.0, loop_answered=False)


def test_no_broker(worker):
    """Without a broker there is no judgement; when it answers again, counting resumes."""
    assert not worker.alarm_within(PATIENCE / 2)
    known = {name: worker.seen[name] for name in ("committed", "ends")}
    worker.seen |= dict.fromkeys(known)
    assert not worker.alarm_within(24 * 3600)
    worker.seen |= known

    assert not worker.look()
    assert "data-blocks-3" in worker.alarm_within(PATIENCE)


def test_partition_that_came_back(worker):
    """The time that another machine had a partition does not count."""
    assert not worker.alarm_within(PATIENCE - 2 * LOOK_SECONDS)
    worker.look(ends={})

    assert not worker.look(ends={PLACE: 9})
    assert not worker.alarm_within(PATIENCE - 2 * LOOK_SECONDS)


def test_recovery(worker):
    """Tables that are not recovered in time are an alarm; each recovery has its own time."""
    worker.seen |= {"ready": False}
    assert not worker.alarm_within(RECOVERY)
    assert not worker.look(ready=True)
    worker.seen |= {"ready": False}
    assert not worker.alarm_within(RECOVERY)

    assert "not recovered" in worker.alarm_within(3 * LOOK_SECONDS)


def test_taken_by_place():
    """Records are counted for each partition of each topic."""
    stats = WorkerStats()
    for place in (PLACE, OTHER, PLACE):
        stats.took(*place)

    assert {PLACE: 2, OTHER: 1} == stats.taken


STUCK = """
import sys
from streamapp.worker import watchdog
watchdog.LOOK_SECONDS = 0.01
looks = []
class Watched:
    def sample(self, *, loop_answered):
        looks.append(loop_answered)
        if len(looks) == 3:
            raise RuntimeError("a set changed while it was read")
        return watchdog.Sample(now=len(looks) * 10.0, loop_answered=loop_answered, ready=True,
            holding=False, taken={}, committed={("t", 0): 1}, ends={("t", 0): 2})
    def ask_loop(self, answer):
        answer()
    def before_exit(self, reason):
        print(reason, flush=True)
        raise OSError("not even that is possible")
thread = watchdog.WatchdogThread(Watched(), watchdog.Watchdog(patience=60, recovery_patience=60))
thread.start()
thread.join(60)
sys.exit(1)
"""


def test_process_ends():
    """The process ends with the documented code, whatever fails before."""
    done = subprocess.run(
        [sys.executable, "-c", STUCK], capture_output=True, text=True, check=False, timeout=120
    )

    assert WatchdogError.exit_code == 75 == done.returncode, done.stderr
    assert "t-0: 1 record to do" in done.stdout
    assert "cannot look" in done.stderr
