"""Prints in a terminal what the web views know: files, their progress, and the machines."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table
from rich.text import Text

from streamapp.errors import ViewError
from streamapp.names import printable
from streamapp.settings import label_of
from streamapp.units import format_duration, format_rate, format_size
from streamapp.web_client import local_url, token_headers


if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from streamapp.settings import Settings

ASK_SECONDS: Final = 10.0
_STATE_STYLES: Final = {"complete": "green", "failed": "red", "changed": "red", "holding": "yellow"}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A worker never sends elsewhere; the token is for it alone."""

    def redirect_request(self, *_: object) -> None:
        """Follow no redirect."""


# No proxy either: most workers are on loopback, and no proxy is to see the token.
_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)


def ask(settings: Settings, path: str, **query: object) -> dict[str, Any]:
    """Return what a worker of the group answers to *path*.

    Raises:
        ViewError: no worker answers, or it refuses.
    """
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
    files = ask(settings, "/progress/", limit=limit, search=search, state=state)
    machines = ask(settings, "/machines/")
    silent = sorted({*files["silent"], *machines["silent"]})
    return files | machines | {"partial": bool(silent), "silent": silent}


def show(settings: Settings, console: Console, *, limit: int, search: str, state: str) -> None:
    """Print the group's files and machines as tables.

    Raises:
        ViewError: no worker answers.
    """
    answer = ask_all(settings, limit=limit, search=search, state=state)
    for line in _first_lines(answer):
        console.print(line)
    if answer["files"] or not (state or search):
        console.print(_files(answer))
    else:
        console.print(f"No file {'is ' + state if state else 'has that name'}")
    hidden = answer["matching"] - len(answer["files"])
    if hidden:
        console.print(f"and {hidden} more files: --limit, --search")
    console.print(_machines(answer["machines"]))


def _first_lines(answer: dict[str, Any]) -> Iterator[Text]:
    """Yield what must be known before the numbers: that they are partial, and what is waited for.

    Whoever answers is up; a worker of an older version does not say what the group waits for.
    """
    if answer["silent"]:
        who = ", ".join(map(printable, answer["silent"]))
        complete = answer["totals"]["complete"]
        yield Text(f"at least {complete} files complete; the part of {who} is not shown", "red")
    for reason in answer.get("waiting", ()):
        yield Text(f"waiting: {printable(reason)}", "yellow")


def _files(progress: dict[str, Any]) -> Table:
    totals = progress["totals"]
    table = Table(
        title=f"{'shown: ' if progress['partial'] else ''}"
        f"{totals['complete']} of {totals['files']} files complete, "
        f"{format_size(totals['persisted_bytes'])} of {format_size(totals['bytes'])}"
    )
    table.add_column("file", overflow="fold")
    for name in ("size", "blocks", "done", "rate"):
        table.add_column(name, justify="right")
    table.add_column("state")
    for file in progress["files"]:
        failed = ", ".join(f"block {f['block']}: {f['reason']}" for f in file["failed_blocks"][:3])
        state = "; ".join(filter(None, (file["state"], file["reason"], failed)))
        table.add_row(
            Text(printable(file["name"])),
            format_size(file["size"]),
            f"{file['persisted_blocks']}/{file['blocks']}",
            f"{file['percent']:.0f} %",
            format_rate(file["rate"]) if file["rate"] else "",
            Text(printable(state), style=_STATE_STYLES.get(file["state"], "")),
        )
    return table


def _machines(machines: list[dict[str, Any]]) -> Table:
    table = Table(title=f"{sum(m['up'] for m in machines)} of {len(machines)} machines up")
    table.add_column("machine", overflow="fold")
    for name in ("kept", "rate", "free disk"):
        table.add_column(name, justify="right")
    table.add_column("state", overflow="fold")
    for machine in machines:
        table.add_row(
            Text(printable(machine["machine"])),
            f"{machine['blocks']} blocks, {format_size(machine['bytes'])}",
            format_rate(machine["rate"]) if machine["rate"] else "",
            format_size(machine["free_disk"]),
            _state(machine),
        )
    return table


def _state(machine: dict[str, Any]) -> Text:
    if machine["state"] == "stopped":
        return Text("stopped", style="dim")
    if not machine["up"]:
        return Text(f"silent for {format_duration(machine['silent_seconds'])}", style="red")
    said = [machine["state"], machine["reason"]]
    if not machine["partitions"]:
        said.append("idle: more machines than partitions")
    for count, what in (("rejected", "blocks rejected"), ("quarantined", "records set aside")):
        if machine[count]:
            said.append(f"{machine[count]} {what}")
    style = _STATE_STYLES.get(machine["state"], "green")
    return Text(printable("; ".join(filter(None, said))), style=style)
