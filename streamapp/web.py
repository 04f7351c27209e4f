"""Who may ask the web views: this machine, or whoever has the token.

Loopback is the default and needs no token; any other address needs one (`settings`). A page
from elsewhere must not reach a loopback view through the user's browser: the ``Host`` that
is asked for must be one of ours (DNS rebinding), and nothing here changes anything.
"""

from __future__ import annotations

import hmac
import logging
import re

from typing import TYPE_CHECKING, Final

from aiohttp import web

from streamapp.settings import is_loopback
from streamapp.web_client import token_headers


if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.typedefs import Middleware

    from streamapp.settings import Settings

logger = logging.getLogger(__name__)

_PORT: Final = re.compile(r":[0-9]*\Z")
READING: Final = frozenset({"GET", "HEAD"})
SECURITY_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self'; object-src 'none'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def guard(settings: Settings) -> Middleware:
    """Return the middleware that every request passes."""
    own = filter(None, (settings.web_host, settings.web_advertise))
    hosts = {"localhost", "127.0.0.1", "::1", *(host.lower() for host in own)}

    @web.middleware
    async def check(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        response: web.StreamResponse | None = _refusal(request, settings, hosts)
        try:
            if response is None:
                response = await handler(request)
        except web.HTTPException as error:  # a page that is not there, for example
            _secure(error)
            raise
        except Exception:
            logger.exception("unforeseen error while answering %s", request.path)
            response = web.json_response({"error": "unforeseen; the log says more"}, status=500)
        _secure(response)
        return response

    return check


def _secure(response: web.StreamResponse) -> None:
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)


def _refusal(request: web.Request, settings: Settings, hosts: set[str]) -> web.Response | None:
    if request.method not in READING:
        return web.json_response({"error": f"{request.method} is not allowed"}, status=405)
    if settings.web_token is not None:
        wanted = token_headers(settings)["Authorization"]
        given = request.headers.get("Authorization", "")
        # What is no UTF-8 in a header comes as lone surrogates.
        if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), wanted.encode()):
            return web.json_response({"error": "a token is needed"}, status=401)
    elif is_loopback(settings.web_host):
        host = _PORT.sub("", request.host.lower()).strip("[]")
        if host not in hosts:
            return web.json_response({"error": f"no such host: {host[:100]!a}"}, status=421)
    return None
