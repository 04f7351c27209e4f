"""Accesses folders and files below a data folder by descriptors, never by a path.

Each component is opened with ``dir_fd`` and ``O_NOFOLLOW``, so that planted symlinks are refused.
What must survive a power cut is fsynced, including its folder: otherwise a renamed file was
missing on ext4 and xfs after a power cut.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys

from typing import TYPE_CHECKING, Final

from streamapp.errors import StoreError, StoreFullError


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_PERMISSIONS: Final = 0o777
_INHERITED: Final = _PERMISSIONS | stat.S_ISGID
_FILE_PERMISSIONS: Final = 0o666
_PARENT_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a planted pipe must not wait for a writer.
_READ_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_ROT: Final = frozenset(
    {errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.EILSEQ, errno.ENODATA, errno.ELOOP}
)
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
RESERVED_FILES: Final = 1024
"""Inodes that stay free, or a twentieth of a small volume, so that repairs are possible."""

NO_FOLDER: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""The name does not exist, or is not a folder."""

_NO_FILE: Final = frozenset({errno.ENOENT, errno.ELOOP, errno.ENXIO})


@contextlib.contextmanager
def as_store_errors(doing: str) -> Iterator[None]:
    """Translate an ``OSError``; *doing* begins the message.

    Raises:
        StoreFullError: the volume, a quota or a file size limit is full.
        StoreError: any other ``OSError``.
    """
    try:
        yield
    except OSError as error:
        message = f"{doing}: {error.strerror or error}"
        raise (StoreFullError if error.errno in _FULL else StoreError)(message) from error


def is_rot(error: OSError) -> bool:
    """Return whether *error* means bad bytes, and not only that they could not be read."""
    return error.errno in _ROT


@contextlib.contextmanager
def closing(fd: int) -> Iterator[int]:
    """Close *fd* on exit."""
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """Yield a descriptor of the folder *path*.

    Raises:
        StoreError: the folder cannot be opened, or the caller's block raised ``OSError``.
    """
    with as_store_errors(f"cannot read {path}"), closing(os.open(path, _PARENT_FLAGS)) as fd:
        yield fd


def make_path(path: Path, *, mode: int) -> None:
    """Create the folder *path* and its parents durably.

    Raises:
        OSError: it cannot be.
    """
    if not path.is_dir():
        make_path(path.parent, mode=mode)
        path.mkdir(mode, exist_ok=True)
    # Also if it exists: the process that created it may have died before the fsync.
    with contextlib.suppress(PermissionError), closing(os.open(path.parent, _PARENT_FLAGS)) as fd:
        os.fsync(fd)


def set_mode(fd: int, mode: int) -> None:
    """Set the permissions of *fd* to *mode*, where file system and owner allow it."""
    with contextlib.suppress(OSError):
        os.fchmod(fd, mode | stat.S_IMODE(os.fstat(fd).st_mode) & ~_PERMISSIONS)


def file_mode(folder: int) -> int:
    """Return the permissions of a new file in *folder*: the folder's, without execution."""
    return os.fstat(folder).st_mode & _FILE_PERMISSIONS


def sync_or_undo(fd: int, undo: Callable[[], None]) -> None:
    """Fsync the folder *fd*; if that fails, call *undo* to remove the new name.

    After a failed fsync the kernel may lose the name and still report success the next time. So
    the name is removed, and the retry creates it again.

    Raises:
        OSError: the names are not durable.
    """
    try:
        os.fsync(fd)
    except OSError:
        with contextlib.suppress(OSError):
            undo()
        raise


def open_folder(name: str, *, at: int, create: bool = False) -> int:
    """Return a descriptor of the folder *name* in the folder *at*; a new one is durable.

    A new folder has its parent's permissions, whatever the umask is.

    Raises:
        OSError: it cannot be opened or created, or is not a folder.
    """
    is_new = False
    mode = os.fstat(at).st_mode & _INHERITED
    if create:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, mode, dir_fd=at)
            is_new = True
            sync_or_undo(at, lambda: os.rmdir(name, dir_fd=at))
    fd = os.open(name, _FOLDER_FLAGS, dir_fd=at)
    if is_new:
        set_mode(fd, mode)
    return fd


def open_path(parts: tuple[str, ...], *, at: int, create: bool = False) -> int:
    """Return a descriptor of the folder *parts* below the folder *at*.

    Raises:
        OSError: a component cannot be opened or created, or is not a folder.
    """
    fd = os.dup(at)
    for part in parts:
        with closing(fd) as parent:
            fd = open_folder(part, at=parent, create=create)
    return fd


def found_path(parts: tuple[str, ...], *, at: int) -> int | None:
    """Return what `open_path` does; None if a component is missing or not a folder.

    Raises:
        OSError: a component cannot be opened.
    """
    try:
        return open_path(parts, at=at)
    except OSError as error:
        if error.errno in NO_FOLDER:
            return None
        raise


def remove_empty(parts: tuple[str, ...], *, at: int) -> None:
    """Remove the folder *parts* below *at* and its parents durably, as long as they are empty.

    Raises:
        OSError: a folder cannot be opened or fsynced.
    """
    while parts:
        with closing(open_path(parts[:-1], at=at)) as parent:
            try:
                os.rmdir(parts[-1], dir_fd=parent)
            except FileNotFoundError:
                pass  # another process removed it
            except OSError:
                break
        parts = parts[:-1]
    with closing(open_path(parts, at=at)) as fd:
        os.fsync(fd)


def create_file(name: str, *, at: int) -> int:
    """Return a descriptor of the new file *name* in the folder *at*.

    Raises:
        OSError: it exists, or cannot be created.
    """
    mode = file_mode(at)
    fd = os.open(name, _NEW_FLAGS, mode, dir_fd=at)
    set_mode(fd, mode)
    return fd


def write_all(fd: int, data: bytes | memoryview, *, offset: int) -> None:
    """Write all of *data* at *offset*.

    Raises:
        OSError: it cannot be written.
    """
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view = view[written:]
        offset += written


def write_durably(name: str, data: bytes, *, at: int) -> None:
    """Replace the file *name* in the folder *at* by *data* atomically.

    The folder is not fsynced: the caller does so once for all its names.

    Raises:
        OSError: it cannot be written.
    """
    part = f"{name}.part"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(part, dir_fd=at)
    with closing(create_file(part, at=at)) as fd:
        write_all(fd, data, offset=0)
        os.fsync(fd)
    os.rename(part, name, src_dir_fd=at, dst_dir_fd=at)


def read_file(name: str, *, at: int, limit: int) -> bytes | None:
    """Return the first *limit* bytes of the file *name* in the folder *at*; None if missing.

    Anything else of that name (a symlink, a pipe) counts as missing; a later write replaces it.

    Raises:
        OSError: it cannot be read.
    """
    try:
        fd = os.open(name, _READ_FLAGS, dir_fd=at)
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        raise
    with closing(fd):
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        data = b""
        while len(data) < limit and (more := os.read(fd, limit - len(data))):
            data += more
        return data


def names_in(fd: int) -> list[str]:
    """Return the names in the folder *fd*, sorted.

    Raises:
        OSError: it cannot be read.
    """
    return sorted(os.listdir(fd))


def spare_files(fd: int) -> int:
    """Return how many files can be created on the volume of *fd*, without the reserve."""
    volume = os.fstatvfs(fd)
    if not volume.f_files:  # no limit
        return sys.maxsize
    return volume.f_favail - min(RESERVED_FILES, volume.f_files // 20)


def free_bytes(fd: int) -> int:
    """Return the free bytes on the volume of *fd*."""
    volume = os.fstatvfs(fd)
    return volume.f_bavail * volume.f_frsize
