"""Asks the workers of the group, because each holds part of the tables.

Faust knows the holders by the addresses that they give. Workers on several machines that all
give a loopback address cannot be told apart, nor reached: their part is named as silent, and
never taken for nothing.
"""

from __future__ import annotations

import asyncio
import logging

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from streamapp import routing, topics, watching
from streamapp.app import app
from streamapp.web_client import token_headers
from tables.state import files


if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager

    from faust.types.web import Request, Response
    from faust.web import View

logger = logging.getLogger(__name__)

ANSWER_SECONDS: Final = 3.0
LOCAL: Final = "local"
"""Query parameter: answer from this worker's own partitions alone."""

_UNREACHABLE: Final = "a worker that gives no address of its own: set its --web-advertise"


async def ask_others(path: str, query: Mapping[str, str]) -> tuple[list[Any], list[str]]:
    """Return the other workers' JSON answers, and who did not answer."""
    held = _held_by_others()
    urls = sorted(held)
    answers = await asyncio.gather(
        *(_ask(f"{url}{path}", dict(query) | {LOCAL: "1"}) for url in urls), return_exceptions=True
    )
    found, silent = [], []
    for url, answer in zip(urls, answers, strict=True):
        if isinstance(answer, BaseException):
            logger.warning("the worker at %s does not answer: %r", url, answer)
            silent.append(url)
        else:
            found.append(answer)
    known = _held_here().union(*held.values())
    unknown = sorted(set(range(topics.FILE_PARTITIONS)) - known)
    if not watching.is_ready(app):
        silent.append(f"{app.conf.canonical_url} ({watching.RESTORING})")
    if unknown:
        silent.append(f"{_UNREACHABLE} (partitions {', '.join(map(str, unknown))} of the tables)")
    return found, silent


async def ask_holder(view: View, request: Request, key: str) -> Response | None:
    """Return the answer of the worker that holds *key*; None when it is this one.

    One that restores its tables, or is told to give partitions away, knows less than there is.
    """
    if routing.partition_of(key.encode()) in _held_here():
        return None if watching.is_ready(app) else not_ready(view)
    try:
        url = _url_of_holder(key)
        if not url or LOCAL in request.query:  # who asks knows less than we do: no circles
            reason = _UNREACHABLE if not url else "no worker holds it now, ask again"
        else:
            async with _get(f"{url}{request.url.path}", {LOCAL: "1"}) as answer:
                return view.json(await answer.json(), status=answer.status)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        reason = f"the worker that holds it does not answer: {error!r}"
    logger.warning("asked for %s: %s", key, reason)
    return view.json({"error": f"nothing is known of {key!r}: {reason}"}, status=503)


def not_ready(view: View) -> Response:
    """Return the answer of a worker that does not have its tables now."""
    return view.json({"error": f"{watching.RESTORING}, ask again"}, status=503)


def _url_of_holder(key: str) -> str:
    """The URL of the worker that Faust says to hold *key*; empty when that cannot be told."""
    try:
        url = str(app.router.key_store(files.name, key)).rstrip("/")
    except KeyError:
        return ""
    return "" if url == str(app.conf.canonical_url).rstrip("/") else url


def _held_here() -> set[int]:
    """The partitions of the tables that this worker holds."""
    name = files.changelog_topic.get_topic_name()
    return {tp.partition for tp in app.assignor.assigned_actives() if tp.topic == name}


def _held_by_others() -> dict[str, set[int]]:
    """The partitions of the tables that each other worker holds, by the worker's URL."""
    name = files.changelog_topic.get_topic_name()
    own = str(app.conf.canonical_url).rstrip("/")
    everyone = app.router.tables_metadata()
    held = {str(url).rstrip("/"): set(tps.get(name, ())) for url, tps in everyone.items()}
    return {url: partitions for url, partitions in held.items() if url not in {own, ""}}


async def _ask(url: str, query: Mapping[str, str]) -> Any:  # noqa: ANN401 - it is JSON
    async with _get(url, query) as answer:
        said = await answer.json()
        if answer.status != HTTPStatus.OK or said is None:
            message = f"{answer.status} {said!r:.200}"
            raise ValueError(message)
        return said


def _get(url: str, query: Mapping[str, str]) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    headers = token_headers(app.settings)  # not for whomever a redirect names
    return app.http_client.get(
        url, params=query, headers=headers, timeout=timeout, allow_redirects=False
    )
