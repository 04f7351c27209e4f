"""Detached processes: found again for certain, and nothing else is ever ended."""

import os
import platform
import subprocess
import sys

import psutil
import pytest

from streamapp.broker import process as processes
from streamapp.broker.process import Identity
from tests.waiting import wait_for


SLEEPER = "print('up', flush=True); import time; time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"


@pytest.fixture
def start(tmp_path):
    """Start a Python that runs some code, wait until it is up; it ends with the test."""
    started = []

    def run(code):
        log = tmp_path / f"{len(started)}.log"
        started.append(
            processes.spawn([sys.executable, "-c", code], folder=tmp_path, log=log),
        )
        wait_for(lambda: b"up" in log.read_bytes(), within=10, what="the process to be up")
        return started[-1]

    yield run
    processes.kill([found for identity in started if (found := processes.find(identity))])


def test_found_again(start):
    """A process is found by its id and the time when it began."""
    identity = start(SLEEPER)

    assert identity.pid == processes.find(identity).pid


@pytest.mark.skipif(sys.platform == "win32", reason="sessions are POSIX")
def test_own_session(start):
    """Ctrl-C in our terminal does not reach it."""
    identity = start(SLEEPER)

    assert os.getsid(0) != os.getsid(identity.pid)


def test_another_process_with_the_same_id():
    """A process with the right id that began at another time is not ours."""
    mine = psutil.Process()

    assert processes.find(Identity(mine.pid, mine.create_time() - 60)) is None


def test_ended_process_is_gone(start):
    """A process that has ended is not found, although nobody asked for its exit code."""
    identity = start(SLEEPER)

    processes.kill([processes.find(identity)])

    assert processes.find(identity) is None


HALF_DEAD = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
print("up", flush=True)
ctypes.CDLL(None).syscall(60, 0)  # exit(2): ends this thread alone, which is the first one
"""


@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="number of a system call"
)
def test_half_dead_process_lives(start):
    """A process some of whose threads are still ending may hold its locks: it is not gone."""
    identity = start(HALF_DEAD)
    process = psutil.Process(identity.pid)
    wait_for(lambda: process.status() == psutil.STATUS_ZOMBIE, within=10, what="half a death")

    assert processes.find(identity) is not None
    processes.kill([process])
    assert processes.find(identity) is None


@pytest.mark.skipif(sys.platform == "win32", reason="zombies are POSIX")
def test_zombie_of_someone_else_is_gone():
    """A dead process whose parent never asks for it counts as dead."""
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    dead = psutil.Process(child.pid)
    identity = Identity(child.pid, dead.create_time())
    wait_for(lambda: dead.status() == psutil.STATUS_ZOMBIE, within=10, what="a zombie")

    assert processes.find(identity) is None
    assert [] == processes.end([dead], within=0)

    child.wait()


def test_end_politely(start):
    """A process that ends when asked to is not killed."""
    assert [] == processes.end([processes.find(start(SLEEPER))], within=10)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no polite signal")
def test_end_by_force(start):
    """A process that does not end in time is killed, and reported."""
    identity = start(STUBBORN)

    assert [identity.pid] == processes.end([processes.find(identity)], within=0.2)
    assert processes.find(identity) is None


@pytest.mark.skipif(sys.platform == "win32", reason="stopping a process is POSIX")
def test_end_a_paused_one(start):
    """A paused process ends as politely as any other."""
    process = processes.find(start(SLEEPER))
    process.suspend()

    assert [] == processes.end([process], within=10)


def test_program_that_is_not_there(tmp_path):
    """A program that cannot be started is an error of the system, and leaves nothing."""
    with pytest.raises(FileNotFoundError):
        processes.spawn([str(tmp_path / "none")], folder=tmp_path, log=tmp_path / "log")
