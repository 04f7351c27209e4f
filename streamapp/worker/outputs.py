"""Lets a long run continue when its output cannot be written, for example to a closed pipe.

The disks, Kafka and the exit code show what a worker or producer did. So text that cannot be
written to standard output or standard error is dropped, and the run continues.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys

from typing import TYPE_CHECKING, Final, TextIO


if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STALL_SECONDS: Final = 2.0
"""Seconds that a reader may be late (a terminal stopped by Ctrl-S) before output is dropped."""

PIECE_BYTES: Final = 512
"""Bytes that a ready pipe or terminal accepts at once: POSIX's minimum of PIPE_BUF."""

_STREAMS: Final = {"stdin": 0, "stdout": 1, "stderr": 2}


def open_missing() -> None:
    """Open the null device as each standard descriptor that is closed.

    Otherwise a file or a socket gets its number, and libraries would print there.
    """
    for name, fd in _STREAMS.items():
        if getattr(sys, name) is None:  # closed when Python began
            with contextlib.suppress(OSError):
                os.fstat(fd)
                continue
            null = os.open(os.devnull, os.O_RDWR)
            if null != fd:
                os.dup2(null, fd)
                os.close(null)


def secure() -> None:
    """Replace standard output and standard error by streams that never raise or block for long."""
    open_missing()
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:
            setattr(sys, name, _lasting(_STREAMS[name], line_buffering=True))
        elif _is_standard(stream, _STREAMS[name]):
            with contextlib.suppress(OSError):
                stream.flush()
            setattr(sys, name, _lasting(_STREAMS[name], like=stream))


def _is_standard(stream: TextIO, fd: int) -> bool:
    """Return whether *stream* is the process's own, and not a test's or a `LastingOutput`."""
    try:
        is_own = stream.fileno() == fd
    except (OSError, ValueError):
        return False
    return is_own and not isinstance(getattr(stream.buffer, "raw", None), LastingOutput)


def _lasting(
    fd: int, *, like: TextIO | None = None, line_buffering: bool = False
) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(LastingOutput(fd)),
        encoding=like.encoding if like else "utf-8",
        errors=(like.errors if like else None) or "backslashreplace",
        line_buffering=line_buffering or getattr(like, "line_buffering", True),
    )


class LastingOutput(io.FileIO):
    """Writes to a descriptor; bytes that it does not accept are dropped and counted."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd, "wb", closefd=False)
        self.lost_bytes = 0
        self._is_stalled = False

    def write(self, data: ReadableBuffer, /) -> int:
        """Write *data*, or as much of it as the reader accepts in time; return its length."""
        view = memoryview(data).cast("B")
        for start in range(0, len(view), PIECE_BYTES):
            piece = view[start : start + PIECE_BYTES]
            if not self._write_piece(piece):
                self.lost_bytes += len(piece)
        return len(view)

    def _write_piece(self, piece: memoryview) -> bool:
        try:
            if not self._is_ready():
                return False
            if self.lost_bytes:
                note = f"\n[{self.lost_bytes} bytes of output are lost: nobody read them]\n"
                self.lost_bytes = 0
                super().write(note.encode())
            return super().write(piece) == len(piece)
        except OSError:  # the reader is gone, or the volume of the log is full
            return False

    def _is_ready(self) -> bool:
        """Return whether the descriptor accepts bytes; after one timeout it does not wait again."""
        if not hasattr(select, "poll"):  # Windows
            return True
        poll = select.poll()
        poll.register(self.fileno(), select.POLLOUT)
        self._is_stalled = not poll.poll(0 if self._is_stalled else STALL_SECONDS * 1000)
        return not self._is_stalled
