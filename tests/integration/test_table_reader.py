"""Lists leave the event loop to the streams, however many ask, and no more wait than may."""

import asyncio
import time

import pytest

from streamapp.errors import RequestRefusedError
from streamapp.tables import rows
from streamapp.tables.web import table_reader


ROWS = 20_000
CLIENTS = 60
RAW = rows.encode(rows.FileRow(name="a/b.csv", size=30, blocks=3, block_size=10, run_counts=(2,)))


async def read(gate):
    """Read a list of many rows; return how many, or None when it was refused."""
    try:
        with gate.enter():
            found = [rows.decode(raw, rows.FileRow) async for raw in gate.rows([RAW] * ROWS)]
    except RequestRefusedError:
        return None
    return len(found)


async def test_streams_go_on():
    """While 60 clients ask, a stream has its turn after each slice, and few lists wait."""
    gate = table_reader.ListGate(table_reader.LISTS_AT_ONCE)
    locks = 0

    async def stream():
        nonlocal locks
        while True:
            locks += 1
            await asyncio.sleep(0)

    streaming = asyncio.create_task(stream())
    began = time.perf_counter()
    found = await asyncio.gather(*(read(gate) for _ in range(CLIENTS)))
    seconds = time.perf_counter() - began
    streaming.cancel()

    assert table_reader.LISTS_AT_ONCE == found.count(ROWS)
    assert CLIENTS - table_reader.LISTS_AT_ONCE == found.count(None)
    print(f"{locks} turns in {seconds:.2f} s")  # noqa: T201 - shown by pytest -s
    assert locks > 10 * table_reader.LISTS_AT_ONCE
    assert ROWS == await read(gate)


async def test_table_that_is_taken_away():
    """A table that moves to another worker meanwhile is asked for again, and the turn is free."""
    gate = table_reader.ListGate(1)

    def taken():
        yield RAW
        raise RuntimeError("closed")

    with pytest.raises(RequestRefusedError) as caught, gate.enter():
        async for _ in gate.rows(taken()):
            pass
    assert 503 == caught.value.status
    assert ROWS == await read(gate)
