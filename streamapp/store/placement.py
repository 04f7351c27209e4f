"""Decides which folder a file's blocks get, so that no two files ever share one.

Names come from elsewhere and may be alike, may be taken by a link that someone planted, or be
one of ours. A folder is a file's own when its ``file.json`` says so, and by nothing else.
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
"""Folders at the top that hold no files of users; a file of that name gets ``~<id>``."""

_MADE_UP: Final = 3
_MADE_UP_BYTES: Final = 8
_RESERVED: Final = PRIVATE | {LOCK, PROBE, f"{PROBE}.part", IDENTITY, f"{IDENTITY}.part"}
_BLOCKED: Final = frozenset({errno.ENOTDIR, errno.ELOOP})


def new_folder(root: int, file: FileManifest) -> tuple[tuple[str, ...], int]:
    """Return where below the folder *root* the blocks of *file* go, and a descriptor of it.

    Raises:
        OSError: a folder cannot be made.
        BlockMalformedError: the file's name can be no name here.
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
    """Remove the folder *parts* of a file if no block is in it, and what is empty above it.

    Returns whether it is gone. The caller sees to it that nobody begins a block meanwhile.

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
    """Make sure that ``file.json`` in *folder* is there, and speaks of *file*.

    Raises:
        OSError: it cannot be written.
        BlockConflictError: it speaks of a file that is cut otherwise: an id is a file's own.
    """
    found = file_json.said(folder)
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
    """Return *part*, or one with a suffix where another file, a link or ours has the name."""
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
    # Other files are called so, which is no accident. Nobody can be called what nobody knows.
    yield from (_made_up(part) for _ in range(_MADE_UP))


def _made_up(part: str) -> str:
    return filenames.cut(part, f"~{secrets.token_hex(_MADE_UP_BYTES)}")


def is_free_for(file: FileManifest, folder: int) -> bool:
    """Return whether blocks of *file* may be kept in *folder*: it is no other file's.

    Raises:
        OSError: it cannot be looked at.
    """
    found = file_json.said(folder)
    if found is not None:
        return found.file_id == file.file_id
    with contextlib.suppress(FileNotFoundError):
        os.stat(metadata.FILE_JSON, dir_fd=folder, follow_symlinks=False)
        believed = file_json.believed(folder)  # damaged: the blocks beside it may tell
        return believed is None or believed.file_id == file.file_id
    return True
