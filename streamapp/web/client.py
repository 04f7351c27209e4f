"""Addresses and credentials of the web views."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from streamapp.web import worker_proofs


if TYPE_CHECKING:
    from streamapp.settings import Settings


LOCAL: Final = "local"
"""Query parameter: answer from this worker's own partitions only. For workers of the group."""

_LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound here


def base_url(settings: Settings) -> str:
    """Return the URL of this worker for other workers, without a slash at its end."""
    return _url(settings.web_advertise or settings.web_host, settings.web_port)


def local_url(settings: Settings) -> str:
    """Return the URL of this machine's own worker, without a slash at its end.

    The advertised name is for other workers: a worker on loopback does not answer there.
    """
    return _url(_LOOPBACK.get(settings.web_host, settings.web_host), settings.web_port)


def in_url(host: str) -> str:
    """Return *host* as in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def _url(host: str, port: int) -> str:
    return f"http://{in_url(host)}:{port}"


def token_headers(settings: Settings) -> dict[str, str]:
    """Return the headers of a request to a worker; empty without a token."""
    if settings.web_token is None:
        return {}
    return {"Authorization": f"Bearer {settings.web_token.get_secret_value()}"}


def peer_key(settings: Settings) -> bytes | None:
    """Return the key that authenticates workers of the group; None without a token."""
    if settings.web_token is None:
        return None
    return worker_proofs.group_key(settings.web_token.get_secret_value(), settings.group_id)
