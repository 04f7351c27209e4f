"""File locks between processes: two brokers in one data folder would destroy it.

The system releases a lock when its process ends. Java uses the same locks, so Kafka's lock on its
data folder can be checked.
"""

from __future__ import annotations

import sys
import time

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from streamapp.errors import BrokerError


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


POLL_SECONDS: Final = 0.1


@contextmanager
def one_at_a_time(path: Path, *, within: float) -> Iterator[None]:
    """Hold the lock on the file *path* while the body runs; wait for it if necessary.

    Raises:
        BrokerError: another process still has it after *within* seconds.
    """
    deadline = time.monotonic() + within
    with path.open("ab") as file:
        while not _taken(file.fileno()):
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"another command is starting the broker in {path.parent}, for more than "
                    f"{within:.0f} s: wait for it, or stop it"
                )
            time.sleep(POLL_SECONDS)
        yield


def is_locked(path: Path) -> bool:
    """Return whether another process holds the lock on the file *path*."""
    if not path.exists():
        return False
    with path.open("ab") as file:
        return not _taken(file.fileno())


def _taken(descriptor: int) -> bool:
    try:
        _lock(descriptor)
    except OSError:
        return False
    return True
