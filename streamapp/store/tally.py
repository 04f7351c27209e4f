"""Counts the blocks in a data folder, and their bytes."""

from __future__ import annotations

import threading

from typing import TYPE_CHECKING

from streamapp.protocol import fileplan
from streamapp.store import metadata


if TYPE_CHECKING:
    from collections.abc import Iterable

    from streamapp.store.metadata import FileManifest


class Tally:
    """The number of blocks and of their bytes. Any thread may change it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = self._bytes = 0

    @property
    def counts(self) -> tuple[int, int]:
        """The number of blocks, and their bytes."""
        with self._lock:
            return self._blocks, self._bytes

    def add(self, size: int) -> None:
        """Add a block of *size* bytes."""
        with self._lock:
            self._blocks += 1
            self._bytes += size

    def remove(self, size: int) -> None:
        """Remove a block of *size* bytes."""
        with self._lock:
            self._blocks = max(0, self._blocks - 1)
            self._bytes = max(0, self._bytes - size)

    def add_folder(self, file: FileManifest, names: Iterable[str]) -> None:
        """Add the blocks of *file* in a folder with files of these *names*."""
        found = set(names)
        plan = fileplan.FilePlan(file_size=file.size, block_size=file.block_size)
        for name in found:
            match = metadata.BIN.fullmatch(name)
            number = int(match[1]) if match else file.blocks
            if number < file.blocks and metadata.metadata_name(number, file.blocks) in found:
                self.add(plan.span(number)[1])
