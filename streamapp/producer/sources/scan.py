"""Finds the files to send: every regular file below a folder, always in the same order.

No file is opened here. The walk opens folders by descriptors
(`streamapp.producer.sources.directory`), so it does not leave the folder. A link to a file inside
is sent as a file. A link to a file outside is sent only with ``links="follow"``. A link to a folder
is never followed, because it may form a circle. Sockets, pipes, devices, links to folders and
dangling links are special: they are reported, and by default the delivery can be complete without
them. With an entry that cannot be read, or a name that no worker accepts, it cannot be complete.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from typing import TYPE_CHECKING, Final, Literal

import msgspec

from streamapp.errors import BlockMalformedError, SourceError
from streamapp.producer.sources.directory import Directory, is_link, parent
from streamapp.protocol import filenames, fileplan
from streamapp.protocol.frames import MAX_BLOCKS, MAX_HEADER_BYTES
from streamapp.units import format_size


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Links = Literal["fail", "skip", "follow"]
Special = Literal["skip", "fail"]

FRESH_NS: Final = 2_000_000_000
"""The longest tick of a file system's clock: FAT has 2 seconds."""

_MAX_NAME_JSON: Final = MAX_HEADER_BYTES // 2
_NOWHERE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_WORKERS_FOLDER: Final = "processed_data_"
_WORKERS_LOCK: Final = ".lock"


class SourceFile(msgspec.Struct, frozen=True, gc=False):
    """A file to send, as the scan found it; *relative* is its path below the folder.

    *place* is set if that path is a link: the target's path below the folder, or its absolute path.
    *device* and *inode* identify the file. *is_fresh*: it was changed so shortly before the scan
    that one more change might not change its times. Times are in nanoseconds since 1970.
    """

    relative: str
    size: int
    mtime_ns: int
    file_id: str
    ctime_ns: int | None = None
    device: int = -1
    inode: int = -1
    place: str = ""
    is_fresh: bool = False

    @property
    def path(self) -> str:
        """The path below the folder, as Python gives it, with ``/`` between its parts."""
        return "/".join(_parts(self.relative))

    @property
    def name(self) -> str:
        """The name that is published."""
        return filenames.portable_name(_parts(self.relative))

    @property
    def raw_name(self) -> bytes:
        """The bytes of the name, if `name` differs from them; otherwise empty."""
        return filenames.raw_name(_parts(self.relative))

    def is_same(self, found: os.stat_result) -> bool:
        """Return whether *found* is the same file, unchanged since the scan."""
        return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns) == (
            self.device,
            self.inode,
            self.size,
            self.mtime_ns,
        ) and self.ctime_ns in {None, found.st_ctime_ns}


class Problem(msgspec.Struct, frozen=True):
    """An entry that is not sent, and why; *is_special* if the settings exclude it."""

    name: str
    reason: str
    is_special: bool = False


def check_folder(folder: Path) -> None:
    """Check that *folder* can be listed.

    Raises:
        SourceError: it is missing, is not a folder, or may not be read.
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


def scan(
    folder: Path,
    *,
    machine: str,
    block_size: int,
    links: Links = "fail",
    special: Special = "skip",
) -> Iterator[SourceFile | Problem]:
    """Yield the entries below *folder*, sorted by name within each folder.

    Args:
        folder: The folder to walk through.
        machine: This machine's id, a part of each file's id.
        block_size: The bytes of a block, a part of each file's id.
        links: What to do with links to files outside of *folder*.
        special: Whether special entries are skipped or fail the delivery.

    Raises:
        SourceError: a worker stores its blocks below *folder*.
    """
    walk = _Walk(folder, machine=machine, block_size=block_size, links=links, special=special)
    with Directory.at(folder) as directory:
        yield from walk.below(directory, "")


class _Walk:
    """One walk through *folder*; the arguments are those of `scan`."""

    def __init__(
        self, folder: Path, *, machine: str, block_size: int, links: Links, special: Special
    ) -> None:
        self._folder = folder
        self._machine = machine
        self._block_size = block_size
        self._links = links
        self._special = special

    def below(self, directory: Directory, relative: str) -> Iterator[SourceFile | Problem]:
        """Yield the entries of *directory*, which has the path *relative* below the folder."""
        listed = directory.names()
        _refuse_workers_folder(directory, listed)
        for name in listed:
            path = os.path.join(relative, name)  # noqa: PTH118 - bytes that are no text
            try:
                found = directory.look(name)
                if is_link(found):
                    yield self._linked(path)
                elif not stat.S_ISDIR(found.st_mode):
                    yield self._source(path, found)
                elif len(_parts(path)) > filenames.MAX_COMPONENTS:
                    yield _problem(path, "a folder that lies too deep")
                else:
                    with directory.enter(name) as deeper:
                        yield from self.below(deeper, path)
            except OSError as error:
                yield _problem(path, (error.strerror or str(error)).lower())

    def _linked(self, relative: str) -> SourceFile | Problem:
        """Return the file to which the link at *relative* leads, or why it is not sent."""
        try:
            target, is_inside = self._target(relative)
        except OSError as error:
            if error.errno in _NOWHERE:
                return self._no_file(relative, "a link to nothing")
            raise
        with parent(self._folder, target) as (directory, name):
            found = directory.look(name)
        if stat.S_ISDIR(found.st_mode):
            return self._no_file(relative, "a link to a folder, which is not followed")
        if is_inside or self._links == "follow" or not stat.S_ISREG(found.st_mode):
            return self._source(relative, found, place=target)
        advice = "" if self._links == "skip" else ": --links follow sends it, --links skip does not"
        reason = f"a link out of the data folder{advice}"
        return _problem(relative, reason, is_special=self._links == "skip")

    def _target(self, relative: str) -> tuple[str, bool]:
        """Return the path of the link's target, and whether it is inside the folder.

        The caller opens that path part by part without following links.

        Raises:
            OSError: the link is dangling.
        """
        top = os.path.realpath(self._folder)
        target = os.path.realpath(os.path.join(top, relative), strict=True)  # noqa: PTH118
        below = os.path.join(top, "")  # noqa: PTH118 - with the separator behind it
        is_inside = target.startswith(below)
        return (target.removeprefix(below) if is_inside else target), is_inside

    def _source(
        self, relative: str, found: os.stat_result, *, place: str = ""
    ) -> SourceFile | Problem:
        if not stat.S_ISREG(found.st_mode):
            return self._no_file(relative, f"{_kind(found.st_mode)}, not a file")
        parts = _parts(relative)
        if reason := _refusal(filenames.portable_name(parts), found.st_size, self._block_size):
            return _problem(relative, reason)
        try:
            file_id = fileplan.file_id(
                source=self._machine,
                name="/".join(parts),
                size=found.st_size,
                mtime_ns=found.st_mtime_ns,
                block_size=self._block_size,
            )
        except UnicodeEncodeError:  # an unpaired surrogate, which Windows allows in names
            return _problem(relative, "a name that is no text")
        return SourceFile(
            relative,
            found.st_size,
            found.st_mtime_ns,
            file_id,
            found.st_ctime_ns,
            device=found.st_dev,
            inode=found.st_ino,
            place=place,
            is_fresh=is_fresh(found, now_ns=time.time_ns()),
        )

    def _no_file(self, relative: str, reason: str) -> Problem:
        return _problem(relative, reason, is_special=self._special == "skip")


def is_fresh(found: os.stat_result, *, now_ns: int) -> bool:
    """Return whether a change after *now_ns* might leave the times of *found* unchanged.

    Every change sets the status change time. On Windows that field is the creation time, so the
    modification time is used. A time in the future counts as fresh: clocks differ.
    """
    changed_ns = found.st_mtime_ns if os.name == "nt" else found.st_ctime_ns
    return now_ns - changed_ns < FRESH_NS


def _refuse_workers_folder(directory: Directory, listed: list[str]) -> None:
    """Refuse a worker's data folder: its blocks would be sent and stored again without end.

    Raises:
        SourceError: *directory* is a worker's data folder.
    """
    if _WORKERS_LOCK not in listed:
        return
    if os.path.basename(os.path.realpath(directory.path)).startswith(_WORKERS_FOLDER):  # noqa: PTH119
        raise SourceError(
            f"a worker stores what it receives in {directory.path}, and what is stored there "
            "would be sent again without end: move that folder out of the data folder, or "
            f"delete its {_WORKERS_LOCK} if no worker uses it any more"
        )


def _refusal(name: str, size: int, block_size: int) -> str | None:
    """Return why every worker would reject the file; None if none would."""
    try:
        filenames.folder_parts(name)
    except BlockMalformedError as error:
        return str(error)
    if len(msgspec.json.encode(name)) > _MAX_NAME_JSON:
        return f"a name of more than {format_size(_MAX_NAME_JSON)} in JSON"
    blocks = fileplan.FilePlan(file_size=size, block_size=block_size).blocks
    if blocks > MAX_BLOCKS:
        return f"{blocks} blocks, at most {MAX_BLOCKS} are possible: raise --block-size"
    return None


def _parts(relative: str) -> tuple[str, ...]:
    return tuple(relative.split(os.sep))  # noqa: PTH206 - bytes that are no text


def _problem(relative: str, reason: str, *, is_special: bool = False) -> Problem:
    return Problem(filenames.portable_name(_parts(relative)), reason, is_special)


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFSOCK: "a socket",
        stat.S_IFIFO: "a pipe",
        stat.S_IFBLK: "a block device",
        stat.S_IFCHR: "a character device",
    }
    return kinds.get(stat.S_IFMT(mode), "something unknown")
