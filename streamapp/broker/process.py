"""Processes that outlive the command that started them, and are known for certain later.

A process id alone says nothing: ids are used again. A process is ours only if it also began
when ours did; nothing else is ever signalled here.
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


# The system counts from its start, and its idea of when that was shifts with the clock.
CLOCK_TOLERANCE_SECONDS: Final = 2.0
KILL_SECONDS: Final = 10.0  # the system's own work: freeing memory, closing files
POLL_SECONDS: Final = 0.05

# Popen warns when it is forgotten before its process has ended, which is what we want here.
_started: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class Identity:
    """Which process: its id, and when it began in seconds since the epoch."""

    pid: int
    created: float


def spawn(command: Sequence[str], *, folder: Path, log: Path) -> Identity:
    """Start *command* in *folder*, detached from us and our terminal, its output in *log*."""
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
    except psutil.Error:  # it has ended already; nothing began that long ago
        return Identity(child.pid, 0.0)


def environment() -> dict[str, str]:
    """Return the environment for a Java that must understand any name of a folder."""
    return {**os.environ, "LC_ALL": "C.UTF-8"}


def find(identity: Identity) -> psutil.Process | None:
    """Return the process of *identity* if it still runs, and is the same one."""
    _reap(identity.pid)
    try:
        process = psutil.Process(identity.pid)
        same = abs(process.create_time() - identity.created) <= CLOCK_TOLERANCE_SECONDS
    except psutil.Error:  # gone, or not ours to look at
        return None
    return process if same and _lives(process) else None


def end(processes: Sequence[psutil.Process], *, within: float) -> list[int]:
    """Ask *processes* to end, kill those that have not *within* seconds; return their ids."""
    for process in processes:
        signal(process.terminate)
        signal(process.resume)  # a paused process takes no other signal
    late = _wait(processes, within=within)
    kill(late)
    return [process.pid for process in late]


def kill(processes: Sequence[psutil.Process]) -> None:
    """End *processes* at once, and wait until they are gone."""
    for process in processes:
        signal(process.kill)
    _wait(processes, within=KILL_SECONDS)


def signal(action: Callable[[], None]) -> None:
    """Call *action*, a method of a process that sends it a signal; it may have ended already.

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
    """Return those of *processes* that still run after so many seconds, sooner if none does.

    Unlike psutil's own waiting it takes a dead process for dead even if nobody asks for its
    exit code, as in a container whose first process is no init.
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
        # One whose other threads are still ending holds its files and locks until they have.
        return process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1
    except psutil.NoSuchProcess:
        return False


def _reap(pid: int) -> None:
    """Let go of a child of ours that has ended, so that it is not taken for a running one."""
    child = _started.get(pid)
    if child is not None and child.poll() is not None:
        del _started[pid]


def _detached() -> int:
    """Return what Windows needs for what a new session does elsewhere."""
    flags = 0
    if sys.platform == "win32":
        flags = subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP
    return flags
