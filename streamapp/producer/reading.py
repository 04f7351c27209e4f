"""Reads one block of a file, and notices when the file is not what it was.

A file that is written while it is read would arrive as a mixture that never existed. So the
open file and its path are both compared with the scan, before the first byte is read and
after the last; and the last piece is given out only after that.
"""

from __future__ import annotations

import os

from typing import TYPE_CHECKING, Final

from streamapp.errors import SourceChangedError


if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import FileIO

    from streamapp.producer.scan import Source

# A pipe that took the file's place since the scan must not hold the reader for ever.
_OPEN_FLAGS: Final = getattr(os, "O_NONBLOCK", 0)


def chunks(path: str, source: Source, span: tuple[int, int], size: int) -> Iterator[bytes]:
    """Yield the bytes of *span* (start, length) of *source* at *path*, at most *size* at once.

    An empty span yields one empty piece.

    Raises:
        SourceChangedError: it is not, or no longer, the file that was scanned.
        OSError: it cannot be opened or read.
    """
    start, left = span
    with open(path, "rb", buffering=0, opener=_opener) as file:
        _check(file, path, source)
        file.seek(start)
        while True:
            chunk = _read(file, min(left, size))
            left -= len(chunk)
            if left == 0:
                _check(file, path, source)
                yield chunk
                return
            yield chunk


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | _OPEN_FLAGS)


def _read(file: FileIO, size: int) -> bytes:
    """Return *size* bytes. A file system may give fewer at once; only none is the end."""
    chunk = file.read(size)
    while chunk is not None and len(chunk) < size:
        more = file.read(size - len(chunk))
        if not more:
            raise SourceChangedError("it became shorter while it was read")
        chunk += more
    return chunk or b""


def _check(file: FileIO, path: str, source: Source) -> None:
    opened = os.fstat(file.fileno())
    named = os.stat(path)  # noqa: PTH116 - a Path for each block would buy nothing
    if not (source.is_same(opened) and source.is_same(named) and os.path.samestat(opened, named)):
        raise SourceChangedError(
            f"it was written or replaced since it was found: {source.size} bytes then, "
            f"{named.st_size} now"
        )
