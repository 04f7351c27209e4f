"""Determines which file a folder belongs to, also when ``file.json`` is damaged.

Every block's metadata contain the same fields. The file id is a digest of them, which detects
most damage. Where it cannot (a name that was not Unicode), the majority of the blocks decides.
"""

from __future__ import annotations

import collections
import os

from typing import Final

from streamapp.errors import VerificationError
from streamapp.store import dirfd, metadata


MAX_VOTERS: Final = 100
"""Blocks whose metadata are read at most."""


def read(folder: int) -> metadata.FileManifest | None:
    """Return the content of ``file.json`` in *folder*; None if it is missing or damaged.

    Raises:
        OSError: it could not be read.
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


def resolve(folder: int) -> metadata.FileManifest | None:
    """Return the file to which *folder* belongs; None if nothing in it says so.

    Raises:
        OSError: the folder cannot be read.
    """
    file = read(folder)
    if file is not None and file.identifies_itself:
        return file
    votes = collections.Counter([file] if file else [])
    votes.update(_votes(folder))
    return max(votes, key=lambda f: (f.identifies_itself, votes[f]), default=None)


def mend(folder: int) -> metadata.FileManifest | None:
    """Rewrite ``file.json`` durably with the result of `resolve`; return it.

    Raises:
        OSError: it cannot be written.
    """
    file = resolve(folder)
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
            continue  # `verify` reports it
        if file.is_possible:
            found.append(file)
    return found
