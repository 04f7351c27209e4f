"""The limit of this process's file descriptors, and the part of it that the web views may use.

A connection to the views takes a descriptor, as does a block that is written, a table and a
connection to Kafka. Web clients must not use up the descriptors of the others.
"""

from __future__ import annotations

import sys

from typing import Final


UNKNOWN: Final = 512
"""The assumed limit where the system does not report one."""

ENOUGH: Final = 1 << 20
"""The highest limit that is set: some systems allow billions, and allocate a table."""

MAX_CONNECTIONS: Final = 256
MIN_CONNECTIONS: Final = 8


def raise_limit() -> int:
    """Raise this process's limit as far as the system allows; return it."""
    if sys.platform == "win32":
        return UNKNOWN
    import resource  # noqa: PLC0415 - POSIX only

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        return most
    return ENOUGH if soft == resource.RLIM_INFINITY else soft


def for_views(limit: int) -> int:
    """Return how many connections the views may have with *limit* descriptors."""
    return max(MIN_CONNECTIONS, min(MAX_CONNECTIONS, limit // 4))
