"""Shows the answers of a worker's web views: files, their progress, and the machines."""

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
"""Most requests to a worker that answers 429 (too many lists at once)."""

BUSY_SECONDS: Final = 5.0
"""Longest pause between two of these requests, even if the worker asks for a longer one."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: a worker never redirects, and the token is for the worker alone."""

    def redirect_request(self, *_: object) -> None:
        """Follow no redirect."""


# No proxy: most workers are on loopback, and a proxy must not see the token.
_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)


def ask(settings: Settings, path: str, **query: object) -> dict[str, Any]:
    """Return a worker's answer to *path*; a busy worker is asked again.

    Raises:
        ViewError: no worker answers, or it refuses the request.
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
            found = json.load(answer)
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
    if not isinstance(found, dict) or "silent" not in found:
        message = f"what answers at {url} is no worker: are --web-host and --web-port its own?"
        raise ViewError(message)
    return found


def ask_all(settings: Settings, *, limit: int, search: str, state: str) -> dict[str, Any]:
    """Return the group's files and machines, and in ``silent`` the workers that did not answer.

    Raises:
        ViewError: no worker answers.
    """
    files = ask(settings, "/progress/", limit=limit, search=search, state=state, order="activity")
    machines = ask(settings, "/machines/")
    silent = sorted({*files["silent"], *machines["silent"]})
    return files | machines | {"partial": bool(silent), "silent": silent}


class ViewQuery(NamedTuple):
    """The query for files."""

    limit: int
    search: str = ""
    state: str = ""

    @property
    def restriction(self) -> str:
        """Complete the sentence "No file …" if none is found; empty if all were asked for."""
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
    """Show the same once a second until Ctrl-C; without a terminal, print a line for each change.

    If the worker stops answering, this waits for it.

    Raises:
        ViewError: no worker answers the first request.
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
    """Write the views' answers as one line of JSON; if *is_watching*, each second until Ctrl-C.

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
    """Prints a line for each change."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = ""

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def show(self, answer: dict[str, Any]) -> None:
        """Print *answer* as a line, if it differs from the last line."""
        self.miss(line(answer))

    def miss(self, text: str) -> None:
        """Print *text*, if it differs from the last line."""
        if text != self._last:
            self._last = text
            self._console.print(f"{time.strftime('%H:%M:%S')} {text}", soft_wrap=True, markup=False)


class _Redrawn(contextlib.AbstractContextManager["_Redrawn"]):
    """Redraws the page in place, no higher than the terminal."""

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
        """Draw *answer* with as many files as fit."""
        self._answer = answer
        self._draw([])

    def miss(self, text: str) -> None:
        """Draw the last answer below *text*, the reason why there is no newer answer."""
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
