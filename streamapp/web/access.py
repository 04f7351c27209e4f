"""Decides who may request the web views: this machine, a token holder, or a worker of the group.

Loopback is the default and needs no token; any other address needs one (`settings`). A page of
another site must not reach a view on loopback through the user's browser: the ``Host`` of a
request must be one of this worker's names (DNS rebinding), and no view changes anything.
"""

from __future__ import annotations

import hmac
import logging
import re
import time

from typing import TYPE_CHECKING, Final

from aiohttp import web
from yarl import URL

from streamapp.errors import PeerError, RequestRefusedError
from streamapp.protocol.filenames import printable
from streamapp.settings import is_loopback
from streamapp.web.client import LOCAL, base_url, peer_key, token_headers
from streamapp.web.worker_proofs import ANSWER_HEADER, SCHEME, RequestVerifier


if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.typedefs import Middleware

    from streamapp.settings import Settings
    from streamapp.web.worker_proofs import SignedRequest

logger = logging.getLogger(__name__)

_PORT: Final = re.compile(r":[0-9]*\Z")
NO_VIEW: Final = "no such view; there are /progress/, /machines/, /health/ and /metrics"
READING: Final = frozenset({"GET", "HEAD"})
SECURITY_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self'; object-src 'none'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def guard(settings: Settings, *, clock: Callable[[], float] = time.time) -> Middleware:
    """Return the middleware for all requests; *clock* returns seconds since 1970."""
    own = filter(None, (settings.web_host, settings.web_advertise))
    hosts = {"localhost", "127.0.0.1", "::1", *(host.lower() for host in own)}
    key = peer_key(settings)
    address = str(URL(base_url(settings))).rstrip("/")  # as Faust writes it in the metadata
    verifier = RequestVerifier(key, address, clock) if key else None

    @web.middleware
    async def check(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        signed = None
        try:
            _refuse_what_changes(request)
            _refuse_other_pages(request)
            if verifier is not None:
                signed = _require_token(request, settings, verifier)
            elif is_loopback(settings.web_host):
                _refuse_other_names(request, hosts)
            response = await handler(request)
        except RequestRefusedError as error:
            response = _refusal(error)
        except web.HTTPNotFound:
            response = _refusal(RequestRefusedError(NO_VIEW, status=404))
        except web.HTTPException as error:
            _secure(error)
            raise
        except Exception:
            logger.exception("unforeseen error while answering %s", printable(request.path))
            response = web.json_response({"error": "unforeseen; the log says more"}, status=500)
        _secure(response)
        if signed is not None and key is not None and isinstance(response, web.Response):
            body = response.body if isinstance(response.body, bytes) else b""
            proof = signed.proof(key, status=response.status, body=body)
            response.headers[ANSWER_HEADER] = proof
        return response

    return check


def _refusal(error: RequestRefusedError) -> web.Response:
    again = {} if error.retry_seconds is None else {"Retry-After": str(error.retry_seconds)}
    return web.json_response({"error": str(error)}, status=error.status, headers=again)


def _secure(response: web.StreamResponse) -> None:
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)


def _refuse_what_changes(request: web.Request) -> None:
    if request.method not in READING:
        raise RequestRefusedError(f"{request.method} is not allowed", status=405)
    if request.can_read_body:
        raise RequestRefusedError("a request with a body; expected none", status=400)


def _refuse_other_pages(request: web.Request) -> None:
    """Refuse requests of pages of other sites; only browsers send these headers."""
    site = request.headers.get("Sec-Fetch-Site", "none")
    origin = request.headers.get("Origin")
    own = f"://{request.host}".lower()
    if site not in {"none", "same-origin"} or (origin and not origin.lower().endswith(own)):
        raise RequestRefusedError("asked by a page from elsewhere", status=403)


def _require_token(
    request: web.Request, settings: Settings, verifier: RequestVerifier
) -> SignedRequest | None:
    """Refuse requests without the token; return the request of a worker of the group."""
    given = request.headers.get("Authorization", "")
    if given.startswith(f"{SCHEME} "):
        try:
            return verifier.read(given, method=request.method, path=request.raw_path)
        except PeerError as error:
            raise RequestRefusedError(str(error), status=401) from error
    wanted = token_headers(settings)["Authorization"]
    # Bytes that are not UTF-8 arrive as lone surrogates.
    if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), wanted.encode()):
        raise RequestRefusedError("a token is needed", status=401)
    if LOCAL in request.query:
        raise RequestRefusedError(f"{LOCAL} is for the workers of the group", status=403)
    return None


def _refuse_other_names(request: web.Request, hosts: set[str]) -> None:
    host = _PORT.sub("", request.host.lower()).strip("[]")
    if host not in hosts:
        raise RequestRefusedError(f"no such host: {host[:100]!a}", status=421)
