"""Finds what is to be sent: every regular file below a folder, in an order that stays.

Nothing is opened here. A link to a file is followed and sent as a file; a link to a folder
is not followed (it may lead in circles, or out of the folder) and is reported, as is all
that cannot be sent: sockets, devices, broken links, folders that cannot be listed, names
that no receiver takes. What is reported is not delivered, so the command does not end in 0.
"""

from __future__ import annotations

import os
import stat

from typing import TYPE_CHECKING, Final

import msgspec

from streamapp import manifest, names
from streamapp.errors import BlockMalformedError, SourceError
from streamapp.units import format_size
from streamapp.wire import MAX_BLOCKS, MAX_HEADER_BYTES


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MAX_NAME_JSON: Final = MAX_HEADER_BYTES // 2
_JUNCTION: Final = getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", None)  # Windows' other link


class Source(msgspec.Struct, frozen=True, gc=False):
    """A file to send, as it was found; *relative* is its path below the folder."""

    relative: str
    size: int
    mtime_ns: int
    file_id: str
    ctime_ns: int | None = None

    @property
    def name(self) -> str:
        """The name that travels."""
        return names.portable_name(_parts(self.relative))

    @property
    def raw_name(self) -> bytes:
        """The bytes of the name, where `name` is another one."""
        return names.raw_name(_parts(self.relative))

    def is_same(self, found: os.stat_result) -> bool:
        """Return whether *found* is what it was when it was scanned."""
        return (found.st_size, found.st_mtime_ns) == (self.size, self.mtime_ns)


class Problem(msgspec.Struct, frozen=True):
    """Something among the files that cannot be sent, and why."""

    name: str
    reason: str


def check_folder(folder: Path) -> None:
    """Look whether *folder* can be listed.

    Raises:
        SourceError: it is missing, no folder, or may not be read.
    """
    try:
        with os.scandir(folder):
            pass
    except FileNotFoundError as error:
        raise SourceError(f"the data folder {folder} does not exist") from error
    except NotADirectoryError as error:
        raise SourceError(f"the data folder {folder} is no folder") from error
    except OSError as error:
        raise SourceError(f"the data folder {folder} cannot be read: {error.strerror}") from error


def scan(folder: Path, *, machine: str, block_size: int) -> Iterator[Source | Problem]:
    """Yield what lies below *folder*, sorted by name within each folder."""
    pending = sorted(os.listdir(folder), reverse=True)  # noqa: PTH208 - 100,000 Paths cost 50 MiB
    while pending:
        relative = pending.pop()
        try:
            found, is_link = _look(os.path.join(folder, relative))  # noqa: PTH118 - the same
            if not stat.S_ISDIR(found.st_mode):
                yield _source(relative, found, machine=machine, block_size=block_size)
            elif is_link:
                yield _problem(relative, "a link to a folder, which is not followed")
            else:
                below = sorted(os.listdir(os.path.join(folder, relative)), reverse=True)  # noqa: PTH118, PTH208
                pending.extend(os.path.join(relative, name) for name in below)  # noqa: PTH118
        except OSError as error:
            yield _problem(relative, (error.strerror or str(error)).lower())


def _look(path: str) -> tuple[os.stat_result, bool]:
    """Return what *path* is, or what it links to, and whether it is a link."""
    found = os.lstat(path)
    if stat.S_ISLNK(found.st_mode):
        try:
            return os.stat(path), True  # noqa: PTH116
        except FileNotFoundError as error:
            raise FileNotFoundError(error.errno, "a link to nothing") from error
    return found, _JUNCTION is not None and getattr(found, "st_reparse_tag", 0) == _JUNCTION


def _source(
    relative: str, found: os.stat_result, *, machine: str, block_size: int
) -> Source | Problem:
    if not stat.S_ISREG(found.st_mode):
        return _problem(relative, f"{_kind(found.st_mode)}, not a file")
    parts = _parts(relative)
    if reason := _refusal(names.portable_name(parts), found.st_size, block_size):
        return _problem(relative, reason)
    try:
        file_id = manifest.file_id(
            source=machine,
            name="/".join(parts),
            size=found.st_size,
            mtime_ns=found.st_mtime_ns,
            block_size=block_size,
        )
    except UnicodeEncodeError:  # half a character, which Windows allows in names
        return _problem(relative, "a name that is no text")
    return Source(relative, found.st_size, found.st_mtime_ns, file_id, found.st_ctime_ns)


def _refusal(name: str, size: int, block_size: int) -> str | None:
    """Return why no receiver would take the file; better said here than by each of them."""
    try:
        names.folder_parts(name)
    except BlockMalformedError as error:
        return str(error)
    if len(msgspec.json.encode(name)) > _MAX_NAME_JSON:
        return f"a name of more than {format_size(_MAX_NAME_JSON)} in JSON"
    blocks = manifest.Plan(file_size=size, block_size=block_size).blocks
    if blocks > MAX_BLOCKS:
        return f"{blocks} blocks, at most {MAX_BLOCKS} are possible: raise --block-size"
    return None


def _parts(relative: str) -> tuple[str, ...]:
    return tuple(relative.split(os.sep))  # noqa: PTH206 - bytes that are no text


def _problem(relative: str, reason: str) -> Problem:
    return Problem(names.portable_name(_parts(relative)), reason)


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFSOCK: "a socket",
        stat.S_IFIFO: "a pipe",
        stat.S_IFBLK: "a block device",
        stat.S_IFCHR: "a character device",
    }
    return kinds.get(stat.S_IFMT(mode), "something unknown")
