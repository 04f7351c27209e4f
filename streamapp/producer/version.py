"""One version of a file, with the blocks that the group has acknowledged.

Pure code. The first version has the file id of its name, size and times. Another content with the
same name, size and times (a restored backup, a machine with the same id) is another version, with
an id of its own.
"""

from __future__ import annotations

from typing import Final

from streamapp.protocol import fileplan


DIGEST_BYTES: Final = 32
NO_DIGEST: Final = bytes(DIGEST_BYTES)


class Version:
    """The acknowledged blocks of one file id: 32 bytes for each block after the first one.

    *unchecked* are acknowledged blocks whose content is not compared with the source yet.
    """

    __slots__ = (
        "_digests", "acknowledged", "blocks", "file_id", "is_recorded", "mark", "recorded",
        "state", "unchecked",
    )  # fmt: skip

    def __init__(self, file_id: str, blocks: int, mark: str = "") -> None:
        self.file_id = file_id
        self.blocks = blocks
        self.mark = mark  # part of the file id; empty for the first version
        self.acknowledged = 0  # number of blocks
        self.unchecked: set[int] | None = None
        self.is_recorded = False  # the newest status record of this producer says complete
        self.state = ""  # of the newest status record; empty if there is none
        self.recorded = ""  # the file digest of a proven status record
        self._digests: bytearray | None = None

    @property
    def persisted(self) -> int:
        """How many blocks the group has with the content of the source."""
        return self.acknowledged - len(self.unchecked or ())

    @property
    def is_all_acknowledged(self) -> bool:
        """Return whether all blocks are acknowledged, with any content."""
        return self.acknowledged == self.blocks

    def is_persisted(self, block: int) -> bool:
        """Return whether the group has *block* with the content of the source."""
        return self.digest(block) != NO_DIGEST and not self.is_unchecked(block)

    def is_unchecked(self, block: int) -> bool:
        """Return whether *block* is acknowledged, and must be compared with the source."""
        return self.unchecked is not None and block in self.unchecked

    def digest(self, block: int) -> bytes:
        """Return the acknowledged SHA-256 of *block*, or `NO_DIGEST`."""
        if self._digests is None:
            return NO_DIGEST
        return bytes(self._digests[block * DIGEST_BYTES : (block + 1) * DIGEST_BYTES])

    def file_digest(self) -> str:
        """Return the file digest; all blocks must be acknowledged."""
        return fileplan.file_digest(self.digest(block) for block in range(self.blocks))

    def acknowledge(self, block: int, digest: bytes, *, is_checked: bool) -> None:
        """Note that *block* is stored with *digest*; a persisted block does not change."""
        if self.is_persisted(block) or digest == NO_DIGEST:
            return
        if self.digest(block) == NO_DIGEST:
            self.acknowledged += 1
        elif not is_checked:
            return  # the first of two acknowledgements is compared
        self._set(block, digest)
        if is_checked:
            self.confirm(block)
        else:
            self.unchecked = self.unchecked or set()
            self.unchecked.add(block)

    def confirm(self, block: int) -> None:
        """Note that *block* is equal to the source."""
        if self.unchecked is not None:
            self.unchecked.discard(block)

    def confirm_all(self) -> None:
        """Note that every acknowledged block is equal to the source."""
        self.unchecked = None

    def lose(self, block: int) -> None:
        """Note that a worker lost *block*."""
        if self.digest(block) != NO_DIGEST:
            self.acknowledged -= 1
            self._set(block, NO_DIGEST)
            self.confirm(block)

    def _set(self, block: int, digest: bytes) -> None:
        if self._digests is None:
            self._digests = bytearray(self.blocks * DIGEST_BYTES)
        self._digests[block * DIGEST_BYTES : (block + 1) * DIGEST_BYTES] = digest
