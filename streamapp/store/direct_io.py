"""Writes a block's bytes past the page cache, where the file system supports it.

A block is not read soon after it was written, so the cache does not help, and takes memory from
the brokers' log. Filling it is also the largest processor cost of a worker. The bytes still need
an fsync.

The kernel requires whole pages, in memory and in the file. The end of a block is written through
the cache, as is everything on file systems without support.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading

from typing import Final

from streamapp.units import KIB, MIB


PAGE_BYTES: Final = 4 * KIB
"""Alignment of offsets, sizes and memory; sufficient for all common disks."""

PIECE_BYTES: Final = MIB
"""Bytes per write; each writing thread has a buffer of this size."""

_DIRECT: Final = getattr(os, "O_DIRECT", 0)
_CANNOT: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP})

_local = threading.local()


def begin(fd: int) -> bool:
    """Enable direct I/O on *fd*, a new file; return whether the file system supports it."""
    if not _DIRECT:
        return False
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | _DIRECT)
    except OSError:
        return False
    return True


def end(fd: int) -> None:
    """Disable direct I/O on *fd*."""
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~_DIRECT)


def write_pages(fd: int, data: bytes | memoryview, *, offset: int) -> int:
    """Write the whole pages of *data* at *offset*; return how many bytes were written.

    The caller writes the rest with `dirfd.write_all`.

    Raises:
        OSError: it cannot be written.
    """
    view, written = memoryview(data), 0
    if offset % PAGE_BYTES:
        return 0
    pages = _pages()
    while size := min(len(view) - written, PIECE_BYTES) // PAGE_BYTES * PAGE_BYTES:
        pages[:size] = view[written : written + size]
        try:
            count = os.pwrite(fd, pages[:size], offset + written)
        except OSError as error:
            if error.errno in _CANNOT:
                break
            raise
        written += count
        if count % PAGE_BYTES:
            break
    return written


def _pages() -> memoryview:
    """Return this thread's page-aligned buffer."""
    if not hasattr(_local, "pages"):
        _local.pages = memoryview(mmap.mmap(-1, PIECE_BYTES))
    pages: memoryview = _local.pages
    return pages
