"""Processes that outlive the command that started them, and are identified later.

Process ids are reused. Therefore a process is identified by its id and its start time, and no
other process is ever signalled.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psutil

from streamapp.errors import BrokerError


if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


# A start time is relative to the boot time, which shifts with the clock.
CLOCK_TOLERANCE_SECONDS: Final = 2.0
KILL_SECONDS: Final = 10.0  # the system frees memory and closes files
POLL_SECONDS: Final = 0.05

# Popen warns if it is deleted before its process has ended; these processes outlive it.
_started: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class Identity:
    """A process id, and the process's start time in seconds since the epoch."""

    pid: int
    created: float


def spawn(command: Sequence[str], *, folder: Path, log: Path) -> Identity:
    """Start *command* in *folder*, detached from this terminal, with its output in *log*."""
    with log.open("wb") as output:
        child = subprocess.Popen(  # noqa: S603 - the command is our own
            command,
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            creationflags=_detached(),
        )
    _started[child.pid] = child
    try:
        return Identity(child.pid, psutil.Process(child.pid).create_time())
    except psutil.Error:  # it has ended already; no process has this start time
        return Identity(child.pid, 0.0)


def environment() -> dict[str, str]:
    """Return the environment for a Java that must accept any folder name."""
    return {**os.environ, "LC_ALL": "C.UTF-8"}


def find(identity: Identity) -> psutil.Process | None:
    """Return the process of *identity*; None if it has ended."""
    _reap(identity.pid)
    try:
        process = psutil.Process(identity.pid)
        same = abs(process.create_time() - identity.created) <= CLOCK_TOLERANCE_SECONDS
    except psutil.Error:  # ended, or not accessible
        return None
    return process if same and _lives(process) else None


def end(processes: Sequence[psutil.Process], *, within: float) -> list[int]:
    """Terminate *processes*, kill those that run *within* seconds later; return their ids."""
    for process in processes:
        signal(process.terminate)
        signal(process.resume)  # a paused process takes no other signal
    late = _wait(processes, within=within)
    kill(late)
    return [process.pid for process in late]


def kill(processes: Sequence[psutil.Process]) -> None:
    """Kill *processes*, and wait until they have ended."""
    for process in processes:
        signal(process.kill)
    _wait(processes, within=KILL_SECONDS)


def signal(action: Callable[[], None]) -> None:
    """Call *action*, which sends a signal to a process; the process may have ended already.

    Raises:
        BrokerError: the process belongs to another user.
    """
    try:
        action()
    except psutil.NoSuchProcess:
        return
    except psutil.AccessDenied as error:
        raise BrokerError(
            f"process {error.pid} was started by another user: do this as that user"
        ) from error


def _wait(processes: Sequence[psutil.Process], *, within: float) -> list[psutil.Process]:
    """Wait until *processes* end, up to *within* seconds; return those that still run.

    Unlike psutil's wait, this counts a zombie as ended: in a container without an init, no
    process reads its exit code.
    """
    deadline = time.monotonic() + within
    while (left := [p for p in processes if _lives(p)]) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return left


def _lives(process: psutil.Process) -> bool:
    _reap(process.pid)
    try:
        if not process.is_running():
            return False
        # A zombie with several threads still has its files and locks.
        return process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1
    except psutil.NoSuchProcess:
        return False


def _reap(pid: int) -> None:
    """Read the exit code of a child that has ended, so that it is no zombie."""
    child = _started.get(pid)
    if child is not None and child.poll() is not None:
        del _started[pid]


def _detached() -> int:
    """Return the flags that detach a process on Windows, as a new session does elsewhere."""
    flags = 0
    if sys.platform == "win32":
        flags = subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP
    return flags
