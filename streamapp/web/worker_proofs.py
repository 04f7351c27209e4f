"""Proves that a worker of the group asks, and that one answers, without sending the web token.

Pure code: the clock is given. Workers know each other by the addresses in the metadata of
the consumer group, and whoever joins the group can put an address of its own there. So the
token is never sent to such an address. Who asks sends an HMAC over the question, the address
that is asked, the time and a nonce; who answers sends one over the same and its answer. An
address that has no token learns nothing that it could use elsewhere, and is not believed.
`docs/protocol.md` is normative.
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
"""Of the header ``Authorization`` of a question."""

ANSWER_HEADER: Final = "Streamapp-Proof"
"""The header of an answer that proves it."""

WINDOW_SECONDS: Final = 300
"""How far apart two workers' clocks may be, and how long a question can be repeated at all."""

MAX_NONCES: Final = 65_536
"""Questions that are remembered: more than that in ten minutes are refused."""

_CREDENTIALS: Final = re.compile(rf"{SCHEME} ([0-9]{{1,12}}) ([0-9a-f]{{32}}) ([0-9a-f]{{64}})")


class SignedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked, of whom, and when."""

    method: str
    path: str
    """Path and query, as they travel."""
    peer: str
    """The address that is asked, as the group's metadata has it."""
    at: int
    nonce: str

    def credentials(self, key: bytes) -> str:
        """Return what the header ``Authorization`` has."""
        return f"{SCHEME} {self.at} {self.nonce} {self._mac(key, 'question')}"

    def proof(self, key: bytes, *, status: int, body: bytes) -> str:
        """Return what proves the answer to this question."""
        return self._mac(key, "answer", str(status), hashlib.sha256(body).hexdigest())

    def _mac(self, key: bytes, *more: str) -> str:
        fields = (*more, self.method, self.path, self.peer, str(self.at), self.nonce)
        lines = "".join(f"{len(field)}:{field}\n" for field in fields)
        return hmac.new(key, lines.encode("utf-8", "surrogateescape"), "sha256").hexdigest()


class RequestVerifier:
    """Takes each question of the group's workers once, and no other."""

    def __init__(self, key: bytes, peer: str, clock: Callable[[], float]) -> None:
        """*peer*: this worker's own address; *clock*: seconds since 1970."""
        self._key = key
        self._peer = peer
        self._clock = clock
        self._seen: dict[str, int] = {}
        self._forget_at = 0.0

    def read(self, credentials: str, *, method: str, path: str) -> SignedRequest:
        """Return the question that *credentials* prove.

        Raises:
            PeerError: they prove none, or it was asked before.
        """
        found = _CREDENTIALS.fullmatch(credentials)
        if found is None:
            message = "no proof of a worker of the group"
            raise PeerError(message)
        question = SignedRequest(
            method=method, path=path, peer=self._peer, at=int(found[1]), nonce=found[2]
        )
        if not hmac.compare_digest(question.credentials(self._key), credentials):
            message = "no worker of the group with this token asked this of this address"
            raise PeerError(message)
        self._remember(question)
        return question

    def _remember(self, question: SignedRequest) -> None:
        now = self._clock()
        if abs(now - question.at) > WINDOW_SECONDS:
            message = (
                f"the clocks of the two workers are {abs(now - question.at):.0f} s apart, "
                f"expected at most {WINDOW_SECONDS} s"
            )
            raise PeerError(message)
        if len(self._seen) >= MAX_NONCES or now > self._forget_at:
            self._forget_at = now + WINDOW_SECONDS
            self._seen = {n: at for n, at in self._seen.items() if at >= now - WINDOW_SECONDS}
        if question.nonce in self._seen or len(self._seen) >= MAX_NONCES:
            message = "asked before, or too many questions at once"
            raise PeerError(message)
        self._seen[question.nonce] = question.at


def group_key(token: str, group: str) -> bytes:
    """Return the key that the workers of *group* share, because all of them have *token*."""
    return hmac.new(token.encode(), f"streamapp peers 1 {group}".encode(), "sha256").digest()
