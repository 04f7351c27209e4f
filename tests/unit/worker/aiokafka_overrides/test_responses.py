"""Responses: what aiokafka does by itself. `tests/integration/test_responses.py` has the rest."""

import asyncio

from aiokafka import conn

from streamapp.worker.aiokafka_overrides import responses


def test_fault_of_aiokafka():
    """Aiokafka reads through a `StreamReader`; if not, our protocol may be deleted."""
    stock = responses.ResponseProtocol.__mro__[1]

    assert "aiokafka.conn" == conn.__name__ == stock.__module__
    assert issubclass(stock, asyncio.StreamReaderProtocol)
    assert not issubclass(stock, asyncio.BufferedProtocol)
