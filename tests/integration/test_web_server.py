"""The views' connections: counted, limited in time, and never the descriptors of others."""

import asyncio
import contextlib
import functools
import resource
import socket
import subprocess
import sys
import threading
import types

import aiohttp
import pytest

from aiohttp import web

from streamapp.errors import ListenError
from streamapp.web import listening
from streamapp.worker import descriptors, web_server
from streamapp.worker.web_server import Connections, LimitedHandler, LimitedSite
from tests.harness import clean_environment, free_port
from tests.waiting import eventually, wait_for


HALF = b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "
MOST = 10


@pytest.fixture
async def served(monkeypatch):
    """A server with at most ten connections, five from one address, that looks often."""
    monkeypatch.setattr(web_server, "LOOK_SECONDS", 0.05)
    app = web.Application()
    answered = types.SimpleNamespace(count=0, wait=asyncio.Event())

    async def root(_request):
        answered.count += 1
        return web.Response(body=b"x")

    async def large(_request):
        return web.Response(body=b"x" * (64 << 20))

    async def slow(_request):
        await answered.wait.wait()
        return web.Response(body=b"late")

    app.router.add_get("/", root)
    app.router.add_get("/large", large)
    app.router.add_get("/slow", slow)
    runner = web.AppRunner(app)
    await runner.setup()
    (sock,) = listening.listen("127.0.0.1", port := free_port())
    connections = Connections(MOST)
    factory = functools.partial(
        LimitedHandler,
        connections,
        runner.server,
        loop=asyncio.get_running_loop(),
        **web_server.REQUEST_LIMITS,
    )
    await LimitedSite(runner, sock, factory).start()
    yield types.SimpleNamespace(port=port, connections=connections, answered=answered)
    await runner.cleanup()


@contextlib.asynccontextmanager
async def connected(port, *, local="127.0.0.1"):
    """Connect, and close at the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(local, 0))
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def get(port, path="/", **kwargs):
    """Return status and body of an answer."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}{path}", **kwargs) as answer,
    ):
        return answer.status, await answer.read()


async def is_closed(reader):
    """Return whether the other side has closed; waits for it."""
    try:
        while await reader.read(1 << 20):
            pass
    except OSError:
        return True
    return reader.at_eof()


async def test_beyond_the_limit(served, monkeypatch):
    """One connection more than there may be is closed at once; room comes back with the others."""
    monkeypatch.setattr(web_server, "LOOK_SECONDS", 60)
    async with contextlib.AsyncExitStack() as stack:
        for number in range(MOST):
            local = f"127.0.0.{2 + number % 2}"
            await stack.enter_async_context(connected(served.port, local=local))
        await eventually(lambda: served.connections.take("x") is False)
        async with connected(served.port) as (reader, _):
            assert await asyncio.wait_for(is_closed(reader), 5)
    await eventually(lambda: not served.connections._by_address)
    assert (200, b"x") == await get(served.port)


async def test_one_address(served, monkeypatch):
    """One address has half of the connections at most: others are still answered."""
    monkeypatch.setattr(web_server, "LOOK_SECONDS", 60)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(2 * MOST):
            await stack.enter_async_context(connected(served.port, local="127.0.0.2"))
        assert (200, b"x") == await get(served.port)


@pytest.mark.parametrize("begun", [b"", HALF, HALF + b"x" * 4000])
async def test_request_that_does_not_come(served, begun):
    """A request that is not whole in time is none, however slowly its bytes come."""
    async with connected(served.port) as (reader, writer):
        closed = asyncio.create_task(is_closed(reader))
        with contextlib.suppress(OSError):
            for byte in begun or b"\0":
                writer.write(bytes([byte]) if begun else b"")
                await writer.drain()
                done, _ = await asyncio.wait([closed], timeout=0.01)
                if done:
                    break
        assert await asyncio.wait_for(closed, 5)
    assert 0 == served.answered.count


async def test_idle_connection(served):
    """A connection that was answered and asks nothing more is closed as well."""
    async with connected(served.port) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await asyncio.wait_for(is_closed(reader), 5)
    assert 1 == served.answered.count


async def test_answer_that_is_not_taken(served):
    """A response that is not read ends the connection; a slow view has more time than a request."""
    slow = asyncio.create_task(get(served.port, "/slow"))
    async with connected(served.port) as (reader, writer):
        writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        await eventually(lambda: served.connections._by_address.total() == 2)
        await asyncio.sleep(3 * web_server.LOOK_SECONDS)
        served.answered.wait.set()
        assert (200, b"late") == await slow
        await eventually(lambda: not served.connections._by_address, within=5)
        assert await asyncio.wait_for(is_closed(reader), 5)


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/?" + "x" * 20_000, {}),
        ("/", {"X-Long": "x" * 5000}),
        ("/", {f"X-{number}": "x" for number in range(70)}),
    ],
)
async def test_large_header(served, path, headers):
    """A header beyond the limits is refused, and not written to the log."""
    assert 400 == (await get(served.port, path, headers=headers))[0]


async def test_garbage_is_not_logged(served, caplog):
    """Bytes that are no HTTP leave no line in the log."""
    async with connected(served.port) as (reader, writer):
        writer.write(b"GET / HTTP/9\r\n\xff: \r\n\r\n" * 10)
        assert await asyncio.wait_for(is_closed(reader), 5)
    assert [] == [record for record in caplog.records if record.levelname != "DEBUG"]


# --- descriptors


@pytest.mark.parametrize(
    ("limit", "connections"), [(20, 8), (64, 16), (256, 64), (1024, 256), (1 << 20, 256)]
)
def test_share(limit, connections):
    """The views have a quarter of the descriptors, and never more than 256."""
    assert connections == descriptors.for_views(limit)


def test_limit_is_raised():
    """The process is allowed what its system lets it have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 200), hard))
        assert min(hard, descriptors.ENOUGH) == descriptors.raise_limit()
        assert descriptors.raise_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- the port


def test_taken_port():
    """A port that another process listens on is waited for, and then named in one line."""
    (taken,) = listening.listen("127.0.0.1", 0)
    port = taken.getsockname()[1]
    with taken, pytest.raises(ListenError, match=f"port {port} of 127.0.0.1 is taken"):
        listening.listen("127.0.0.1", port, served_seconds=0.3)


def test_port_of_a_connection(caplog):
    """A port that an outgoing connection has is waited for, as long as the connection is there."""
    (server,) = listening.listen("127.0.0.1", 0)
    with server:
        outgoing = socket.create_connection(server.getsockname())
        port = outgoing.getsockname()[1]
        with pytest.raises(ListenError):
            listening.listen("127.0.0.1", port, served_seconds=60, used_seconds=0.3)

        def end():
            server.accept()[0].close()  # who closes first keeps the port for a while
            outgoing.close()

        timer = threading.Timer(0.5, end)
        timer.start()
        (again,) = listening.listen("127.0.0.1", port)
        again.close()
        timer.join()
    assert "waiting for port" in caplog.text


def test_port_of_a_worker_that_ended():
    """Connections in TIME_WAIT of an earlier worker do not block the port."""
    (server,) = listening.listen("127.0.0.1", 0)
    port = server.getsockname()[1]
    with server, socket.create_connection(("127.0.0.1", port)) as asking:
        server.accept()[0].close()
        assert b"" == asking.recv(1)
    (again,) = listening.listen("127.0.0.1", port, served_seconds=0, used_seconds=0)
    again.close()


def test_no_address():
    """A host that is not this machine's is named in one line."""
    with pytest.raises(ListenError, match=r"cannot listen on 192\.0\.2\.1 port 1"):
        listening.listen("192.0.2.1", 1)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])  # noqa: S104
def test_every_address(host):
    """All addresses of a host are listened on, and given back when one cannot be."""
    port = free_port()
    for _ in range(2):
        sockets = listening.listen(host, port)
        assert {port} == {sock.getsockname()[1] for sock in sockets}
        for sock in sockets:
            sock.close()


def test_two_workers_with_one_port(tmp_path):
    """The second worker ends with one line and an exit code of its own; no traceback."""
    port = free_port()
    logs = [tmp_path / "first", tmp_path / "second"]

    def start(number):
        with logs[number].open("wb") as log:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", "streamapp", "worker", "--machine-id", f"w{number}"),
                    *("--web-port", str(port), "--brokers", f"127.0.0.1:{free_port()}"),
                    *("--data-dir", tmp_path / f"d{number}"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=clean_environment(),
            )

    def is_taken():
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    first = start(0)
    try:
        wait_for(is_taken, within=60, what="the first worker to listen")
        first.send_signal(19)  # it waits for a broker that is not there, and must not end
        second = start(1)
        assert 36 == second.wait(60)
    finally:
        first.kill()
        first.wait()
    (line,) = logs[1].read_text("utf-8").splitlines()
    assert f"port {port} of 127.0.0.1 is taken" in line
    assert "--web-port" in line
