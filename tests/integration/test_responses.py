"""Responses come off the socket as aiokafka's own connection takes them, however they are cut."""

import asyncio
import contextlib
import inspect
import logging
import re
import struct

import pytest

from aiokafka import conn
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.fetch import FetchRequest, FetchResponse_v4
from aiokafka.protocol.types import Bytes, Int32, Int64, String

from streamapp.units import KIB
from streamapp.worker import consumer
from streamapp.worker.aiokafka_overrides import responses
from streamapp.worker.aiokafka_overrides.responses import (
    MAX_RESPONSE_BYTES,
    VIEW_BYTES,
    ResponseReader,
)


VERSIONS = struct.pack(">hihhh", 0, 1, 1, 4, 4)  # no error; one API, fetch, in version 4
FETCH = FetchRequest(500, 1, 50 << 20, 0, [("data-blocks", [(0, 0, 4 << 20)])])
SMALL = b"a batch"
LARGE = bytes(range(256)) * (VIEW_BYTES // 256) + b"!"
WITHIN = 20.0
STOCK = {name: getattr(conn, name) for name in ("AIOKafkaConnection", "AIOKafkaProtocol", "io")}


@pytest.fixture(params=["aiokafka's", "ours"])
def own(request, monkeypatch):
    """Whether aiokafka reads as it came or in our way: what holds for one holds for both."""
    for name, theirs in STOCK.items():
        monkeypatch.setattr(conn, name, theirs)
    if request.param == "ours":
        responses.receive_straight(on_response=lambda: None)
    return request.param == "ours"


class Broker:
    """Answers the first request with its versions, and then does what each test says."""

    def __init__(self):
        self.is_gone = asyncio.Event()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1")
        port = self._server.sockets[0].getsockname()[1]
        self.client = await conn.create_conn("127.0.0.1", port, request_timeout_ms=10_000)
        return self

    async def __aexit__(self, *_):
        async with asyncio.timeout(WITHIN):
            await self.client.close()
            await self.is_gone.wait()
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader, writer):
        self._writer = writer
        await reader.readexactly(*struct.unpack(">i", await reader.readexactly(4)))
        self.say(response(1, VERSIONS))
        with contextlib.suppress(ConnectionError):
            while await reader.read(KIB):
                pass
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        self.is_gone.set()

    def say(self, data):
        """Send *data* at once."""
        self._writer.write(data)

    async def say_in_pieces(self, data, size):
        """Send *data* in pieces of *size* bytes, each on its own."""
        for start in range(0, len(data), size):
            self._writer.write(data[start : start + size])
            await self._writer.drain()
            await asyncio.sleep(0)

    def end(self):
        """End the connection."""
        self._writer.close()


def response(number, body):
    """Return what the broker says to request *number*."""
    return struct.pack(">ii", len(body) + 4, number) + body


def fetched(number, batches):
    """Return the answer to a fetch, with *batches* of one partition."""
    partition = (0, 0, 100, 100, [], batches)
    return response(number, FetchResponse_v4(0, [("data-blocks", [partition])]).encode())


def batches_in(answer):
    """Return what the answer to a fetch has of its one partition."""
    ((_, ((*_, batches),)),) = answer.topics
    return bytes(batches)


async def taken(future):
    """Return what a request was answered with."""
    async with asyncio.timeout(WITHIN):
        return await future


async def test_each_response_is_a_sign_of_life(monkeypatch):
    """The listener is called when a response is complete, and not before."""
    for name, theirs in STOCK.items():
        monkeypatch.setattr(conn, name, theirs)
    answers = []
    responses.receive_straight(on_response=lambda: answers.append(1))
    async with Broker() as broker:
        assert [1] == answers
        future = broker.client.send(FETCH)
        answer = fetched(2, SMALL)
        await broker.say_in_pieces(answer[:-1], 5)
        assert [1] == answers
        broker.say(answer[-1:])
        await taken(future)
        assert [1, 1] == answers


@pytest.mark.parametrize("batches", [SMALL, LARGE], ids=["small", "large"])
async def test_whole(own, batches):
    """A response is what was sent; only large fields are views and not copies."""
    async with Broker() as broker:
        answer = broker.client.send(FETCH)
        broker.say(fetched(2, batches))
        found = await taken(answer)

    assert batches == batches_in(found)
    is_view = isinstance(found.topics[0][1][0][-1], memoryview)
    assert is_view == (own and batches is LARGE)


async def test_bare_answers(own):  # noqa: ARG001
    """The response to a login has no header: it is passed on unchanged, as bytes."""
    async with Broker() as broker:
        answers = [broker.client._send_sasl_token(b"token") for _ in range(2)]
        broker.say(struct.pack(">i", 5) + b"token" + struct.pack(">i", 0))
        found = [await answer for answer in answers]

    assert [b"token", b""] == found
    assert [bytes, bytes] == [type(answer) for answer in found]


@pytest.mark.parametrize("size", [1, 3, 7])
async def test_tiny_pieces(own, size):  # noqa: ARG001
    """However small the pieces are, also within the length."""
    async with Broker() as broker:
        answers = [broker.client.send(FETCH), broker.client.send(FETCH)]
        await broker.say_in_pieces(fetched(2, SMALL) + fetched(3, SMALL[::-1]), size)

        assert [SMALL, SMALL[::-1]] == [batches_in(await taken(answer)) for answer in answers]


async def test_many_at_once(own):  # noqa: ARG001
    """Many responses that arrive at once, large and small, are separated, in order."""
    bodies = [SMALL, LARGE, b"", LARGE[::-1], *[b"%d" % n for n in range(50)]]
    async with Broker() as broker:
        answers = [broker.client.send(FETCH) for _ in bodies]
        broker.say(b"".join(fetched(2 + n, body) for n, body in enumerate(bodies)))

        assert bodies == [batches_in(await taken(answer)) for answer in answers]


@pytest.mark.parametrize("cut", [0, 2, 4, 9, len(fetched(2, LARGE)) - 1])
async def test_end_within_a_response(own, cut):  # noqa: ARG001
    """A request that is pending when the connection ends fails, at any point of a response."""
    async with Broker() as broker:
        first, second = broker.client.send(FETCH), broker.client.send(FETCH)
        broker.say(fetched(2, SMALL) + fetched(3, LARGE)[:cut])

        assert SMALL == batches_in(await taken(first))
        broker.end()
        with pytest.raises(KafkaConnectionError) as caught:
            await taken(second)
        assert isinstance(caught.value.__cause__, EOFError)
        assert not broker.client.connected()


async def test_closed_by_us(own):  # noqa: ARG001
    """Closing ends what is asked, and the connection."""
    async with Broker() as broker:
        answer = broker.client.send(FETCH)
        broker.say(fetched(2, LARGE)[:-1])
        await taken(broker.client.close())

        with pytest.raises(KafkaConnectionError):
            await taken(answer)
        await taken(broker.is_gone.wait())


async def test_reset(own):  # noqa: ARG001
    """A connection that breaks ends what is asked."""
    async with Broker() as broker:
        answer = broker.client.send(FETCH)
        broker.say(fetched(2, LARGE)[:-1])
        await broker._writer.drain()
        broker._writer.transport.abort()

        with pytest.raises(KafkaConnectionError):
            await taken(answer)


@pytest.mark.parametrize("length", [-1, -(1 << 31)])
async def test_negative_length(own, length):  # noqa: ARG001
    """Less than nothing is no response: the connection ends."""
    async with Broker() as broker:
        answer = broker.client.send(FETCH)
        broker.say(struct.pack(">i", length))

        with pytest.raises(KafkaConnectionError):
            await taken(answer)


@pytest.mark.parametrize("own", ["ours"], indirect=True)
@pytest.mark.parametrize("length", [MAX_RESPONSE_BYTES + 1, (1 << 31) - 1])
async def test_absurd_length(own, length, monkeypatch, caplog):  # noqa: ARG001
    """Nothing is allocated for a response that is too large: the connection ends, with a word."""
    async with Broker() as broker:
        answer = broker.client.send(FETCH)
        monkeypatch.setattr(responses, "bytearray", None, raising=False)
        broker.say(struct.pack(">i", length) + LARGE)

        with pytest.raises(KafkaConnectionError) as caught:
            await taken(answer)
        assert isinstance(caught.value.__cause__, responses.OversizedResponseError)
        assert f"announces {length} bytes" in caplog.text


@pytest.mark.parametrize("own", ["ours"], indirect=True)
async def test_no_more_is_read_than_is_taken(own, monkeypatch):  # noqa: ARG001
    """While nobody takes responses, two wait, and the socket holds up the rest."""
    async with Broker() as broker:
        protocol = broker.client._protocol
        monkeypatch.setattr(protocol, "_wake", lambda: None)
        answers = [broker.client.send(FETCH) for _ in range(20)]
        sending = asyncio.create_task(
            broker.say_in_pieces(b"".join(fetched(2 + n, LARGE) for n in range(20)), VIEW_BYTES)
        )
        async with asyncio.timeout(WITHIN):
            while protocol._source.is_reading():  # noqa: ASYNC110 - asyncio tells nobody
                await asyncio.sleep(0.01)
        held = len(protocol._whole)
        monkeypatch.undo()
        protocol._wake()
        found = [batches_in(await taken(answer)) for answer in answers]
        await sending

    assert responses.WAITING == held
    assert [LARGE] * 20 == found


def test_fields():
    """`ResponseReader` gives what `io.BytesIO` gives, at the end and beyond it too."""
    data = Int32.encode(7) + String("utf-8").encode("größer") + Bytes.encode(LARGE) + b"rest"
    ours = ResponseReader(bytearray(data))

    assert 7 == Int32.decode(ours)
    assert "größer" == String("utf-8").decode(ours)
    assert LARGE == Bytes.decode(ours)
    assert b"re" == ours.read(2)
    assert b"st" == ours.read()
    assert b"" == ours.read(1)
    with pytest.raises(ValueError, match="Error encountered"):
        Int64.decode(ours)


def test_field_beyond_the_end():
    """A field that announces more than there is, is refused as ever."""
    with pytest.raises(ValueError, match="underrun"):
        Bytes.decode(ResponseReader(Int32.encode(len(LARGE) + 1) + LARGE))


def test_debug_log(caplog):
    """Aiokafka's debug log can write what was received."""
    caplog.set_level(logging.DEBUG, conn.log.name)
    answer = FetchResponse_v4.decode(ResponseReader(fetched(2, LARGE)[8:]))

    assert "data-blocks" in repr(answer)


def test_connection_asks_for_it(monkeypatch):
    """Aiokafka's connection takes all three from where `receive_straight` puts them.

    When this fails, aiokafka was changed: look for how it receives its responses now.
    """
    for name, theirs in STOCK.items():
        monkeypatch.setattr(conn, name, theirs)
    monkeypatch.setattr(consumer.fetcher, "MemoryRecords", consumer.fetcher.MemoryRecords)
    monkeypatch.setattr(consumer.own_fetcher, "ask_soon_again", lambda: None)
    consumer.install_overrides(on_response=lambda: None)

    assert conn.AIOKafkaConnection is responses.Connection
    assert "AIOKafkaConnection" in conn.create_conn.__code__.co_names
    assert "AIOKafkaProtocol" in STOCK["AIOKafkaConnection"].connect.__code__.co_names
    source = inspect.getsource(conn)
    assert ["io.BytesIO(resp)"] == re.findall(r"\bio\.[^a].*", source)
    assert 2 == source.count("self._read(") + source.count("def _read(")
    assert {"at_eof", "readexactly"} == set(re.findall(r"reader\.(\w+)\(", source))
