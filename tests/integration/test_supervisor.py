"""``--supervise``: what dies is started again, later each time; what its user must mend is not."""

import itertools
import signal
import subprocess
import sys

import pytest

from streamapp.worker import supervisor
from tests.waiting import wait_for


SUPERVISE = """
import logging, sys
from streamapp.worker import supervisor
logging.basicConfig(format="%(message)s")
supervisor.FIRST_PAUSE, supervisor.LONGEST_PAUSE, supervisor.LOOK_SECONDS = 0.02, 0.04, 0.01
sys.exit(supervisor.supervise([sys.executable, "-c", *sys.argv[1:]]))
"""
# Ends as the next argument says each time it is started, and notes that it was.
CHILD = """
import os, sys, pathlib
runs = pathlib.Path(sys.argv[1])
done = len(runs.read_text()) if runs.exists() else 0
runs.write_text("x" * (done + 1))
end = int(sys.argv[2:][done])
os.kill(os.getpid(), -end) if end < 0 else sys.exit(end)
"""
WAITING = """
import pathlib, signal, sys, time
def stop(number, frame):
    sys.exit(int(sys.argv[2]))
signal.signal(signal.SIGTERM, stop)
pathlib.Path(sys.argv[1]).write_text("up")
while True:
    time.sleep(0.01)
"""


def test_pauses():
    """Pauses double up to the longest; a good run makes the next one the first again."""
    pauses = list(itertools.accumulate(range(9), lambda last, _: supervisor.next_pause(last, 1.0)))

    assert [0, 1, 2, 4, 8, 16, 32, 60, 60] == pauses
    assert supervisor.FIRST_PAUSE == supervisor.next_pause(60.0, supervisor.GOOD_RUN_SECONDS + 1)


@pytest.mark.parametrize(
    ("ends", "runs", "code"),
    [
        ((75, 70, -9, -11, 30, 1, 0), 7, 0),  # watchdog, unforeseen, signals, broker, anything
        ((2, 0), 1, 2),  # settings
        ((75, 22, 0), 2, 22),  # another worker has the folder
        ((32, 0), 1, 32),  # a right is missing
        ((33, 0), 1, 33),  # a topic is not as it must be
    ],
)
def test_restarts(tmp_path, ends, runs, code):
    """It starts again what may work the next time, and ends with the code of the last run."""
    done = subprocess.run(
        [sys.executable, "-c", SUPERVISE, CHILD, tmp_path / "runs", *map(str, ends)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert code == done.returncode, done.stderr
    assert "x" * runs == (tmp_path / "runs").read_text()
    assert runs - 1 == done.stderr.count("starting it again")


@pytest.mark.parametrize("code", [0, 75])
def test_told_to_stop(tmp_path, code):
    """SIGTERM goes to the worker; whatever that ends with, it is not started again."""
    up = tmp_path / "up"
    process = subprocess.Popen([sys.executable, "-c", SUPERVISE, WAITING, up, str(code)])
    try:
        wait_for(up.exists, within=60, what="the worker to start")
        process.send_signal(signal.SIGTERM)

        assert code == process.wait(60)
    finally:
        process.kill()
        process.wait()


def test_told_to_stop_while_it_pauses(tmp_path):
    """SIGTERM between two runs ends it at once."""
    script = SUPERVISE.replace("0.02, 0.04", "600, 600")
    process = subprocess.Popen(
        [sys.executable, "-c", script, CHILD, tmp_path / "runs", "75", "0"],
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert "starting it again in 600 s" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)

        assert 75 == process.wait(60)
    assert "x" == (tmp_path / "runs").read_text()
