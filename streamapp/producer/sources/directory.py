"""Opens files and folders below a folder without following links.

The system resolves a path each time that it is used. Anyone who may write to the folder can
replace a part of the path by a link that leads out of the folder. So each part is opened by a
descriptor of its parent (``openat`` with ``O_NOFOLLOW``). Windows has no such calls: there each
part is checked by its path before it is used, which leaves a moment between the two.
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
# To enter a folder, the right to list it is not needed.
_PASSING_FLAGS: Final = _FOLDER_FLAGS | getattr(os, "O_PATH", 0)
# With O_NONBLOCK, a pipe that replaced the file does not block the reader.
_FILE_FLAGS: Final = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
_JUNCTION: Final = getattr(
    stat, "IO_REPARSE_TAG_MOUNT_POINT", None
)  # a second kind of link on Windows


class Directory:
    """An open folder. Names are resolved in it, even if its path now leads elsewhere."""

    def __init__(self, path: str, fd: int, flags: int = _FOLDER_FLAGS) -> None:
        """*fd* is a descriptor of the folder at *path*; below 0 on systems without them."""
        self.path = path
        self._fd = fd
        self._flags = flags

    @classmethod
    def at(cls, path: str | Path, *, in_passing: bool = False) -> Directory:
        """Open the folder at *path*, which may be a link.

        *in_passing*: the caller lists neither this folder nor a folder that it enters from it.

        Raises:
            OSError: it is missing, is not a folder, or may not be read.
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
        """Return the status of the entry *name*; a link is not followed."""
        if self._fd < 0:
            return os.lstat(self._path_of(name))
        return os.stat(name, dir_fd=self._fd, follow_symlinks=False)

    def enter(self, name: str) -> Directory:
        """Open the folder *name* in it.

        Raises:
            OSError: it is a link or not a folder, or may not be read.
        """
        if self._fd >= 0:
            fd = os.open(name, self._flags | os.O_NOFOLLOW, dir_fd=self._fd)
            return Directory(self._path_of(name), fd, self._flags)
        found = self.look(name)
        if is_link(found) or not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return Directory(self._path_of(name), -1, self._flags)

    def open(self, name: str) -> int:
        """Return a descriptor to read the file *name* in it.

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
    """Open the parent of *place*, a path below *folder*; give it with the last part's name.

    An absolute *place* is the resolved target of a link that the settings follow: its path has no
    link, and its parent is opened by that path.

    Raises:
        OSError: a part is missing, is a link or not a folder, or may not be read.
    """
    if os.path.isabs(place):  # noqa: PTH117 - bytes that are no text
        first, name = os.path.split(place)
        parts: list[str] = []
    else:
        first = os.fspath(folder)
        *parts, name = place.split(os.sep)  # noqa: PTH206 - bytes that are no text
    holder = Directory.at(first, in_passing=True)
    try:
        for part in parts:
            below = holder.enter(part)
            holder.close()
            holder = below
        yield holder, name
    finally:
        holder.close()


def is_link(found: os.stat_result) -> bool:
    """Return whether *found*, a status that follows no link, is a link or a Windows junction."""
    return stat.S_ISLNK(found.st_mode) or (
        _JUNCTION is not None and getattr(found, "st_reparse_tag", 0) == _JUNCTION
    )
