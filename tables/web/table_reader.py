"""Reads a table for a list without holding up the streams, which share the event loop.

A list reads every row. It does so in short slices and leaves the event loop to the streams
in between, one list at a time, and only so many lists wait: whoever comes then is told to
ask again. So blocks go on at half their speed at worst, however many ask.
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
"""How long a list may keep the event loop at once."""

PAUSE_SECONDS: Final = 0.003
"""How long it leaves the event loop alone then."""

ROWS_BETWEEN_LOOKS: Final = 32

LISTS_AT_ONCE: Final = 4
"""Lists that are answered or wait; more for the other workers, whose lists ask for one here."""

RETRY_SECONDS: Final = 2

_T = TypeVar("_T")


class ListGate:
    """Lets in so many lists, and one of them at a time to the rows."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._inside = 0
        self._turn = asyncio.Lock()

    @contextlib.contextmanager
    def enter(self) -> Iterator[None]:
        """Count one list in for as long as the body runs.

        Raises:
            RequestRefusedError: there are enough.
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
        """Yield what is in *table*, in slices, when no other list reads.

        Raises:
            RequestRefusedError: the table was taken away meanwhile.
        """
        async with self._turn:
            try:
                async with contextlib.aclosing(in_slices(table)) as found:
                    async for row in found:
                        yield row
            except Exception as error:  # what a store raises that is closed, or changed
                message = f"{RESTORING}, ask again"
                raise RequestRefusedError(message, status=503) from error


_gates: Final = {False: ListGate(LISTS_AT_ONCE), True: ListGate(4 * LISTS_AT_ONCE)}


def gate(*, is_local: bool) -> ListGate:
    """Return what a list passes; those that other workers ask for have their own."""
    return _gates[is_local]


def json_of(view: View, answer: Any) -> Response:  # noqa: ANN401 - whatever becomes JSON
    """Return *answer* as JSON, made in a tenth of the time that the library needs."""
    return view.bytes(
        msgspec.json.encode(answer), headers={"Content-Type": "application/json; charset=utf-8"}
    )


async def in_slices(items: Iterable[_T]) -> AsyncGenerator[_T, None]:
    """Yield *items*, and leave the event loop alone after each slice of them."""
    began = time.perf_counter()
    for number, item in enumerate(items, 1):
        yield item
        if number % ROWS_BETWEEN_LOOKS == 0 and time.perf_counter() - began > SLICE_SECONDS:
            await asyncio.sleep(PAUSE_SECONDS)
            began = time.perf_counter()
