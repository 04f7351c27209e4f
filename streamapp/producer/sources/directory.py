"""Opens what lies below a folder part by part, and follows no link on the way.

A path is looked up again each time that it is used: whoever may write to the folder can put
a link in the place of one of its parts, and the same path leads out of the folder. So each
part is opened in the folder before it by descriptor (``openat`` with ``O_NOFOLLOW``). Windows
has no such calls: there each part is looked at by its path before it is used, which leaves a
moment between the two.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from typing import TYPE_CHECKING, Final, Self


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HAS_DESCRIPTORS: Final = (
    {os.open, os.stat} <= os.supports_dir_fd
    and os.listdir in os.supports_fd
    and hasattr(os, "O_NOFOLLOW")
)
_FOLDER_FLAGS: Final = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
# Whoever only passes through a folder need not be allowed to list it.
_PASSING_FLAGS: Final = _FOLDER_FLAGS | getattr(os, "O_PATH", 0)
# A pipe that took the file's place must not hold the reader for ever.
_FILE_FLAGS: Final = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
_JUNCTION: Final = getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", None)  # Windows' other link


class Directory:
    """An open folder. Its names are looked up in it, wherever its path leads by now."""

    def __init__(self, path: str, fd: int, flags: int = _FOLDER_FLAGS) -> None:
        """*fd* is a descriptor of the folder at *path*; below 0 where there are none."""
        self.path = path
        self._fd = fd
        self._flags = flags

    @classmethod
    def at(cls, path: str | Path, *, in_passing: bool = False) -> Directory:
        """Open the folder at *path*, which may be a link to one.

        *in_passing*: neither it nor what is entered from it will be listed.

        Raises:
            OSError: it is missing, no folder, or may not be read.
        """
        path = os.fspath(path)
        flags = _PASSING_FLAGS if in_passing else _FOLDER_FLAGS
        return cls(path, os.open(path, flags) if HAS_DESCRIPTORS else -1, flags)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def names(self) -> list[str]:
        """Return the names in it, sorted."""
        return sorted(os.listdir(self.path if self._fd < 0 else self._fd))  # noqa: PTH208 - 100,000 Paths cost 50 MiB

    def look(self, name: str) -> os.stat_result:
        """Return what *name* in it is; a link is not followed."""
        if self._fd < 0:
            return os.lstat(self._path_of(name))
        return os.stat(name, dir_fd=self._fd, follow_symlinks=False)

    def enter(self, name: str) -> Directory:
        """Open the folder *name* in it.

        Raises:
            OSError: it is no folder (a link is none), or may not be read.
        """
        if self._fd >= 0:
            fd = os.open(name, self._flags | os.O_NOFOLLOW, dir_fd=self._fd)
            return Directory(self._path_of(name), fd, self._flags)
        found = self.look(name)
        if is_link(found) or not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return Directory(self._path_of(name), -1, self._flags)

    def open(self, name: str) -> int:
        """Return a descriptor of the file *name* in it, for reading.

        Raises:
            OSError: it is a link, or cannot be opened.
        """
        if self._fd >= 0:
            return os.open(name, _FILE_FLAGS, dir_fd=self._fd)
        if is_link(self.look(name)):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        return os.open(self._path_of(name), _FILE_FLAGS)

    def _path_of(self, name: str) -> str:
        return os.path.join(self.path, name)  # noqa: PTH118 - bytes that are no text


@contextlib.contextmanager
def parent(folder: str | Path, place: str) -> Iterator[tuple[Directory, str]]:
    """Open what holds *place*, a path below *folder*; give it with the last part's name.

    An absolute *place* lies where a link led that was to be followed: what it led to has no
    link in its path, and the folder that holds it is opened as it is named.

    Raises:
        OSError: a part is missing, is no folder (a link is none), or may not be read.
    """
    if os.path.isabs(place):  # noqa: PTH117 - bytes that are no text
        first, name = os.path.split(place)
        parts: list[str] = []
    else:
        first = os.fspath(folder)
        *parts, name = place.split(os.sep)  # noqa: PTH206 - bytes that are no text
    held = Directory.at(first, in_passing=True)
    try:
        for part in parts:
            below = held.enter(part)
            held.close()
            held = below
        yield held, name
    finally:
        held.close()


def is_link(found: os.stat_result) -> bool:
    """Return whether *found*, which was not followed, is a link, or a junction of Windows."""
    return stat.S_ISLNK(found.st_mode) or (
        _JUNCTION is not None and getattr(found, "st_reparse_tag", 0) == _JUNCTION
    )
