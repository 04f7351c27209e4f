"""Deletes a good block, so that a process that dies at any point leaves nothing that looks lost.

Metadata without bytes, or bytes without metadata, would be reported as a block that was lost. So
the bytes get the name of a block that is being written first: from then on the block is not
there, and the next start of a worker removes what is left of it.
"""

from __future__ import annotations

import os

from typing import Final


_SUFFIX: Final = ".discarded.part"


def discard(folder: int, stem: str) -> None:
    """Delete the block *stem* in the folder *folder*.

    Raises:
        OSError: it cannot be deleted.
    """
    part = f"{stem}.bin{_SUFFIX}"
    os.rename(f"{stem}.bin", part, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)
    os.unlink(f"{stem}_metadata.json", dir_fd=folder)
    os.fsync(folder)
    os.unlink(part, dir_fd=folder)
    os.fsync(folder)
