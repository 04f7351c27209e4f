"""Reads a table for a list without blocking the streams, which share the event loop.

A list reads every row. It reads in short slices and leaves the event loop to the streams in
between. One list is read at a time, and the number of waiting lists is limited; further requests
get an error that asks to retry. So blocks are received at half their speed at worst.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from streamapp.errors import RequestRefusedError
from streamapp.worker.readiness import RESTORING


if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Iterator

    from faust.types.web import Response
    from faust.web import View

SLICE_SECONDS: Final = 0.002
"""Longest slice in which a list occupies the event loop."""

PAUSE_SECONDS: Final = 0.003
"""Pause between two slices."""

ROWS_BETWEEN_LOOKS: Final = 32

LISTS_AT_ONCE: Final = 4
"""Most lists that are answered or wait. Requests of other workers have a larger limit."""

RETRY_SECONDS: Final = 2

_T = TypeVar("_T")


class ListGate:
    """Limits the number of lists, and lets one of them read the rows at a time."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._inside = 0
        self._lock = asyncio.Lock()

    @contextlib.contextmanager
    def enter(self) -> Iterator[None]:
        """Count one list while the body runs.

        Raises:
            RequestRefusedError: the limit is reached.
        """
        if self._inside >= self._at_once:
            message = f"{self._inside} lists are asked for already, ask again"
            raise RequestRefusedError(message, status=429, retry_seconds=RETRY_SECONDS)
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    async def rows(self, table: Iterable[_T]) -> AsyncGenerator[_T, None]:
        """Yield the rows of *table* in slices, while no other list reads.

        Raises:
            RequestRefusedError: the table was closed or changed meanwhile.
        """
        async with self._lock:
            try:
                async with contextlib.aclosing(in_slices(table)) as found:
                    async for row in found:
                        yield row
            except Exception as error:  # a store that was closed or changed raises any error
                message = f"{RESTORING}, ask again"
                raise RequestRefusedError(message, status=503) from error


_gates: Final = {False: ListGate(LISTS_AT_ONCE), True: ListGate(4 * LISTS_AT_ONCE)}


def gate(*, is_local: bool) -> ListGate:
    """Return the gate of users' requests, or of other workers' requests (*is_local*)."""
    return _gates[is_local]


def json_of(view: View, answer: Any) -> Response:  # noqa: ANN401 - whatever becomes JSON
    """Return *answer* as JSON; msgspec needs a tenth of the time of ``view.json``."""
    return view.bytes(
        msgspec.json.encode(answer), headers={"Content-Type": "application/json; charset=utf-8"}
    )


async def in_slices(items: Iterable[_T]) -> AsyncGenerator[_T, None]:
    """Yield *items*, with a pause after each slice."""
    began = time.perf_counter()
    for number, item in enumerate(items, 1):
        yield item
        if number % ROWS_BETWEEN_LOOKS == 0 and time.perf_counter() - began > SLICE_SECONDS:
            await asyncio.sleep(PAUSE_SECONDS)
            began = time.perf_counter()
