"""The web views: every worker answers for the group, and names the workers that are silent."""

import contextlib
import time
import types

import aiohttp
import pytest

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from faust.types import TP

from streamapp.errors import PeerError
from streamapp.kafka.broker_contact import BrokerContact
from streamapp.protocol import routing
from streamapp.protocol.messages import FileStatus, Heartbeat
from streamapp.protocol.presence import Presence
from streamapp.receiver.stats import WorkerStats
from streamapp.settings import Settings
from streamapp.tables import folds, rows
from streamapp.tables.state import block_map, files, machines
from streamapp.tables.web import machines as group_machines
from streamapp.tables.web import peers, progress, table_reader
from streamapp.web import worker_proofs
from streamapp.web.access import SECURITY_HEADERS, guard
from streamapp.web.client import base_url
from tests.unit.rows import ack_of


HOSTILE = "<img src=x onerror=alert(1)>\"'\u202e/x.csv"
IDS = [f"{number:032x}" for number in range(40)]
ROUTES = {
    "/",
    "/health/",
    "/health/live/",
    "/health/ready/",
    "/machines/",
    "/metrics",
    "/progress/",
    "/progress/{file_id}/",
    "/progress/{file_id}/blocks/",
}


def stored_file(file_id, name, *, blocks=3, persisted=(), state="sent", **fields):
    """Put a file's row, and the bits of its blocks, in the tables."""
    row = rows.FileRow().with_status(
        FileStatus(
            file_id=file_id,
            state=state,
            name=name,
            size=10 * blocks,
            blocks=blocks,
            block_size=10,
            source="s",
            **fields,
        )
    )
    run = b""
    for block in persisted:
        ack = ack_of(block, blocks=blocks, file_size=10 * blocks)
        run = rows.with_bit(run, ack)
        row = row.with_ack(ack, run)
        block_map.data[rows.run_key(file_id, 0)] = run
    files.data[file_id.encode()] = rows.encode(row)


def application(faust_app, settings):
    """Return a web application with the views of a worker that has *settings*."""
    served = web.Application(middlewares=[guard(settings)])
    for route in faust_app.web.web_app.router.routes():
        if route.method == "GET":
            served.router.add_get(route.resource.canonical, route.handler)

    async def broken(_request):
        raise RuntimeError("secret")

    served.router.add_get("/broken", broken)
    return served


@pytest.fixture(autouse=True)
def group(faust_app, tables, monkeypatch):
    """What Faust knows of the group: this worker has all partitions, unless a test changes that."""
    assert tables
    faust_app.web.init_server()
    monkeypatch.setattr(progress.readiness, "is_ready", lambda _: True)
    topic = files.changelog_topic.get_topic_name()
    known = types.SimpleNamespace(own={0, 1, 2}, urls={})
    assignor = faust_app.assignor
    monkeypatch.setattr(
        assignor, "assigned_actives", lambda: {TP(topic, number) for number in known.own}
    )
    monkeypatch.setattr(
        assignor,
        "tables_metadata",
        lambda: {url: {topic: list(held)} for url, held in known.urls.items()},
    )

    def key_store(table, key):
        assert "files" == table
        number = routing.partition_of(key.encode())
        found = {number: url for url, held in known.urls.items() for number in held}
        return found[number]

    monkeypatch.setattr(faust_app.router, "key_store", key_store)
    return known


@pytest.fixture
async def serve(faust_app):
    """Serves the views as a worker with the given settings does; returns a client."""
    clients = []

    async def serve(**flags):
        settings = Settings.load(machine_id="m1", **flags)
        client = TestClient(TestServer(application(faust_app, settings)))
        await client.start_server()
        clients.append(client)
        return client

    faust_app.http_client = aiohttp.ClientSession()
    yield serve
    for client in clients:
        await client.close()
    await faust_app.http_client.close()
    faust_app.http_client = None


@pytest.fixture
async def client(serve):
    """Asks a worker with the default settings."""
    return await serve()


@pytest.fixture
async def peer():
    """Another worker of the group: it gives the answers in `answers`, and counts the requests."""
    peer = types.SimpleNamespace(answers={}, asked=[], key=None)

    async def answer(request):
        peer.asked.append(request)
        found = peer.answers.get(request.path, (404, {"error": "x"}))
        response = web.json_response(found[1], status=found[0])
        if peer.key:
            reader = worker_proofs.RequestVerifier(peer.key, peer.url, time.time)
            with contextlib.suppress(PeerError):
                given = request.headers["Authorization"]
                asked = reader.read(given, method=request.method, path=request.raw_path)
                proof = asked.proof(peer.key, status=found[0], body=response.body)
                response.headers[worker_proofs.ANSWER_HEADER] = proof
        return response

    served = web.Application()
    served.router.add_get("/{path:.*}", answer)
    server = TestServer(served)
    await server.start_server()
    peer.url = f"http://127.0.0.1:{server.port}"
    yield peer
    await server.close()


async def get(client, path, *, status=200, **kwargs):
    """Return the JSON that *path* answers, with *status*."""
    async with client.get(path, **kwargs) as answer:
        assert status == answer.status, await answer.text()
        assert "application/json; charset=utf-8" == answer.headers["Content-Type"]
        return await answer.json()


# --- all files


async def test_nothing(client):
    """A group without files has an empty list."""
    assert {
        "totals": dict.fromkeys(("files", "complete", "bytes", "persisted_bytes", "superseded"), 0),
        "deliveries": [],
        "matching": 0,
        "offset": 0,
        "next": None,
        "files": [],
        "partial": False,
        "silent": [],
    } == await get(client, "/progress/")


async def test_pages(client):
    """Pages are in order of name, and contain every file once."""
    for number, file_id in enumerate(reversed(IDS)):
        stored_file(file_id, f"f{number:02}", persisted=[0, 1, 2] if number % 2 else [0])
    seen = []
    for offset in range(0, 50, 7):
        page = await get(client, f"/progress/?offset={offset}&limit=7")
        assert (40, 40, 20) == (
            page["matching"],
            page["totals"]["files"],
            page["totals"]["complete"],
        )
        assert (1200, 800) == (page["totals"]["bytes"], page["totals"]["persisted_bytes"])
        seen += [file["name"] for file in page["files"]]

    assert [f"f{number:02}" for number in range(40)] == seen


async def test_superseded(client):
    """Earlier versions are listed and counted apart, so the current files can be complete."""
    known = {"state": "superseded", "superseded_by": IDS[1]}
    stored_file(IDS[0], "a", persisted=[0, 1], run_at=7.0, **known)
    stored_file(IDS[1], "a", persisted=[0, 1, 2], run_at=7.0)
    page = await get(client, "/progress/?order=activity")

    assert {
        "files": 1, "complete": 1, "bytes": 30, "persisted_bytes": 30, "superseded": 1
    } == page["totals"]  # fmt: skip
    assert [1] == [delivery["files"] for delivery in page["deliveries"]]
    found = [(file["state"], file["superseded_by"]) for file in page["files"]]
    assert [("complete", ""), ("superseded", IDS[1])] == found
    only = await get(client, "/progress/?state=superseded")
    assert [IDS[0]] == [file["file_id"] for file in only["files"]]


async def test_pages_by_next(client, group, peer):
    """Each page has the place where the next one begins, for any number of files."""
    names = ["a", "a", "b", *(f"c:{number:02}&%/\u00e4" for number in range(37))]
    for number, (file_id, name) in enumerate(zip(reversed(IDS), names, strict=True)):
        stored_file(file_id, name, persisted=[0] if number % 2 else ())
    group.own, group.urls = {0, 1}, {peer.url: {2}}
    peer.answers["/progress/"] = (200, theirs(name="d"))
    found, after, pages = [], "", 0
    while after is not None:
        page = await get(client, "/progress/", params={"limit": "7", "after": after})
        found += [(file["name"], file["file_id"]) for file in page["files"]]
        after, pages = page["next"], pages + 1
        assert 41 == page["matching"]

    mine = sorted(zip(names, reversed(IDS), strict=True))
    assert [*mine, ("d", IDS[1])] == found
    assert 6 == pages
    assert {"8"} == {asked.query["limit"] for asked in peer.asked}


async def test_search_and_state(client):
    """A search finds part of a name in any case; a state finds the files in that state."""
    stored_file(IDS[0], "Logs/A.csv", persisted=[0, 1, 2])
    stored_file(IDS[1], "logs/b.csv", persisted=[0])
    stored_file(IDS[2], "c.csv", state="failed")
    for query, names in [
        ("search=LOGS", ["Logs/A.csv", "logs/b.csv"]),
        ("state=complete", ["Logs/A.csv"]),
        ("state=failed", ["c.csv"]),
        ("search=b&state=arriving", ["logs/b.csv"]),
        ("search=%3Cimg", []),
    ]:
        page = await get(client, f"/progress/?{query}")
        assert (names, len(names), 3) == (
            [file["name"] for file in page["files"]],
            page["matching"],
            page["totals"]["files"],
        )


@pytest.mark.parametrize(
    "query", ["state=bogus", "state=COMPLETE", "state=%1b[31m", "after=x", "after=%C3%A9:x"]
)
async def test_bad_selection(client, query):
    """An unknown state is refused; the answer names the known ones."""
    answer = await get(client, f"/progress/?{query}", status=400)
    assert "expected" in answer["error"]
    assert answer["error"].isprintable()
    if query.startswith("state"):
        assert "announced, sent, arriving, complete, failed, changed" in answer["error"]


@pytest.mark.parametrize("name", ["offset", "limit"])
@pytest.mark.parametrize(
    "number", ["-1", "x", "", "1.5", "1e3", "\u00b2", "\u0661x", "9" * 5000, "10000001", "0x10"]
)
async def test_bad_number(client, name, number):
    """A number that is invalid or too large is refused in one line that names it."""
    answer = await get(client, "/progress/", params={name: number}, status=400)

    assert answer["error"].startswith(f"{name} is ")
    assert len(answer["error"]) < 100


async def test_page_is_limited(client):
    """A page has a maximum number of files."""
    assert "1000" in (await get(client, "/progress/?limit=1001", status=400))["error"]
    assert [] == (await get(client, "/progress/?limit=1000&offset=10000"))["files"]


async def test_hostile_name(client):
    """A name with HTML in it stays a string in JSON."""
    stored_file(IDS[0], HOSTILE, state="failed", reason="</script><b>\x1b[31m")
    stored = (await get(client, "/progress/"))["files"][0]

    assert (HOSTILE, "</script><b>\x1b[31m") == (stored["name"], stored["reason"])
    assert HOSTILE == (await get(client, f"/progress/{IDS[0]}/"))["name"]


# --- one file


async def test_one_file(client):
    """A file's progress is computed from its persisted blocks."""
    stored_file(IDS[0], "a", persisted=[0, 2])
    answer = await get(client, f"/progress/{IDS[0]}/")

    assert {
        "file_id": IDS[0],
        "name": "a",
        "state": "arriving",
        "percent": 66.67,
        "persisted_blocks": 2,
        "persisted_bytes": 20,
        "size": 30,
        "blocks": 3,
        "failed_blocks": [],
    }.items() <= answer.items()


async def test_blocks(client):
    """The missing blocks are listed; of a large file only the first ones."""
    stored_file(IDS[0], "a", persisted=[0, 2])
    answer = await get(client, f"/progress/{IDS[0]}/blocks/")
    assert ([1], "05", 2) == (
        answer["missing"],
        answer["runs"][0]["bits"],
        answer["runs"][0]["persisted"],
    )

    stored_file(IDS[1], "b", blocks=5000)
    answer = await get(client, f"/progress/{IDS[1]}/blocks/")
    assert list(range(1000)) == answer["missing"]
    assert 5 == len(answer["runs"])


@pytest.mark.parametrize(
    "file_id", ["f" * 32, "F" * 32, "x", "a" * 1000, "%00", "<b>", "\u202e", "..."]
)
@pytest.mark.parametrize("below", ["", "blocks/"])
async def test_unknown_file(client, file_id, below):
    """An unknown file is answered with 404, not with 0 %."""
    answer = await get(client, f"/progress/{file_id}/{below}", status=404)

    assert answer["error"].endswith("is known")


# --- machines and health


NOW = 1_000_000.0


def store_machine(name, *, silent=0.0, ahead=0.0, state="running", **fields):
    """Put a machine in the table, of which a heartbeat was received *silent* seconds ago."""
    beat = Heartbeat(
        machine=name, group="g1", state=state, at=NOW - silent + ahead, rate=9.0, **fields
    )
    row = Presence(heartbeat=beat, received_at=NOW - silent, ahead=ahead)
    machines.data[name.encode()] = rows.encode(row)


@pytest.fixture
def clock(monkeypatch):
    """The clock stands still."""
    monkeypatch.setattr(group_machines.time, "time", lambda: NOW)


@pytest.mark.usefixtures("clock")
async def test_machines(client):
    """A machine is up while its heartbeats are received, whatever its clock is."""
    store_machine("b")
    store_machine("a", silent=16.0, state="holding")
    store_machine("c", state="stopped")
    store_machine("d", ahead=86_400.0)
    store_machine("e", ahead=-86_400.0)
    store_machine("f", silent=12.0, ahead=86_400.0)
    answer = await get(client, "/machines/")
    found = {machine.pop("machine"): machine for machine in answer["machines"]}

    assert {
        "a": (False, True, 16.0, 0.0, 0.0),
        "b": (True, False, 0.0, 9.0, 0.0),
        "c": (False, False, 0.0, 0.0, 0.0),
        "d": (True, False, 0.0, 9.0, 86_400.0),
        "e": (True, False, 0.0, 9.0, -86_400.0),
        "f": (True, True, 12.0, 0.0, 0.0),
        "m1": (True, False, 0.0, 0.0, 0.0),
    } == {
        name: (m["up"], m["silent"], m["silent_seconds"], m["rate"], m["clock_ahead"])
        for name, m in found.items()
    }
    assert (False, []) == (answer["partial"], answer["silent"])


@pytest.mark.usefixtures("clock")
async def test_why_the_group_waits(client, faust_app):
    """Machines that hold or are silent are listed once, including this worker."""
    assert [] == (await get(client, "/machines/"))["waiting"]
    store_machine("w2", silent=12.0, partitions=(1,), session_timeout=30.0)
    store_machine("w3", state="holding", reason="disk full")
    faust_app.stats.hold("x", "no room")
    try:
        answer = await get(client, "/machines/")
    finally:
        faust_app.stats.release("x")

    assert [
        "m1 holds: no room",
        "w2 is silent for 12.0 s; others take over within 30 s",
        "w3 holds: disk full",
    ] == answer["waiting"]


@pytest.mark.usefixtures("clock")
async def test_machines_that_answer_are_up(client, group, peer):
    """A machine that answers is up, even if no worker has its row now."""
    group.own, group.urls = {0}, {peer.url: {1}}
    store_machine("w2", silent=60.0)
    theirs = Presence.first(Heartbeat(machine="w2", group="g1", state="running", at=NOW), now=NOW)
    said = [group_machines.machine_json(theirs, now=NOW)]
    peer.answers["/machines/"] = (200, {"partitions": [1], "machines": said})
    answer = await get(client, "/machines/")

    assert [("m1", True), ("w2", True)] == [(m["machine"], m["up"]) for m in answer["machines"]]
    assert answer["partial"]
    assert "partitions 2 of the tables" in answer["silent"][0]


DAMAGED = {
    "no row": b"{",
    "no text": b"\xff",
    "other types": b'{"name": 7, "heartbeat": 7}',
    "no heartbeat": b'{"name": 7, "heartbeat": {}}',
    "no machine of ours": b'{"name": 7, "heartbeat": {"kind": "machine", "machine": "../x"}}',
    "more blocks than there are": b'{"blocks": 9007199254740991}',
    "more bytes than there are": b'{"blocks": 1, "run_counts": [1' + 400 * b"0" + b"]}",
}


@pytest.mark.parametrize("raw", DAMAGED.values(), ids=DAMAGED)
async def test_damaged_row(client, caplog, raw):
    """A damaged row is skipped with a warning, and the other rows are shown."""
    stored_file(IDS[0], "a", persisted=[0])
    files.data[IDS[1].encode()] = files.data[b"\xff"] = raw
    beat = Heartbeat(machine="b", group="g1", state="running")
    machines.data[b"b"] = rows.encode(Presence(heartbeat=beat))
    machines.data[b"bad"] = raw
    answer = await get(client, "/progress/")

    assert [IDS[0]] == [file["file_id"] for file in answer["files"]]
    assert (1, 1) == (answer["matching"], answer["totals"]["files"])
    assert (30, 10) == (answer["totals"]["bytes"], answer["totals"]["persisted_bytes"])
    found = (await get(client, "/machines/"))["machines"]
    assert ["b", "m1"] == [machine["machine"] for machine in found]
    said = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    for table, key in [(files, IDS[1].encode()), (files, b"\xff"), (machines, b"bad")]:
        assert 1 == sum(f"table {table.name}, key {key!r}" in message for message in said)

    await get(client, f"/progress/{IDS[1]}/", status=404)
    await get(client, f"/progress/{IDS[1]}/blocks/", status=404)


async def test_row_with_a_damaged_key(client, caplog):
    """A row whose key is no text is skipped as well."""
    stored_file(IDS[0], "a")
    key = b"\xff"
    files.data[key] = files.data[IDS[0].encode()]

    assert 1 == (await get(client, "/progress/"))["matching"]
    assert f"table {files.name}, key {key!r}" in caplog.text


async def test_health(client, faust_app, monkeypatch):
    """A worker with its tables is ready until it stops; it is live as long as it answers."""
    monkeypatch.setattr(progress.readiness, "block_partitions", lambda _app: [0, 3])
    for is_ready, stopping, status, state in [
        (True, False, 200, "running"),
        (True, True, 503, "stopping"),
        (False, False, 503, "recovering"),
    ]:
        monkeypatch.setattr(
            progress.readiness, "is_ready", lambda _app, is_ready=is_ready: is_ready
        )
        monkeypatch.setattr(faust_app.stats, "stopping", stopping)
        for path in ("/health/", "/health/ready/"):
            answer = await get(client, path, status=status)
            assert (status == 200, state, [0, 3]) == (
                answer["ready"],
                answer["state"],
                answer["partitions"],
            )
        assert {"live": True} == await get(client, "/health/live/")


@pytest.mark.parametrize("path", ["/health/", "/health/ready/"])
async def test_not_ready_while_it_cannot_work(client, faust_app, monkeypatch, path):
    """A worker that holds, or lacks brokers or tables, is not ready, and says why."""
    now = [0.0]
    monkeypatch.setattr(progress.readiness, "block_partitions", lambda _app: [0])
    monkeypatch.setattr(faust_app, "stats", WorkerStats())
    faust_app.stats.contact = BrokerContact("k:9092", lambda: now[0])
    faust_app.stats.hold("data-blocks-0", "disk full")
    answer = await get(client, path, status=503)
    assert (False, "holding", "disk full") == tuple(answer[f] for f in ("ready", "state", "reason"))

    faust_app.stats.release("data-blocks-0")
    assert (await get(client, path))["ready"]
    now[0] = 5.0
    answer = await get(client, path, status=503)
    assert "no Kafka broker has answered for 5.0 s at k:9092" == answer["reason"]
    now[0] = 6.0
    faust_app.stats.broker_answered()
    assert (await get(client, path))["ready"]

    monkeypatch.setattr(progress.readiness, "is_ready", lambda _: False)
    assert progress.readiness.RESTORING == (await get(client, path, status=503))["reason"]


# --- the others of the group


def theirs(**fields):
    """Return another worker's answer: one file, in partition 2 of the table."""
    row = rows.FileRow(**{"name": "a", "size": 30, "blocks": 3, "block_size": 10} | fields)
    totals = {"files": 1, "complete": 0, "bytes": row.size, "persisted_bytes": 0}
    file = progress.file_json(IDS[1], row)
    return {"partitions": [2], "totals": totals, "deliveries": [], "matching": 1, "files": [file]}


async def test_others_are_asked(client, group, peer):
    """The lists of all workers are merged in order, and the totals are added up."""
    stored_file(IDS[0], "b", persisted=[0, 1, 2])
    group.own, group.urls = {0, 1}, {peer.url: {2}}
    peer.answers["/progress/"] = (200, theirs(size=5, block_size=5, blocks=1))
    answer = await get(client, "/progress/?offset=1&limit=5&search=&state=")

    totals = {"files": 2, "complete": 1, "bytes": 35, "persisted_bytes": 30, "superseded": 0}
    assert totals == answer["totals"]
    assert (["b"], 2, []) == (
        [file["name"] for file in answer["files"]],
        answer["matching"],
        answer["silent"],
    )
    expected = {
        "local": "1",
        "limit": "7",
        "after": "",
        "search": "",
        "state": "",
        "order": "name",
    }
    assert expected == dict(peer.asked[0].query)


async def test_order_of_activity(client, group, peer):
    """By activity, arriving and failed files of all workers come first; a delivery is one run."""
    stored_file(IDS[0], "b", persisted=[0, 1, 2], run_at=5.0)
    stored_file(IDS[1], "c", persisted=[0], run_at=7.0)
    group.own, group.urls = {0, 1}, {peer.url: {2}}
    theirs = [
        progress.file_json(IDS[2], rows.FileRow(name="a", size=5, blocks=1, announced="announced")),
        progress.file_json(IDS[3], rows.FileRow(name="d", size=5, blocks=1, announced="failed")),
    ]
    run = {"source": "s", "run_at": 7.0, "files": 2, "failed": 1, "bytes": 10}
    peer.answers["/progress/"] = (
        200,
        {
            "partitions": [2],
            "totals": {"files": 2, "complete": 0, "bytes": 10, "persisted_bytes": 0},
            "deliveries": [run],
            "matching": 2,
            "files": theirs,
        },
    )
    answer = await get(client, "/progress/?order=activity")

    assert ["c", "d", "a", "b"] == [file["name"] for file in answer["files"]]
    assert "activity" == peer.asked[0].query["order"]
    (delivery,) = answer["deliveries"]
    assert run | {"files": 3, "bytes": 40, "complete": 0, "persisted_bytes": 10} == delivery
    assert (
        "expected one of name, activity"
        in (await get(client, "/progress/?order=x", status=400))["error"]
    )
    stalled = await get(client, f"/progress/{IDS[1]}/")
    assert 0.0 == stalled["rate"]


async def test_local_answer(client, group, peer):
    """A worker that is asked by a peer asks no other peer."""
    stored_file(IDS[0], "b")
    group.own, group.urls = {0, 1}, {peer.url: {2}}
    assert 1 == (await get(client, "/progress/?local=1&limit=10000"))["matching"]
    (own,) = (await get(client, "/machines/?local=1"))["machines"]
    assert ("m1", True) == (own["machine"], own["up"])
    assert [] == peer.asked


async def test_not_ready(client, faust_app, monkeypatch):
    """A worker whose partitions are being revoked or assigned answers that it is not ready."""
    stored_file(IDS[0], "b")
    monkeypatch.setattr(progress.readiness, "is_ready", lambda _: False)
    for path in (
        f"/progress/{IDS[0]}/",
        f"/progress/{IDS[1]}/",
        f"/progress/{IDS[0]}/blocks/",
        "/progress/?local=1",
        "/machines/?local=1",
    ):
        answer = await get(client, path, status=503)
        assert "tables are being restored, ask again" in answer["error"]
    for path in ("/progress/", "/machines/"):
        (silent,) = (await get(client, path))["silent"]
        assert silent.startswith(f"{faust_app.conf.canonical_url} (partitions are moving")


@pytest.mark.parametrize("what", ["down", "error", "slow", "no json", "moved"])
async def test_silent_worker(client, group, peer, monkeypatch, what):
    """A worker that does not answer is named, and the rest is shown."""
    stored_file(IDS[0], "a")
    group.own, group.urls = {0, 1}, {peer.url: {2}}
    if what == "down":
        group.urls = {"http://127.0.0.1:1": {2}}
    elif what == "slow":
        monkeypatch.setattr(peers, "ANSWER_SECONDS", 0.0001)
    else:
        peer.answers |= {
            path: {"error": (500, {}), "no json": (200, web.json_response), "moved": (302, {})}[
                what
            ]
            for path in ("/progress/", "/machines/")
        }
        if what == "no json":
            peer.answers = {"/progress/": (204, None), "/machines/": (204, None)}
    answer = await get(client, "/progress/")

    assert (["a"], list(group.urls)) == (
        [file["name"] for file in answer["files"]],
        answer["silent"],
    )
    assert answer["partial"]
    answer = await get(client, "/machines/")
    assert (True, list(group.urls)) == (answer["partial"], answer["silent"])


async def test_workers_that_cannot_be_told_apart(client, group, faust_app):
    """Workers that all advertise a loopback address are named as missing."""
    stored_file(IDS[0], "a")
    group.own = {routing.partition_of(IDS[0].encode())}
    group.urls = {str(faust_app.conf.canonical_url): {0, 1, 2}}
    answer = await get(client, "/progress/")
    assert 1 == len(answer["files"])
    (missing,) = answer["silent"]
    assert "--web-advertise" in missing
    assert "partitions" in missing

    for file_id in IDS:
        is_ours = routing.partition_of(file_id.encode()) in group.own
        status = 200 if file_id == IDS[0] else 404 if is_ours else 503
        await get(client, f"/progress/{file_id}/", status=status)


async def test_file_of_another_worker(client, group, peer):
    """A request for each of 40 files is forwarded to the worker that has it, and no other."""
    group.own, group.urls = {0}, {peer.url: {1, 2}}
    for file_id in IDS:
        stored_file(file_id, "mine")
        peer.answers[f"/progress/{file_id}/"] = (200, theirs(name="theirs")["files"][0])
        expected = "theirs" if routing.partition_of(file_id.encode()) else "mine"
        assert expected == (await get(client, f"/progress/{file_id}/"))["name"]

    assert 40 > len(peer.asked) > 10
    assert {("local", "1")} == {item for asked in peer.asked for item in asked.query.items()}


async def test_file_of_a_worker_that_does_not_answer(client, group):
    """If the worker that has a file does not answer, the file is not called unknown."""
    group.own, group.urls = set(), {"http://127.0.0.1:1": {0, 1, 2}}
    for below in ("", "blocks/"):
        answer = await get(client, f"/progress/{IDS[0]}/{below}", status=503)
        assert "does not answer" in answer["error"]


async def test_file_that_nobody_holds(client, group, peer):
    """During a rebalance no worker may have a file; a request is not forwarded in a circle."""
    group.own, group.urls = set(), {}
    await get(client, f"/progress/{IDS[0]}/", status=503)

    group.urls = {peer.url: {0, 1, 2}}
    await get(client, f"/progress/{IDS[0]}/?local=1", status=503)
    assert [] == peer.asked


TOKEN = "t" * 20
WITH_TOKEN = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
async def guarded(serve, group, peer, faust_app, monkeypatch):
    """Asks one of two workers that have a token; `peer` is the other one."""
    flags = {"web_host": "192.0.2.1", "web_token": TOKEN}
    settings = Settings.load(machine_id="m1", group_id="g1", **flags)
    monkeypatch.setattr(faust_app, "settings", settings)
    peer.key = worker_proofs.group_key(TOKEN, "g1")
    group.own, group.urls = {0, 1}, {peer.url: {2}}
    peer.answers["/progress/"] = (200, theirs())
    peer.answers["/machines/"] = (200, {"partitions": [2], "machines": []})
    return await serve(group_id="g1", **flags)


async def test_the_token_is_not_sent(guarded, peer):
    """Workers prove themselves to each other without sending the token, anew each time."""
    for path in ("/progress/", "/machines/", "/progress/"):
        assert [] == (await get(guarded, path, headers=WITH_TOKEN))["silent"]

    sent = [str(asked.headers) + str(asked.url) for asked in peer.asked]
    assert 3 == len({asked.headers["Authorization"] for asked in peer.asked})
    assert not any(TOKEN in text or "Bearer" in text for text in sent)


async def test_answer_without_proof(guarded, peer, caplog):
    """An answer without a valid proof does not count; its address is named."""
    for key in (None, worker_proofs.group_key("T" * 20, "g1")):
        peer.key = key
        for path in ("/progress/", "/machines/"):
            answer = await get(guarded, path, headers=WITH_TOKEN)
            assert [peer.url] == answer["silent"]
            assert 1 >= answer.get("totals", {}).get("files", 0)
    assert "does not prove that it is of the group" in caplog.text

    theirs_id = next(i for i in IDS if routing.partition_of(i.encode()) == 2)
    answer = await get(guarded, f"/progress/{theirs_id}/", headers=WITH_TOKEN, status=503)
    assert "does not prove" in answer["error"]


async def test_question_is_for_one_address(guarded, peer):
    """A request that is passed on to another worker, or repeated, is refused."""
    await get(guarded, "/machines/", headers=WITH_TOKEN)
    (asked,) = peer.asked
    headers = {"Authorization": asked.headers["Authorization"]}
    answer = await get(guarded, asked.raw_path, headers=headers, status=401)
    assert "no worker of the group" in answer["error"]


async def test_worker_answers_with_proof(guarded, faust_app):
    """A worker accepts a signed request once, and signs its answer, also an error."""
    key = worker_proofs.group_key(TOKEN, "g1")
    unknown = next(i for i in IDS if routing.partition_of(i.encode()) == 0)
    for path, status in [("/progress/?local=1", 200), (f"/progress/{unknown}/?local=1", 404)]:
        question = worker_proofs.SignedRequest(
            method="GET",
            path=path,
            peer=base_url(faust_app.settings),
            at=int(time.time()),
            nonce=f"{status:032x}",
        )
        headers = {"Authorization": question.credentials(key)}
        async with guarded.get(path, headers=headers) as answer:
            body = await answer.read()
            assert status == answer.status
            proof = answer.headers[worker_proofs.ANSWER_HEADER]
        assert question.proof(key, status=status, body=body) == proof
        again = await get(guarded, path, headers=headers, status=401)
        assert "asked before" in again["error"]


@pytest.mark.parametrize("path", ["/progress/?local=1", "/machines/?local=1"])
async def test_local_is_for_workers(guarded, path):
    """A client that only has the token cannot ask for one worker's part."""
    answer = await get(guarded, path, headers=WITH_TOKEN, status=403)
    assert "for the workers of the group" in answer["error"]


async def test_only_loopback_without_a_token(client, group):
    """Without a token only loopback addresses are asked."""
    group.own, group.urls = {0, 1}, {"http://192.0.2.7:6066": {2}}
    assert ["http://192.0.2.7:6066"] == (await get(client, "/progress/"))["silent"]


IMPOSSIBLE = {
    "too large": lambda: {"x": "y" * 200_000},
    "a list": list,
    "no totals": lambda: {"partitions": [2], "matching": 1, "files": []},
    "no partitions": lambda: {k: v for k, v in theirs().items() if k != "partitions"},
    "text in totals": lambda: theirs() | {"totals": {"files": "1"}},
    "less than none": lambda: theirs() | {"totals": {"files": -1}},
    "a file without name": lambda: theirs() | {"files": [{"file_id": "x"}]},
    "a file of numbers": lambda: theirs() | {"files": [7]},
    "too many files": lambda: theirs() | {"files": [{}] * 20_001},
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
async def test_impossible_answer(client, group, peer, monkeypatch, what):
    """An answer of another size or shape is ignored: its address is named, the rest is shown."""
    monkeypatch.setattr(peers, "ANSWER_BYTES", 100_000)
    stored_file(IDS[0], "a")
    group.own, group.urls = {0, 1}, {peer.url: {2}}
    for path in ("/progress/", "/machines/"):
        peer.answers[path] = (200, IMPOSSIBLE[what]())
    answer = await get(client, "/progress/")

    assert (["a"], [peer.url]) == ([file["name"] for file in answer["files"]], answer["silent"])
    assert [peer.url] == (await get(client, "/machines/"))["silent"]


async def test_who_is_asked(client, group, peer, monkeypatch):
    """Workers with partitions are asked for files, all workers for machines, up to a limit."""
    monkeypatch.setattr(peers, "MAX_PEERS", 5)
    peer.answers["/machines/"] = (200, {"partitions": [2], "machines": []})
    peer.answers["/progress/"] = (200, theirs())
    other = peer.url.replace("127.0.0.1", "127.0.0.2")
    group.own, group.urls = {0, 1}, {peer.url: {2}, other: set()}
    for path, silent in [("/progress/", []), ("/machines/", [other])]:
        assert silent == (await get(client, path))["silent"]

    group.urls = {f"http://127.0.0.1:{port}": {2} for port in range(1, 10)}
    assert 5 == len((await get(client, "/machines/"))["silent"])


async def test_worker_without_what_it_was_said_to_hold(client, group, peer):
    """Partitions without an answer are named, whichever worker should have them."""
    group.own, group.urls = {0}, {peer.url: {1, 2}}
    peer.answers["/progress/"] = (200, theirs())
    (silent,) = (await get(client, "/progress/"))["silent"]
    assert "(partitions 1 of the tables)" in silent


# --- who may ask


def test_routes(faust_app):
    """There are no other routes than these, and none of them changes anything."""
    found = {
        (route.resource.canonical, route.method) for route in faust_app.web.web_app.router.routes()
    }

    paths = ROUTES | {path.rstrip("/") for path in ROUTES if path != "/"}
    assert {(path, method) for path in paths for method in ("GET", "HEAD")} == found


@pytest.mark.parametrize("path", ["/progress/", "/machines/"])
async def test_too_many_lists(client, monkeypatch, path):
    """A request for one list too many is refused with a time to retry; others are answered."""
    gate = table_reader.ListGate(table_reader.LISTS_AT_ONCE)
    monkeypatch.setattr(table_reader, "_gates", {False: gate, True: table_reader.ListGate(1)})
    with contextlib.ExitStack() as lists:
        for _ in range(table_reader.LISTS_AT_ONCE):
            lists.enter_context(gate.enter())
        async with client.get(path) as answer:
            assert (429, "2") == (answer.status, answer.headers["Retry-After"])
        await get(client, f"{path}?local=1")
        await get(client, "/health/live/")
    await get(client, path)


@pytest.mark.parametrize("path", ["/progress", "/machines", f"/progress/{IDS[0]}", "/health/live"])
async def test_without_slash(client, path):
    """A path answers with and without the slash at its end."""
    stored_file(IDS[0], "a", persisted=[0])
    found, expected = await get(client, path), await get(client, f"{path}/")
    assert found.keys() == expected.keys()


async def test_no_such_page(client):
    """An unknown path is refused with JSON that lists the known ones."""
    found = await get(client, "/nowhere/", status=404)
    assert found["error"].startswith("no such view; there are /progress/, ")


@pytest.mark.parametrize(
    ("path", "status"),
    [("/progress/", 200), ("/nowhere", 404), ("/progress/x/", 404), ("/broken", 500)],
)
async def test_security_headers(client, path, status):
    """Every answer, also an error, has the security headers; none has a secret."""
    async with client.get(path) as answer:
        assert status == answer.status
        assert SECURITY_HEADERS.items() <= answer.headers.items()
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert "secret" not in await answer.text()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "{own}"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
    ],
)
async def test_pages_from_elsewhere(client, headers, status):
    """A request that another site's page makes is refused before anything is read."""
    own = str(client.make_url("/")).rstrip("/")
    headers = {name: value.format(own=own) for name, value in headers.items()}
    for path in ("/progress/", "/machines/", "/metrics"):
        async with client.get(path, headers=headers) as answer:
            assert status == answer.status
            assert SECURITY_HEADERS.items() <= answer.headers.items()


async def test_no_body(client):
    """A request that brings a body is refused."""
    async with client.get("/progress/", data=b"x" * 100) as answer:
        assert 400 == answer.status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "SEARCH"])
async def test_nothing_can_be_changed(client, method):
    """Only methods that read are allowed."""
    async with client.request(method, "/progress/") as answer:
        assert 405 == answer.status
        assert SECURITY_HEADERS.items() <= answer.headers.items()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:6066", 200),
        ("127.0.0.1:6066", 200),
        ("[::1]:6066", 200),
        ("[::1]", 200),
        ("evil.example", 421),
        ("evil.example:6066", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("127.0.0.1@evil.example", 421),
        ("evil.example:127.0.0.1", 421),
        ("192.168.1.1", 421),
        ("<b>", 421),
        ("", 421),
    ],
)
async def test_host(client, host, status):
    """A request for another host name (DNS rebinding) is refused."""
    async with client.get("/machines/", headers={"Host": host}) as answer:
        assert status == answer.status


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer wrong-token", 401),
        ("bearer " + "t" * 20, 401),
        ("Bearer " + "t" * 21, 401),
        ("Bearer \xff\u20ac", 401),
        ("Bearer " + "t" * 20, 200),
    ],
)
@pytest.mark.parametrize("path", ["/progress/", "/metrics", "/health/live/", "/"])
async def test_token(serve, header, status, path):
    """If a token is set, requests without it are refused."""
    client = await serve(web_host="0.0.0.0", web_token="t" * 20)  # noqa: S104
    headers = {} if header is None else {"Authorization": header}
    async with client.get(path, headers=headers) as answer:
        assert status == answer.status
        assert SECURITY_HEADERS.items() <= answer.headers.items()


def test_fold_status(faust_app, tables):
    """A status goes to its file's row, a heartbeat to its machine's, other records nowhere."""
    assert faust_app
    assert tables
    assert folds.file_row(b"x") is None
    assert folds.machine_row(b"x") is None
