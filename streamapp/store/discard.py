"""Deletes a good block. A crash at any point leaves nothing that looks like a lost block.

Metadata without bytes, or bytes without metadata, would be reported as lost. So the bytes are
first renamed to a ``.part`` file: then the block no longer exists, and the next start of a worker
removes the rest.
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
