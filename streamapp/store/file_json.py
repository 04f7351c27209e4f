"""Finds out what a folder's blocks are of when ``file.json`` itself has rotted.

Every block's metadata say it too, so one flipped bit there need not cost a whole file. The id
is a digest of what identifies the file, so most lies show by themselves; where that cannot
tell (a name that was no Unicode), most votes count.
"""

from __future__ import annotations

import collections
import os

from typing import Final

from streamapp.errors import VerificationError
from streamapp.store import dirfd, metadata


MAX_VOTERS: Final = 100
"""Blocks of a folder that are asked: enough to outvote any rot, cheap in a folder of millions."""


def said(folder: int) -> metadata.FileManifest | None:
    """Return what ``file.json`` in the folder *folder* says; None when it is missing or rotten.

    Raises:
        OSError: it could not be looked at.
    """
    limit = metadata.MAX_METADATA_BYTES
    try:
        file = metadata.decode_file(
            dirfd.read_file(metadata.FILE_JSON, at=folder, limit=limit) or b""
        )
    except VerificationError:
        return None
    except OSError as error:
        if dirfd.is_rot(error):
            return None
        raise
    return file if file.is_possible else None


def believed(folder: int) -> metadata.FileManifest | None:
    """Return what the blocks in the folder *folder* are of; None when nothing there tells.

    Raises:
        OSError: the folder cannot be read.
    """
    file = said(folder)
    if file is not None and file.identifies_itself:
        return file
    votes = collections.Counter([file] if file else [])
    votes.update(_votes(folder))
    return max(votes, key=lambda f: (f.identifies_itself, votes[f]), default=None)


def mend(folder: int) -> metadata.FileManifest | None:
    """Write what is `believed` over ``file.json``, durably; return it.

    Raises:
        OSError: it cannot be written.
    """
    file = believed(folder)
    if file is not None:
        dirfd.write_durably(metadata.FILE_JSON, file.encode(), at=folder)
        os.fsync(folder)
    return file


def _votes(folder: int) -> list[metadata.FileManifest]:
    found = []
    names = [name for name in dirfd.names_in(folder) if name.endswith("_metadata.json")]
    for name in names[:MAX_VOTERS]:
        try:
            raw = dirfd.read_file(name, at=folder, limit=metadata.MAX_METADATA_BYTES)
            file = metadata.file_of_block(metadata.decode_block(raw or b""))
        except (VerificationError, OSError):
            continue  # its own verdict says so
        if file.is_possible:
            found.append(file)
    return found
