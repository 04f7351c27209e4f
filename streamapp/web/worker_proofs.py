"""Authenticates workers of the group to each other without sending the web token.

Pure: the clock is given. Workers find each other by the URLs in the metadata of the consumer
group, and any member of the group can add a URL of its own. So the token is never sent to such a
URL. A request has an HMAC over the request, the URL, the time and a nonce; a response has an HMAC
over the same and its content. A server without the token learns nothing that it could use, and
its response is rejected. `docs/protocol.md` is normative.
"""

from __future__ import annotations

import hashlib
import hmac
import re

from typing import TYPE_CHECKING, Final

import msgspec

from streamapp.errors import PeerError


if TYPE_CHECKING:
    from collections.abc import Callable

SCHEME: Final = "Streamapp-Peer"
"""Scheme of the header ``Authorization`` of a request."""

ANSWER_HEADER: Final = "Streamapp-Proof"
"""Header with the HMAC of a response."""

WINDOW_SECONDS: Final = 300
"""Maximum seconds between two workers' clocks; a request is valid for as long."""

MAX_NONCES: Final = 65_536
"""Requests that are remembered; more than that in ten minutes are refused."""

_CREDENTIALS: Final = re.compile(rf"{SCHEME} ([0-9]{{1,12}}) ([0-9a-f]{{32}}) ([0-9a-f]{{64}})")


class SignedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request: what it asks, which worker, and when."""

    method: str
    path: str
    """Path and query, as sent."""
    peer: str
    """The URL of the worker, as in the group's metadata."""
    at: int  # seconds since 1970
    nonce: str

    def credentials(self, key: bytes) -> str:
        """Return the value of the header ``Authorization``."""
        return f"{SCHEME} {self.at} {self.nonce} {self._mac(key, 'question')}"

    def proof(self, key: bytes, *, status: int, body: bytes) -> str:
        """Return the HMAC of the response to this request, in hex."""
        return self._mac(key, "answer", str(status), hashlib.sha256(body).hexdigest())

    def _mac(self, key: bytes, *more: str) -> str:
        fields = (*more, self.method, self.path, self.peer, str(self.at), self.nonce)
        lines = "".join(f"{len(field)}:{field}\n" for field in fields)
        return hmac.new(key, lines.encode("utf-8", "surrogateescape"), "sha256").hexdigest()


class RequestVerifier:
    """Accepts each request of the group's workers once, and no other request."""

    def __init__(self, key: bytes, peer: str, clock: Callable[[], float]) -> None:
        """*peer*: this worker's own URL; *clock* returns seconds since 1970."""
        self._key = key
        self._peer = peer
        self._clock = clock
        self._seen: dict[str, int] = {}
        self._forget_at = 0.0

    def read(self, credentials: str, *, method: str, path: str) -> SignedRequest:
        """Return the request that *credentials* authenticate.

        Raises:
            PeerError: they authenticate none, or it was received before.
        """
        found = _CREDENTIALS.fullmatch(credentials)
        if found is None:
            message = "no proof of a worker of the group"
            raise PeerError(message)
        signed = SignedRequest(
            method=method, path=path, peer=self._peer, at=int(found[1]), nonce=found[2]
        )
        if not hmac.compare_digest(signed.credentials(self._key), credentials):
            message = "no worker of the group with this token asked this of this address"
            raise PeerError(message)
        self._remember(signed)
        return signed

    def _remember(self, signed: SignedRequest) -> None:
        now = self._clock()
        if abs(now - signed.at) > WINDOW_SECONDS:
            message = (
                f"the clocks of the two workers are {abs(now - signed.at):.0f} s apart, "
                f"expected at most {WINDOW_SECONDS} s"
            )
            raise PeerError(message)
        if len(self._seen) >= MAX_NONCES or now > self._forget_at:
            self._forget_at = now + WINDOW_SECONDS
            self._seen = {n: at for n, at in self._seen.items() if at >= now - WINDOW_SECONDS}
        if signed.nonce in self._seen or len(self._seen) >= MAX_NONCES:
            message = "asked before, or too many questions at once"
            raise PeerError(message)
        self._seen[signed.nonce] = signed.at


def group_key(token: str, group: str) -> bytes:
    """Return the key that the workers of *group* derive from *token*."""
    return hmac.new(token.encode(), f"streamapp peers 1 {group}".encode(), "sha256").digest()
