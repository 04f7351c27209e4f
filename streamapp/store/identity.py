"""A data folder's random identity, which stays with it when it is moved.

Another disk may be mounted at a path, or a backup restored. So ``.folder.json`` has an identity,
and the random id of the worker's last start, which distinguishes an old copy of the folder from
the folder itself. `docs/state.md` is normative.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets

from typing import TYPE_CHECKING, Final

import msgspec

from streamapp.errors import StoreError
from streamapp.protocol.messages import FolderId
from streamapp.store import dirfd


if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

IDENTITY: Final = ".folder.json"
FORMAT: Final = 1
_BYTES: Final = 16
_MAX_FILE_BYTES: Final = 4096


class FolderFile(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``.folder.json``; *start_id* is empty before the first start of a worker."""

    format: int = FORMAT
    folder: FolderId
    start_id: FolderId = ""


_FOLDER: Final = msgspec.json.Decoder(FolderFile)


def new_id() -> str:
    """Return a random identity: 32 hexadecimal digits."""
    return secrets.token_hex(_BYTES)


def read(fd: int) -> FolderFile | None:
    """Return the content of ``.folder.json`` in *fd*; None if it is missing or damaged.

    Raises:
        OSError: it could not be read.
    """
    try:
        raw = dirfd.read_file(IDENTITY, at=fd, limit=_MAX_FILE_BYTES)
    except OSError as error:
        if not dirfd.is_rot(error):
            raise
        raw = b""
    if raw is None:
        return None
    try:
        found = _FOLDER.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        logger.error("%s has rotted, the folder gets a new identity: %s", IDENTITY, error)  # noqa: TRY400
        return None
    return found if found.folder else None


def write(fd: int, file: FolderFile) -> None:
    """Write *file* durably into the data folder *fd*.

    If that fails (a full volume), the folder is used all the same. At the next start it gets
    another identity, and its blocks are acknowledged again.
    """
    try:
        dirfd.write_durably(IDENTITY, msgspec.json.format(msgspec.json.encode(file)), at=fd)
        os.fsync(fd)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(f"{IDENTITY}.part", dir_fd=fd)
        logger.warning("%s cannot be written: %s", IDENTITY, error.strerror or error)


def check_place(path: Path, fd: int) -> None:
    """Check that *path* leads to the data folder that is open as *fd*.

    Raises:
        StoreError: the folder was moved, replaced or unmounted.
    """
    todo = "put it back, or restart the worker to use what is there now"
    try:
        there, here = path.stat(), os.fstat(fd)
    except OSError as error:
        message = f"the data folder {path} is gone ({error.strerror or error}): {todo}"
        raise StoreError(message) from error
    if not os.path.samestat(there, here):
        message = f"the data folder {path} was replaced by another one: {todo}"
        raise StoreError(message)
