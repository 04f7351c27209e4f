"""The status in a terminal: what the views know, and plain words when nobody answers."""

import contextlib
import http.server
import io
import json
import re
import socket
import threading

import pytest

from rich.console import Console

from streamapp.errors import ViewError
from streamapp.settings import Settings
from streamapp.ui import status_view as status
from streamapp.web.client import local_url
from tests.unit.view_bodies import FILE, MACHINE, NOTHING


@pytest.fixture
def serve():
    """Serves answers as a worker does; returns the settings with which it is asked."""
    with contextlib.ExitStack() as stack:

        def serve(answers, **flags):
            asked = []

            class Handler(http.server.BaseHTTPRequestHandler):
                def do_GET(self):
                    asked.append(self)
                    found = answers.get(self.path.partition("?")[0], (404, "x"))
                    found = found() if callable(found) else found
                    if not isinstance(found, tuple):
                        found = (200, json.dumps(found))
                    code, body, *headers = found
                    self.send_response(code)
                    for header in headers[0].items() if headers else ():
                        self.send_header(*header)
                    if code == 302:
                        self.send_header("Location", "http://127.0.0.1:1/")
                    self.end_headers()
                    self.wfile.write(body.encode())

                def log_message(self, *_):
                    """Say nothing."""

            server = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
            threading.Thread(target=server.serve_forever, args=(0.01,)).start()
            stack.callback(server.shutdown)
            settings = Settings.load(machine_id="m", web_port=server.server_port, **flags)
            return settings, asked

        yield serve


def shown(settings, *, width=200, **query):
    """Return what is printed."""
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None)
    status.show(settings, console, status.ViewQuery(**{"limit": 50} | query))
    return out.getvalue()


def test_shows(serve):
    """Files, machines, and who did not answer."""
    files = NOTHING | {"files": [FILE], "matching": 3, "silent": ["http://x[/red]:1\x1b"]}
    machines = [MACHINE, MACHINE | {"machine": "m2", "up": False, "silent_seconds": 61.0}]
    settings, asked = serve(
        {"/progress/": files, "/machines/": {"machines": machines, "silent": ["http://y:2"]}}
    )
    text = shown(settings, search="a b", limit=1)

    for part in (
        "1/2",
        "50 %",
        "failed; no\\x1b[2J [/red]; block 1: disk\\x07",
        "a\\x1b[31m\\u202e[red]b",
        "and 2 more files",
        "disk full\\x1b[2J",
        "silent for 1 min 01 s",
        "1 of 2 machines up",
    ):
        assert part in text
    assert not set(text) & {"\x1b", "\x07", "\u202e"}
    assert "/progress/?limit=1&search=a+b&state=&order=activity" == asked[0].path


def test_partial_is_said_first(serve):
    """When a worker does not answer, the first line says so, and no number claims to be all."""
    files = NOTHING | {"totals": NOTHING["totals"] | {"files": 7, "complete": 7}, "silent": ["b"]}
    machines = {"machines": [MACHINE], "silent": ["a[/red]\x1b"], "waiting": ["w2 is\x07 silent"]}
    settings, _ = serve({"/progress/": files, "/machines/": machines})
    lines = [line.strip() for line in shown(settings).splitlines()]

    assert [
        "at least 7 files complete; the part of a[/red]\\x1b, b is not shown",
        "waiting: w2 is\\x07 silent",
        "all that is shown: 7 of 7 files complete, 0 B of 0 B",
    ] == lines[:3]


def test_nothing(serve):
    """A group without files and machines is no error."""
    settings, _ = serve({"/progress/": NOTHING, "/machines/": {"machines": [], "silent": []}})

    assert "0 of 0 files complete" in shown(settings)
    assert "No file is failed" in shown(settings, state="failed")
    assert "No file has that name" in shown(settings, search="x")


@pytest.fixture
def waits(monkeypatch):
    """How long was waited, in seconds, without waiting."""
    waits = []
    monkeypatch.setattr(status.time, "sleep", waits.append)
    return waits


@pytest.mark.parametrize(
    ("wanted", "seconds"), [("2", 2), (None, 1), ("x", 1), ("99", status.BUSY_SECONDS)]
)
def test_busy_is_asked_again(serve, waits, wanted, seconds):
    """A worker that answers too many lists is asked again when it wants to be."""
    headers = {} if wanted is None else {"Retry-After": wanted}
    busy = [(429, "{}", headers)] * 2
    answers = {"/progress/": lambda: busy.pop() if busy else NOTHING}
    settings, _ = serve(answers | {"/machines/": {"machines": [], "silent": []}})

    assert "0 of 0 files" in shown(settings)
    assert [seconds, seconds] == waits


def test_busy_for_ever(serve, waits):
    """One that stays busy is reported, and is not asked for ever."""
    settings, asked = serve({"/progress/": (429, "{}", {"Retry-After": "1"})})
    with pytest.raises(ViewError, match="refuses: 429"):
        shown(settings)

    assert len(asked) == status.BUSY_TRIES == len(waits) + 1


@pytest.fixture
def looks(monkeypatch):
    """What happens between two looks; Ctrl-C is pressed when there is nothing left."""
    looks = []

    def sleep(seconds):
        assert status.WATCH_SECONDS == seconds
        if not looks:
            raise KeyboardInterrupt
        looks.pop(0)()

    monkeypatch.setattr(status.time, "sleep", sleep)
    return looks


def test_watch_lines(serve, looks):
    """Where there is no terminal a line is written when something has changed; Ctrl-C ends it."""
    machines = {"machines": [MACHINE], "silent": [], "waiting": ["m1 holds: [red]disk full"]}
    answers = {"/progress/": NOTHING, "/machines/": machines}
    settings, _ = serve(answers)
    looks += [
        lambda: None,
        lambda: answers.update({"/progress/": (503, "x")}),
        lambda: None,
        lambda: answers.update({"/progress/": NOTHING | {"totals": NOTHING["totals"]}}),
        lambda: answers.update({"/machines/": machines | {"waiting": []}}),
    ]
    out = io.StringIO()
    status.watch(settings, Console(file=out, width=80), status.ViewQuery(limit=5))
    lines = [line.split(" ", 1)[1] for line in out.getvalue().splitlines()]

    everything = "all files: 0 of 0 files complete, 0 B of 0 B; 1 of 1 machine up"
    waiting = f"waiting: m1 holds: [red]disk full; {everything}"
    assert [waiting, waiting, everything] == [lines[0], lines[2], lines[3]]
    assert "refuses: 503" in lines[1]
    assert 4 == len(lines)


def test_watch_in_a_terminal(serve, looks):
    """In a terminal the page is drawn over itself, no higher than that."""
    files = [FILE | {"name": f"f{n:02}", "reason": "", "failed_blocks": []} for n in range(40)]
    answers = {
        "/progress/": NOTHING | {"files": files, "matching": 40},
        "/machines/": {"machines": [MACHINE], "silent": []},
    }
    settings, _ = serve(answers)
    looks += [lambda: answers.update({"/progress/": (503, "x")})]
    out = io.StringIO()
    console = Console(file=out, width=80, height=20, force_terminal=True, color_system=None)
    status.watch(settings, console, status.ViewQuery(limit=40))
    first, *_, last = out.getvalue().split("file ")

    assert "all files" in first
    assert last.count("\n") < 20
    assert "f00" in last
    assert "f30" not in out.getvalue()
    assert "refuses: 503" in out.getvalue()
    assert re.search(r"and \d+ more files", last)


def test_json_lines(serve, looks):
    """Programs get one object a line, also while they watch."""
    settings, _ = serve({"/progress/": NOTHING, "/machines/": {"machines": [], "silent": []}})
    looks += [lambda: None]
    written = []
    for is_watching, count in ((False, 1), (True, 2)):
        written.clear()
        status.write_json(
            settings, status.ViewQuery(limit=1), is_watching=is_watching, write=written.append
        )
        assert count == len(written)
        assert all(json.loads(line)["partial"] is False for line in written)


def test_json_names_all_that_are_silent(serve):
    """Who was silent on files or on machines is named once, together."""
    settings, _ = serve(
        {
            "/progress/": NOTHING | {"silent": ["a", "b"]},
            "/machines/": {"machines": [], "silent": ["b", "c"]},
        }
    )

    answer = status.ask_all(settings, limit=1, search="", state="")
    assert (True, ["a", "b", "c"]) == (answer["partial"], answer["silent"])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((401, "{}"), "refuses: 401 .*STREAMAPP_WEB_TOKEN"),
        ((404, "x"), "refuses: 404"),
        ((500, "x"), "refuses: 500"),
        ((302, "x"), "refuses: 302"),
        ((200, "<html>"), "no worker answers"),
        ((200, ""), "no worker answers"),
        ((200, "[]"), "is no worker"),
        ((200, "{}"), "is no worker"),
        ((200, "null"), "is no worker"),
    ],
)
def test_something_else_answers(serve, answer, words):
    """What answers otherwise is named, in one line."""
    settings, _ = serve({"/progress/": answer})
    with pytest.raises(ViewError, match=words) as caught:
        shown(settings)

    assert "\n" not in str(caught.value)


def test_nobody_answers():
    """Where no worker listens, the flags that may be wrong are named."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        settings = Settings.load(machine_id="m", web_port=free.getsockname()[1])
        with pytest.raises(ViewError, match=r"no worker answers at .*Connection refused.*--web-p"):
            shown(settings)


def test_answers_that_are_no_http():
    """What is no web server is not taken for one."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-x\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        settings = Settings.load(machine_id="m", web_port=server.getsockname()[1])
        with pytest.raises(ViewError, match="no worker answers"):
            shown(settings)
        thread.join()


def test_no_proxy(serve, monkeypatch):
    """A proxy of the environment is neither needed nor shown the token."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    settings, asked = serve(
        {"/progress/": NOTHING, "/machines/": {"machines": [], "silent": []}}, web_token="t" * 20
    )

    assert shown(settings)
    assert {"Bearer " + "t" * 20} == {handler.headers["Authorization"] for handler in asked}


@pytest.mark.parametrize(
    ("listens_on", "is_asked_at"),
    [
        ("127.0.0.1", "http://127.0.0.1:7"),
        ("::1", "http://[::1]:7"),
        ("0.0.0.0", "http://127.0.0.1:7"),  # noqa: S104 - nothing is bound here
        ("::", "http://[::1]:7"),
        ("store-1", "http://store-1:7"),
    ],
)
def test_address(listens_on, is_asked_at):
    """A worker is asked where it listens; one that listens everywhere is asked on loopback."""
    settings = Settings.load(
        machine_id="m", web_host=listens_on, web_port=7, web_token="t" * 20, web_advertise="peer"
    )

    assert is_asked_at == local_url(settings)


def test_advertised_name_is_for_peers(serve):
    """A worker on loopback answers this machine, whatever name it gives to other workers."""
    settings, _ = serve(
        {"/progress/": NOTHING, "/machines/": {"machines": [], "silent": []}},
        web_advertise="worker-1.invalid",
    )

    assert "0 of 0 files complete" in shown(settings)
