"""Writes a block's bytes past the page cache, where the file system can.

Nobody reads a block soon after it was written, so the cache does nothing for it, and takes
memory from the brokers' log, which is read at once. Filling it is also what costs a worker
most: each page has to be found, and be copied into. What was written so is not on the disk
for good before it was fsynced, as ever.

The kernel wants whole pages for it, in memory and in the file. What does not end on a page, the
end of a block, is written through the cache, and so is everything where it can't be otherwise.
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
"""What offsets, sizes and memory must be a multiple of: enough for every disk in use."""

PIECE_BYTES: Final = MIB
"""What is written at a time; each thread that writes has so much memory for it."""

_DIRECT: Final = getattr(os, "O_DIRECT", 0)
_CANNOT: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP})

_local = threading.local()


def begin(fd: int) -> bool:
    """Have *fd*, a new file, written past the cache; return whether its file system can."""
    if not _DIRECT:
        return False
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | _DIRECT)
    except OSError:
        return False
    return True


def end(fd: int) -> None:
    """Have *fd* written through the cache from now on."""
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~_DIRECT)


def write_pages(fd: int, data: bytes | memoryview, *, offset: int) -> int:
    """Write what of *data* is whole pages at *offset*; return how many bytes that were.

    Less than there are when the disk takes no more so; the rest is for `dirfd.write_all`.

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
    """Return this thread's memory for one piece; it begins on a page."""
    if not hasattr(_local, "pages"):
        _local.pages = memoryview(mmap.mmap(-1, PIECE_BYTES))
    pages: memoryview = _local.pages
    return pages
