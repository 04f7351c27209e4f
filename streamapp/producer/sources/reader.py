"""Reads one block of a file, and raises an error if the file changed since the scan.

A file that is written while it is read would be sent as a mixture that never existed. A folder
that was replaced by a link would lead to a file that must not be sent. So the path is opened part
by part without following links. The open file and the path's entry are compared with the scan
(device, inode, size and times) before the first byte is read and after the last byte. The last
chunk is yielded only after that.
"""

from __future__ import annotations

import contextlib
import errno
import os

from typing import TYPE_CHECKING, Final

from streamapp.errors import SourceChangedError
from streamapp.producer.sources import directory


if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import FileIO
    from pathlib import Path

    from streamapp.producer.sources.directory import Directory
    from streamapp.producer.sources.scan import SourceFile

_REPLACED: Final = frozenset({errno.ENOTDIR, errno.ELOOP})  # a part of the path is a link now


def chunks(
    folder: str | Path, source: SourceFile, span: tuple[int, int], size: int
) -> Iterator[bytes]:
    """Yield the bytes of *span* (start, length) of *source* below *folder*, *size* bytes each.

    An empty span yields one empty chunk.

    Raises:
        SourceChangedError: the file changed since the scan, or was replaced.
        OSError: the file cannot be opened or read.
    """
    start, left = span
    with _open(folder, source) as (holder, name, file):
        file.seek(start)
        while True:
            chunk = _read(file, min(left, size))
            left -= len(chunk)
            if left == 0:
                _check(source, os.fstat(file.fileno()))
                _check(source, _look(holder, name))
                yield chunk
                return
            yield chunk


@contextlib.contextmanager
def _open(folder: str | Path, source: SourceFile) -> Iterator[tuple[Directory, str, FileIO]]:
    """Open *source*; give its parent folder, its name there, and the file."""
    with contextlib.ExitStack() as stack:
        try:
            place = source.place or source.relative
            holder, name = stack.enter_context(directory.parent(folder, place))
            _check(source, _look(holder, name))  # another file is not even opened
            file = stack.enter_context(open(holder.open(name), "rb", buffering=0))  # noqa: PTH123
        except FileNotFoundError as error:
            raise SourceChangedError("it was removed since it was found") from error
        except OSError as error:
            if error.errno in _REPLACED:
                raise SourceChangedError(
                    "a folder on its path was replaced since it was found"
                ) from error
            raise
        _check(source, os.fstat(file.fileno()))
        yield holder, name, file


def _read(file: FileIO, size: int) -> bytes:
    """Return *size* bytes. A file system may return fewer; no byte at all is the end."""
    chunk = file.read(size)
    while chunk is not None and len(chunk) < size:
        more = file.read(size - len(chunk))
        if not more:
            raise SourceChangedError("it became shorter while it was read")
        chunk += more
    return chunk or b""


def _look(holder: Directory, name: str) -> os.stat_result:
    try:
        return holder.look(name)
    except FileNotFoundError as error:
        raise SourceChangedError("it was removed since it was found") from error


def _check(source: SourceFile, found: os.stat_result) -> None:
    if source.is_same(found):
        return
    if (found.st_dev, found.st_ino) != (source.device, source.inode):
        raise SourceChangedError("another file has taken its place since it was found")
    raise SourceChangedError(
        f"it was written since it was found: {source.size} bytes then, {found.st_size} now"
    )
