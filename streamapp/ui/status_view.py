"""Prints in a terminal what the web views know: files, their progress, and the machines."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from rich.console import Group
from rich.live import Live
from rich.text import Text

from streamapp.errors import RequestRefusedError, ViewError
from streamapp.settings import label_of
from streamapp.ui.status_page import line, page
from streamapp.web.client import local_url, token_headers


if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rich.console import Console

    from streamapp.settings import Settings

ASK_SECONDS: Final = 10.0
WATCH_SECONDS: Final = 1.0

BUSY_TRIES: Final = 6
"""How often a worker is asked that answers 429: too many lists are asked for at once."""

BUSY_SECONDS: Final = 5.0
"""Most seconds between two of these tries, whatever the worker asks for."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A worker never sends elsewhere; the token is for it alone."""

    def redirect_request(self, *_: object) -> None:
        """Follow no redirect."""


# No proxy either: most workers are on loopback, and no proxy is to see the token.
_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)


def ask(settings: Settings, path: str, **query: object) -> dict[str, Any]:
    """Return what a worker of the group answers to *path*; one that is busy is asked again.

    Raises:
        ViewError: no worker answers, or it refuses.
    """
    for _ in range(BUSY_TRIES - 1):
        try:
            return _ask(settings, path, query)
        except RequestRefusedError as busy:
            time.sleep(min(busy.retry_seconds or 1, BUSY_SECONDS))
    return _ask(settings, path, query)


def _ask(settings: Settings, path: str, query: Mapping[str, object]) -> dict[str, Any]:
    url = f"{local_url(settings)}{path}"
    request = urllib.request.Request(  # noqa: S310 - it begins with http
        f"{url}?{urllib.parse.urlencode(query)}", headers=token_headers(settings)
    )
    try:
        with _OPENER.open(request, timeout=ASK_SECONDS) as answer:
            said = json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()
        hint = f": set {label_of('web_token')}" if error.code == HTTPStatus.UNAUTHORIZED else ""
        message = f"{url} refuses: {error.code} {error.reason}{hint}"
        if error.code == HTTPStatus.TOO_MANY_REQUESTS:
            wanted = error.headers.get("Retry-After", "")
            seconds = int(wanted) if wanted.isdecimal() else None
            raise RequestRefusedError(message, status=error.code, retry_seconds=seconds) from error
        raise ViewError(message) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        message = (
            f"no worker answers at {url}: {reason}. "
            "Is one running, are --web-host and --web-port its own?"
        )
        raise ViewError(message) from error
    if not isinstance(said, dict) or "silent" not in said:
        message = f"what answers at {url} is no worker: are --web-host and --web-port its own?"
        raise ViewError(message)
    return said


def ask_all(settings: Settings, *, limit: int, search: str, state: str) -> dict[str, Any]:
    """Return the group's files and machines, and whoever did not answer for its part of them.

    Raises:
        ViewError: no worker answers.
    """
    files = ask(settings, "/progress/", limit=limit, search=search, state=state, order="activity")
    machines = ask(settings, "/machines/")
    silent = sorted({*files["silent"], *machines["silent"]})
    return files | machines | {"partial": bool(silent), "silent": silent}


class ViewQuery(NamedTuple):
    """Which files are shown."""

    limit: int
    search: str = ""
    state: str = ""

    @property
    def restriction(self) -> str:
        """What no file is or has, in words, when none is found; empty when all were asked for."""
        if self.state:
            return f"is {self.state}"
        return "has that name" if self.search else ""


def show(settings: Settings, console: Console, query: ViewQuery) -> None:
    """Print the group's files and machines as tables.

    Raises:
        ViewError: no worker answers.
    """
    answer = ask_all(settings, **query._asdict())
    console.print(page(answer, width=console.width, asked_for=query.restriction))


def watch(settings: Settings, console: Console, query: ViewQuery) -> None:
    """Show the same once a second until Ctrl-C; where there is no terminal, lines that are new.

    A worker that does not answer any more is waited for.

    Raises:
        ViewError: no worker answers at the beginning.
    """
    answer = ask_all(settings, **query._asdict())
    draw = _Redrawn(console, query) if console.is_terminal else _Lines(console)
    with draw, contextlib.suppress(KeyboardInterrupt):
        draw.show(answer)
        while True:
            time.sleep(WATCH_SECONDS)
            try:
                draw.show(ask_all(settings, **query._asdict()))
            except ViewError as error:
                draw.miss(str(error))


def write_json(
    settings: Settings, query: ViewQuery, *, is_watching: bool, write: Callable[[str], None]
) -> None:
    """Write what the views answer as a line of JSON; if *is_watching* once a second until Ctrl-C.

    Raises:
        ViewError: no worker answers.
    """
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            write(json.dumps(ask_all(settings, **query._asdict())))
            if not is_watching:
                return
            time.sleep(WATCH_SECONDS)


class _Lines(contextlib.AbstractContextManager["_Lines"]):
    """A line each time that something has changed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = ""

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def show(self, answer: dict[str, Any]) -> None:
        """Print *answer* in a line, if that is another one."""
        self.miss(line(answer))

    def miss(self, text: str) -> None:
        """Print *text*, if that is another one."""
        if text != self._last:
            self._last = text
            self._console.print(f"{time.strftime('%H:%M:%S')} {text}", soft_wrap=True, markup=False)


class _Redrawn(contextlib.AbstractContextManager["_Redrawn"]):
    """The page, drawn over itself, no higher than the terminal."""

    def __init__(self, console: Console, query: ViewQuery) -> None:
        self._console = console
        self._question = query
        self._answer: dict[str, Any] = {}
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, answer: dict[str, Any]) -> None:
        """Draw *answer*: of the files as many as there is room for."""
        self._answer = answer
        self._draw([])

    def miss(self, text: str) -> None:
        """Draw the last answer below *text*, which says why there is no newer one."""
        self._draw([Text(text, style="red")])

    def _draw(self, above: list[Text]) -> None:
        room = self._console.height - 1 - len(above)
        files = self._answer["files"]
        body = self._page(files)
        excess = len(self._console.render_lines(body)) - room
        if excess > 0:
            body = self._page(files[: max(1, len(files) - excess)])
        self._live.update(Group(*above, body), refresh=True)

    def _page(self, files: list[dict[str, Any]]) -> Group:
        shown = self._answer | {"files": files}
        return page(shown, width=self._console.width, asked_for=self._question.restriction)
