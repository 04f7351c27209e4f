"""Checks the frames of one block: their order, their lengths, and the SHA-256 of all bytes.

Pure code: no disk, no clock. `Assembly` hashes the bytes; the caller writes them.
"""

from __future__ import annotations

import enum
import hashlib

from typing import TYPE_CHECKING

from streamapp.errors import BlockCorruptError


if TYPE_CHECKING:
    from streamapp.protocol.frames import BlockMeta, Frame


class Step(enum.Enum):
    """Whether a frame is the next one of its block."""

    NEXT = "next"
    REPEATED = "repeated"


class Assembly:
    """One attempt at one block, from its first frame on."""

    def __init__(self, first: Frame, meta: BlockMeta) -> None:
        self.file_id = first.file_id
        self.block = first.block
        self.attempt = first.attempt
        self.meta = meta
        self.received_bytes = 0
        self._next_frame = 0
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> bytes:
        """SHA-256 of the bytes that were added so far; 32 bytes."""
        return self._digest.digest()

    def place(self, frame: Frame) -> Step:
        """Return whether *frame* is the next one, or a repeated one.

        Raises:
            BlockCorruptError: a frame is missing before it, or it does not fit into the block.
        """
        if frame.frame < self._next_frame:
            return Step.REPEATED
        if frame.frame > self._next_frame:
            raise self._corrupt(f"frame {frame.frame} came, expected {self._next_frame}")
        if frame.offset != self.received_bytes:
            raise self._corrupt(
                f"frame {frame.frame} is for offset {frame.offset}, expected {self.received_bytes}"
            )
        if frame.offset + frame.length > self.meta.size:
            raise self._corrupt(
                f"frame {frame.frame} ends at {frame.offset + frame.length}, "
                f"the block has {self.meta.size} bytes"
            )
        return Step.NEXT

    def add(self, frame: Frame, data: bytes) -> None:
        """Add *data*, the decoded bytes of the next frame.

        Raises:
            BlockCorruptError: its length is not the one that the frame declares.
        """
        if len(data) != frame.length:
            raise self._corrupt(
                f"frame {frame.frame} has {len(data)} bytes, declared {frame.length}"
            )
        self._digest.update(data)
        self.received_bytes += len(data)
        self._next_frame += 1

    def check(self, frame: Frame) -> None:
        """Check the whole block against the seal of its last *frame*.

        Raises:
            BlockCorruptError: bytes are missing, or the SHA-256 differs.
        """
        if self.received_bytes != self.meta.size:
            raise self._corrupt(f"sealed after {self.received_bytes} of {self.meta.size} bytes")
        if frame.seal is None or self.sha256 != frame.seal.sha256:
            declared = frame.seal.sha256.hex() if frame.seal else "none"
            raise self._corrupt(f"SHA-256 {self.sha256.hex()}, declared {declared}")

    def _corrupt(self, reason: str) -> BlockCorruptError:
        return BlockCorruptError(f"file {self.file_id}, block {self.block}: {reason}")
