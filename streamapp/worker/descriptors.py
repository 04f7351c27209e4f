"""How many files and connections this process may have open, and the share of the views.

A connection to the views takes a descriptor, as does a block that is written, a table and a
connection to Kafka. Whoever opens connections must not take the descriptors of the others.
"""

from __future__ import annotations

import sys

from typing import Final


UNKNOWN: Final = 512
"""What is reckoned with where the system does not say."""

ENOUGH: Final = 1 << 20
"""More is not asked for: some systems allow billions, and keep a table of them."""

MAX_CONNECTIONS: Final = 256
MIN_CONNECTIONS: Final = 8


def raise_limit() -> int:
    """Allow this process as many descriptors as its system lets it; return how many."""
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
    """Return how many connections the views may have when the process has *limit* descriptors."""
    return max(MIN_CONNECTIONS, min(MAX_CONNECTIONS, limit // 4))
