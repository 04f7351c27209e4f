"""The blocks of a delivery that are in flight, and the window that bounds them. Pure code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamapp.producer.model import Block, File

MAX_UNACKNOWLEDGED: Final = 100_000
"""Blocks that may wait for an acknowledgement: each costs about half a KiB of memory."""


class BlocksInFlight:
    """Blocks that were taken and are not over, by file id and number."""

    def __init__(
        self, *, block_size: int, window: int | None, size_of: Callable[[File, int], int]
    ) -> None:
        """*window* bounds the bytes in flight; None: `MAX_UNACKNOWLEDGED` alone is the bound.

        *size_of* returns the bytes of a file's block.
        """
        self._block_size = block_size
        self._size_of = size_of
        self._window = window
        self._blocks: dict[tuple[str, int], Block] = {}
        self.bytes = 0  # of the blocks in flight

    def __len__(self) -> int:
        """Return the number of blocks in flight."""
        return len(self._blocks)

    def __iter__(self) -> Iterator[Block]:
        """Yield the blocks as they are now; they may be removed meanwhile."""
        return iter(list(self._blocks.values()))

    @property
    def has_room(self) -> bool:
        """Whether one more block fits into the window; a single block always does."""
        fits = self._window is None or self.bytes + self._block_size <= self._window
        return len(self._blocks) < MAX_UNACKNOWLEDGED and (fits or not self._blocks)

    def find(self, file_id: str, number: int) -> Block | None:
        """Return the block in flight with this file id and number, if there is one."""
        return self._blocks.get((file_id, number))

    def add(self, block: Block) -> bool:
        """Add *block*; return False if another object for the same block is in flight."""
        if block.key not in self._blocks:
            self._blocks[block.key] = block
            self.bytes += self._size_of(block.file, block.number)
        return self._blocks[block.key] is block

    def remove(self, file_id: str, number: int) -> Block | None:
        """Remove a block; return it if it was in flight."""
        block = self._blocks.pop((file_id, number), None)
        if block is not None:
            self.bytes -= self._size_of(block.file, block.number)
        return block
