"""Checks the machines' disks against the source and the acknowledgements."""

from __future__ import annotations

import hashlib

from typing import TYPE_CHECKING

from streamapp.errors import VerificationError
from streamapp.restore import assemble
from streamapp.trials import comparison
from streamapp.trials.selftest import results


if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from streamapp.protocol.messages import BlockAck
    from streamapp.trials.selftest.results import Place

Mark = tuple[int, int, int]
"""A file's inode, size and time: writing the file again changes one of them."""


def problems(source: Path, roots: Mapping[str, Path], acks: Iterable[BlockAck]) -> list[str]:
    """Return how the machines' folders *roots* differ from *source* and *acks*."""
    try:
        compared = comparison.compare(source, list(roots.values()))
        found = results.untrue(acks, stored(roots))
    except VerificationError as error:
        return [str(error)]
    differing = [f"{file.name}: {file.verdict}" for file in compared.files if not file.agrees]
    return [
        *differing,
        *(f"{name} is stored, and was never sent" for name in compared.surplus),
        *found,
    ]


def stored(roots: Mapping[str, Path]) -> dict[Place, str]:
    """Return the SHA-256 of every block, computed from the bytes on disk.

    Raises:
        VerificationError: a folder's ``file.json`` cannot be read.
    """
    found = {}
    for machine, root in roots.items():
        for file_id, joined in assemble.collect([root]).items():
            for block, paths in joined.blocks.items():
                with paths[0].open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                found[machine, file_id, block] = digest
    return found


def blocks(roots: Iterable[Path]) -> dict[Path, Mark]:
    """Return the files of all blocks, each with its mark."""
    found = {}
    for root in roots:
        for path in root.rglob("block_*.bin"):
            state = path.stat()
            found[path] = (state.st_ino, state.st_size, state.st_mtime_ns)
    return found
