"""Makes and aborts block writers in threads, so that the event loop never waits for a disk."""

from __future__ import annotations

import asyncio

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from collections.abc import Callable

    from streamapp.store.writer import BlockWriter


class PendingWriter:
    """A writer that a thread makes; `abort` is called if the caller is cancelled meanwhile."""

    def __init__(self, make: Callable[[], BlockWriter]) -> None:
        self._make = make
        self._made: BlockWriter | None = None
        self._is_aborted = False

    def make(self) -> BlockWriter:
        """Return the writer. Called in a thread."""
        self._made = self._make()
        if self._is_aborted:
            self._made.abort()
        return self._made

    def abort(self) -> None:
        """Abort the writer, now or as soon as it is made."""
        self._is_aborted = True
        if self._made is not None:
            abort_in_thread(self._made)


def abort_in_thread(writer: BlockWriter) -> None:
    """Abort *writer* in a thread, and do not wait: a writer that calls fsync holds its lock."""
    asyncio.get_running_loop().run_in_executor(None, writer.abort)
