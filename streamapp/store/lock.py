"""Locks a data folder for one worker. The lock ends with the process."""

from __future__ import annotations

import fcntl
import os
import stat
import time

from typing import TYPE_CHECKING, Final

from streamapp.errors import StoreBusyError, StoreError
from streamapp.store import dirfd


if TYPE_CHECKING:
    from pathlib import Path

LOCK: Final = ".lock"

# O_NONBLOCK: opening a planted pipe must not wait.
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def take(path: Path, fd: int, *, mode: int) -> int:
    """Lock the data folder *path*, which is open as *fd*; return the lock's descriptor.

    Raises:
        StoreBusyError: another worker has the folder.
        StoreError: the file under the lock's name is not the folder's own.
        OSError: it cannot be locked.
    """
    _check(path, _found(fd))
    lock = os.open(LOCK, _FLAGS, mode, dir_fd=fd)
    try:
        _check(path, os.fstat(lock))
        _lock(path, lock)
        dirfd.set_mode(lock, mode)
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"pid {os.getpid()}, since {started}\n".encode(), 0)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _found(fd: int) -> os.stat_result | None:
    try:
        return os.stat(LOCK, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _check(path: Path, found: os.stat_result | None) -> None:
    """Refuse a lock file that is a hard link: writing to it would change another file."""
    if found is None or (stat.S_ISREG(found.st_mode) and found.st_nlink <= 1):
        return
    is_file = stat.S_ISREG(found.st_mode)
    what = f"a file with {found.st_nlink} names" if is_file else "no regular file"
    message = f"{path / LOCK} is {what}, expected a file of this folder alone: remove it"
    raise StoreError(message)


def _lock(path: Path, lock: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(lock, 100, 0).decode("utf-8", "replace").strip()
        message = (
            f"the data folder {path} belongs to another worker ({owner or 'unknown'}): "
            "stop it, or give this one another --machine-id or --data-dir"
        )
        raise StoreBusyError(message) from error
