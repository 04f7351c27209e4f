"""Chooses the folder for a file's blocks, so that no two files share one.

Names of files may be equal, may be taken by a planted link, or be reserved. Only its
``file.json`` decides to which file a folder belongs.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets

from typing import TYPE_CHECKING, Final

from streamapp.errors import BlockConflictError, BlockMalformedError
from streamapp.protocol import filenames
from streamapp.store import dirfd, file_json, metadata
from streamapp.store.identity import IDENTITY
from streamapp.store.lock import LOCK
from streamapp.store.quarantine import QUARANTINE
from streamapp.units import counted


if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamapp.store.metadata import FileManifest

PROBE: Final = ".probe"
PRIVATE: Final = frozenset({QUARANTINE, ".streamapp"})
"""Top-level folders of the store itself; a file of that name gets ``~<id>`` appended."""

_MADE_UP: Final = 3
_MADE_UP_BYTES: Final = 8
_RESERVED: Final = PRIVATE | {LOCK, PROBE, f"{PROBE}.part", IDENTITY, f"{IDENTITY}.part"}
_BLOCKED: Final = frozenset({errno.ENOTDIR, errno.ELOOP})


def new_folder(root: int, file: FileManifest) -> tuple[tuple[str, ...], int]:
    """Create the folder for *file* below *root*; return its parts and a descriptor.

    Raises:
        OSError: a folder cannot be created.
        BlockMalformedError: the file's name cannot be used.
    """
    wanted = filenames.folder_parts(file.name)
    parts: tuple[str, ...] = ()
    fd = os.dup(root)
    try:
        for depth, part in enumerate(wanted, start=1):
            with dirfd.closing(fd) as parent:
                chosen = _free_name(part, file, parent, first=depth == 1, last=depth == len(wanted))
                fd = dirfd.open_folder(chosen, at=parent, create=True)
                parts += (chosen,)
    except (OSError, BlockMalformedError):
        with contextlib.suppress(OSError):
            dirfd.remove_empty(parts, at=root)
        raise
    return parts, fd


def remove_unused(root: int, parts: tuple[str, ...]) -> bool:
    """Remove the folder *parts* of a file if it has no block, and empty parents.

    Returns whether it was removed. The caller ensures that no block begins meanwhile.

    Raises:
        OSError: it cannot be removed.
    """
    with dirfd.closing(dirfd.open_path(parts, at=root)) as fd:
        found = dirfd.names_in(fd)
        if set(found) - {metadata.FILE_JSON, f"{metadata.FILE_JSON}.part"}:
            return False
        for name in found:
            os.unlink(name, dir_fd=fd)
    dirfd.remove_empty(parts, at=root)
    return True


def identify(folder: int, file: FileManifest) -> None:
    """Write ``file.json`` to *folder* if it is missing; check that it is about *file*.

    Raises:
        OSError: it cannot be written.
        BlockConflictError: it is about a file of another size or block size.
    """
    found = file_json.read(folder)
    if found is None:
        dirfd.write_durably(metadata.FILE_JSON, file.encode(), at=folder)
        dirfd.sync_or_undo(folder, lambda: os.unlink(metadata.FILE_JSON, dir_fd=folder))
    elif _cut(found) != _cut(file):
        message = (
            f"file {file.file_id}: {file.size} bytes in "
            f"{counted(file.blocks, 'block')}, but another file "
            f"is kept under that id: {found.size} bytes in {counted(found.blocks, 'block')}"
        )
        raise BlockConflictError(message)


def _cut(file: FileManifest) -> tuple[str, int, int, int]:
    return file.file_id, file.size, file.blocks, file.block_size


def _free_name(part: str, file: FileManifest, parent: int, *, first: bool, last: bool) -> str:
    """Return *part*, with a suffix if another file, a link or the store has that name."""
    for chosen in _candidates(part, file.file_id):
        if first and chosen.casefold() in _RESERVED:
            continue
        try:
            fd = dirfd.open_folder(chosen, at=parent)
        except FileNotFoundError:
            return chosen
        except OSError as error:
            if error.errno in _BLOCKED:
                continue
            raise
        with dirfd.closing(fd):
            if not last or is_free_for(file, fd):
                return chosen
    message = f"no folder is left for {file.name[:200]!r}: each that it may have is taken"
    raise BlockMalformedError(message)


def _candidates(part: str, file_id: str) -> Iterator[str]:
    yield part
    yield from filenames.with_suffixes(part, file_id)
    # Other files have these names on purpose. Random names cannot be anticipated.
    yield from (_made_up(part) for _ in range(_MADE_UP))


def _made_up(part: str) -> str:
    return filenames.cut(part, f"~{secrets.token_hex(_MADE_UP_BYTES)}")


def is_free_for(file: FileManifest, folder: int) -> bool:
    """Return whether *folder* belongs to *file* or to no file.

    Raises:
        OSError: it cannot be read.
    """
    found = file_json.read(folder)
    if found is not None:
        return found.file_id == file.file_id
    with contextlib.suppress(FileNotFoundError):
        os.stat(metadata.FILE_JSON, dir_fd=folder, follow_symlinks=False)
        believed = file_json.resolve(folder)  # damaged: use the blocks' metadata
        return believed is None or believed.file_id == file.file_id
    return True
