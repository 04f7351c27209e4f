"""Asks the other workers of the group, because each worker has part of the tables.

Faust knows the workers by the addresses that they advertise. A member of the group can advertise
any address. Therefore the token is never sent to a peer, and an answer counts only if it has a
proof, arrives within limits of time and size, and has the shape of a worker's answer. Without a
token only loopback addresses are asked. Workers on several machines that all advertise a loopback
address cannot be distinguished or reached. Workers that do not answer, and partitions without
any answer, are reported as silent.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import time

from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeVar

import aiohttp

from yarl import URL

from streamapp.app import app
from streamapp.errors import PeerError
from streamapp.protocol import routing, topics
from streamapp.protocol.filenames import printable
from streamapp.settings import is_loopback, label_of
from streamapp.tables.state import files
from streamapp.tables.web.peer_answers import FilesAnswer, MachinesAnswer, read_file
from streamapp.units import KIB, MIB
from streamapp.web.client import LOCAL, peer_key
from streamapp.web.worker_proofs import ANSWER_HEADER, SignedRequest
from streamapp.worker import readiness


if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from faust.types.web import Request, Response
    from faust.web import View

logger = logging.getLogger(__name__)

ANSWER_SECONDS: Final = 8.0
"""How long another worker may take; `streamapp status` waits for 10 s."""

ANSWER_BYTES: Final = 32 * MIB
"""Largest answer of another worker."""

MAX_PEERS: Final = 100
"""Most addresses that are asked for one list."""

_UNREACHABLE: Final = "a worker that gives no address of its own: set its --web-advertise"
_FAILURES: Final = (PeerError, aiohttp.ClientError, OSError, TimeoutError, ValueError)

_Answer = TypeVar("_Answer", FilesAnswer, MachinesAnswer)


async def ask_others(
    path: str,
    query: Mapping[str, str],
    read: Callable[[bytes], _Answer],
    *,
    own: set[int],
    everyone: bool = False,
) -> tuple[list[_Answer], list[str]]:
    """Return the other workers' answers, decoded by *read*, and the names of silent workers.

    *own*: the partitions of the tables that this worker's own part covers; *everyone*: also ask
    workers that have no partitions.
    """
    holders = _holders()
    asked = [url for url, those in holders.items() if everyone or those]
    urls = sorted(asked, key=lambda url: (not holders[url], url))[:MAX_PEERS]
    answers = await asyncio.gather(
        *(_ask_part(url, path, query, read) for url in urls), return_exceptions=True
    )
    found: list[_Answer] = []
    silent: list[str] = []
    for url, answer in zip(urls, answers, strict=True):
        if isinstance(answer, BaseException):
            if not isinstance(answer, _FAILURES):
                raise answer
            logger.warning("the worker at %s does not answer: %s", url, _said(answer))
            silent.append(url)
        else:
            found.append(answer)
    known = own.union(*(answer.partitions for answer in found))
    named = known.union(*(holders[url] for url in silent))
    unknown = sorted(set(range(topics.FILE_PARTITIONS)) - named)
    if not readiness.is_ready(app):
        silent.append(f"{app.conf.canonical_url} ({readiness.RESTORING})")
    if unknown:
        silent.append(f"{_UNREACHABLE} (partitions {', '.join(map(str, unknown))} of the tables)")
    return found, silent


async def ask_holder(view: View, request: Request, key: str) -> Response | None:
    """Return the answer of the worker that has the row *key*; None if it is this worker.

    A worker that recovers its tables cannot answer.
    """
    if routing.partition_of(key.encode()) in held_here():
        return None if readiness.is_ready(app) else not_ready(view)
    try:
        url = _url_of_holder(key)
        if not url or LOCAL in request.query:  # a forwarded request is not forwarded again
            reason = _UNREACHABLE if not url else "no worker holds it now, ask again"
        else:
            status, body = await _ask(url, request.url.path, {})
            return view.json(read_file(body), status=status)
    except _FAILURES as error:
        reason = f"the worker that holds it does not answer: {_said(error)}"
    logger.warning("asked for %s: %s", key, reason)
    return view.json({"error": f"nothing is known of {key!r}: {reason}"}, status=503)


def not_ready(view: View) -> Response:
    """Return the answer while this worker recovers its tables."""
    return view.json({"error": f"{readiness.RESTORING}, ask again"}, status=503)


def held_here() -> set[int]:
    """Return the partitions of the tables that are assigned to this worker."""
    name = files.changelog_topic.get_topic_name()
    return {tp.partition for tp in app.assignor.assigned_actives() if tp.topic == name}


def _url_of_holder(key: str) -> str:
    """Return the URL of the worker that has *key*; empty if unknown, or if it is this worker."""
    try:
        url = str(app.router.key_store(files.name, key)).rstrip("/")
    except KeyError:
        return ""
    return "" if url == _own_url() else url


def _own_url() -> str:
    return str(app.conf.canonical_url).rstrip("/")


def _holders() -> dict[str, set[int]]:
    """Return the other workers' addresses, each with its partitions of the tables."""
    name = files.changelog_topic.get_topic_name()
    everyone = app.router.tables_metadata()
    held = {str(url).rstrip("/"): set(tps.get(name, ())) for url, tps in everyone.items()}
    return {url: those for url, those in held.items() if url not in {_own_url(), ""}}


async def _ask_part(
    url: str, path: str, query: Mapping[str, str], read: Callable[[bytes], _Answer]
) -> _Answer:
    """Return a worker's part of a list.

    Raises:
        ValueError, PeerError, aiohttp.ClientError, OSError: there is no valid answer.
    """
    status, body = await _ask(url, path, query)
    if status != HTTPStatus.OK:
        message = f"{status} {body[:200].decode('utf-8', 'replace')}"
        raise ValueError(message)
    return read(body)


async def _ask(url: str, path: str, query: Mapping[str, str]) -> tuple[int, bytes]:
    """Return status and body of the answer of the worker at *url*, after its proof is checked."""
    key = peer_key(app.settings)
    target = URL(url).with_path(path).with_query(dict(query) | {LOCAL: "1"})
    if key is None and not is_loopback(target.host or ""):
        message = f"without {label_of('web_token')} only loopback addresses are asked"
        raise PeerError(message)
    question = SignedRequest(
        method="GET",
        path=target.raw_path_qs,
        peer=url,
        at=int(time.time()),
        nonce=secrets.token_hex(16),
    )
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    headers = {"Authorization": question.credentials(key)} if key else {}
    async with app.http_client.get(
        target, headers=headers, timeout=timeout, allow_redirects=False
    ) as answer:
        body = await _limited(answer)
        proof = answer.headers.get(ANSWER_HEADER, "")
    if key is not None:
        expected = question.proof(key, status=answer.status, body=body)
        if not hmac.compare_digest(expected, proof.encode("ascii", "replace").decode()):
            reason = body[:200].decode("utf-8", "replace")
            message = f"it does not prove that it is of the group: {answer.status} {reason}"
            raise PeerError(message)
    return answer.status, body


async def _limited(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_chunked(64 * KIB):
        body += chunk
        if len(body) > ANSWER_BYTES:
            message = f"an answer of more than {ANSWER_BYTES} bytes"
            raise ValueError(message)
    return bytes(body)


def _said(error: BaseException) -> str:
    return printable(f"{type(error).__name__} {error}"[:500])
