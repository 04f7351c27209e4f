"""Reads persisted blocks again and reports those that are not what was acknowledged.

Disks lose data silently: a bit flips, a sector fails, a file system repair removes a file. Reading
changes nothing, needs neither a lock nor Kafka, and may run beside a worker: a block has its name
only when it is complete. A verdict is about bad bytes only; if something could not be read (missing
permissions, too many open files), that is an error.
"""

from __future__ import annotations

import enum
import hashlib
import os
import stat
import threading
import time

from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from streamapp.errors import StoreError, VerificationError
from streamapp.protocol import fileplan
from streamapp.store import dirfd, file_json, metadata, walk
from streamapp.store.metadata import BlockMetadata, FileManifest
from streamapp.units import KIB, MIB, counted


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHUNK_BYTES: Final = MIB
"""Bytes per read: the granularity of the rate limit and of a stop."""

SEEK_BYTES: Final = 128 * KIB
"""Bytes that opening a block counts for; a spinning disk reads about as much meanwhile."""

Parts = tuple[str, ...]


class State(enum.StrEnum):
    """The result for a block; only the first is good."""

    GOOD = "good"
    CORRUPT = "corrupt"
    UNREADABLE = "unreadable"
    METADATA = "bad metadata"
    MISSING = "missing"
    FILE_JSON = "bad file.json"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The result for one block, or for one folder's ``file.json``.

    *size* is the bytes that were read; *file* is the file to which the folder belongs, if
    known; *meta* are the block's metadata if they are valid.
    """

    root: Path
    parts: Parts
    stem: str
    block: int
    state: State
    reason: str = ""
    size: int = 0
    file: FileManifest | None = None
    meta: BlockMetadata | None = None

    @property
    def is_good(self) -> bool:
        """Whether the block is good."""
        return self.state is State.GOOD

    @property
    def path(self) -> Path:
        """The file that the verdict is about."""
        name = metadata.FILE_JSON if self.state is State.FILE_JSON else f"{self.stem}.bin"
        return self.root.joinpath(*self.parts, name)


class Pace:
    """Limits reading to *rate* bytes per second (0: no limit), and ends it on *stop*."""

    def __init__(
        self,
        rate: int = 0,
        stop: threading.Event | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate = rate
        self._stop = stop or threading.Event()
        self._clock = clock
        self._due = clock()

    @property
    def stopped(self) -> bool:
        """Whether reading must end."""
        return self._stop.is_set()

    def spend(self, size: int) -> bool:
        """Wait until *size* more bytes may be read; return False if reading must end.

        Unused time does not accumulate: a pause is not followed by a burst.
        """
        if self._rate:
            now = self._clock()
            wait, self._due = max(0.0, self._due - now), max(self._due, now) + size / self._rate
            if wait:
                self._stop.wait(wait)
        return not self.stopped


def blocks(root: Path, pace: Pace, *, after: Parts | None = None) -> Iterator[Verdict]:
    """Yield a verdict on every block below the data folder *root*, folder by folder in order.

    Folders are ordered by their parts; those up to *after* are skipped. Ends early when *pace* is
    stopped.

    Raises:
        StoreError: a folder or a file could not be read.
    """
    with dirfd.opened(root) as fd:
        for parts, folder, names in walk.folders(fd, onerror=_fail):
            if after is None or parts > after:
                yield from _Folder(root, parts, folder, pace).verdicts(names)
            if pace.stopped:
                return


def again(verdict: Verdict, pace: Pace) -> Verdict | None:
    """Verify a block a second time; return None if it no longer exists.

    Raises:
        StoreError: it could not be read.
    """
    with dirfd.opened(verdict.root) as fd:
        try:
            folder = dirfd.open_path(verdict.parts, at=fd)
        except FileNotFoundError:
            return None
        with dirfd.closing(folder):
            looking = _Folder(verdict.root, verdict.parts, folder, pace)
            return looking.judge(verdict.stem, verdict.block)


def _fail(error: OSError) -> None:
    """Raise a `StoreError`, unless the folder was removed meanwhile."""
    if not isinstance(error, FileNotFoundError):
        message = f"cannot read the folder {error.filename}: {error.strerror}"
        raise StoreError(message) from error


class _Folder:
    """One folder of blocks, open as *fd*."""

    def __init__(self, root: Path, parts: Parts, fd: int, pace: Pace) -> None:
        self._root, self._parts, self._fd, self._pace = root, parts, fd, pace
        self._file = file_json.resolve(fd)

    def verdicts(self, names: list[str]) -> Iterator[Verdict]:
        """Yield a verdict on ``file.json`` if it is bad, and on every block among *names*."""
        found = {(int(m[2]), m[1]) for name in names if (m := metadata.BLOCK.fullmatch(name))}
        if not found and metadata.FILE_JSON not in names:
            return
        if self._file != file_json.read(self._fd):
            yield self._verdict("", 0, State.FILE_JSON, "it is missing or has rotted")
        for block, stem in sorted(found):
            verdict = self.judge(stem, block)
            if self._pace.stopped:
                return
            if verdict is not None:
                yield verdict

    def judge(self, stem: str, block: int) -> Verdict | None:
        """Return the verdict on one block; None if it does not exist (yet, or any more)."""
        meta, fault = self._metadata(stem, block)
        size = self._size(f"{stem}.bin")
        if size is None:
            if fault == _ABSENT or self._is_being_written(stem):
                return None
            return self._verdict(stem, block, State.MISSING, "its bytes are not there", meta=meta)
        if meta is None:
            return self._verdict(stem, block, State.METADATA, fault, size=size)
        state, fault = State.CORRUPT, f"{size} bytes, expected {meta.size}"
        if size == meta.size:
            try:
                state, fault = self._hash(stem, meta)
            except FileNotFoundError:  # removed just now: the next pass reports what that means
                return None
            if self._pace.stopped:
                return None
        return self._verdict(stem, block, state, fault, size=size, meta=meta)

    def _metadata(self, stem: str, block: int) -> tuple[BlockMetadata | None, str]:
        """Return the block's metadata, or None and the fault."""
        name = f"{stem}_metadata.json"
        try:
            raw = dirfd.read_file(name, at=self._fd, limit=metadata.MAX_METADATA_BYTES)
            if raw is None:
                return None, _ABSENT
            meta = metadata.decode_block(raw)
        except VerificationError as error:
            return None, str(error)
        except OSError as error:
            if dirfd.is_rot(error):
                return None, f"its metadata cannot be read: {error.strerror}"
            raise
        fault = _disagreement(meta, self._file, stem, block)
        return (None, fault) if fault else (meta, "")

    def _size(self, name: str) -> int | None:
        try:
            found = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else 0

    def _is_being_written(self, stem: str) -> bool:
        """Return whether a ``.part`` file exists: metadata are named just before the bytes."""
        if any(n.startswith(f"{stem}.bin.") for n in dirfd.names_in(self._fd)):
            return True
        return self._size(f"{stem}.bin") is not None

    def _hash(self, stem: str, meta: BlockMetadata) -> tuple[State, str]:
        try:
            sha256 = self._sha256(f"{stem}.bin")
        except OSError as error:
            if dirfd.is_rot(error):
                return State.UNREADABLE, f"it cannot be read: {error.strerror}"
            raise
        if sha256 == meta.sha256:
            return State.GOOD, ""
        return State.CORRUPT, f"SHA-256 {sha256}, expected {meta.sha256}"

    def _sha256(self, name: str) -> str:
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(CHUNK_BYTES))
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with dirfd.closing(os.open(name, flags, dir_fd=self._fd)) as fd:
            _forget_cached(fd)  # the disk must be read, not the cache
            size = SEEK_BYTES
            while self._pace.spend(size) and (size := os.readv(fd, [buffer])):
                digest.update(buffer[:size])
            _forget_cached(fd)  # it is not read again soon
        return digest.hexdigest()

    def _verdict(  # noqa: PLR0913 - the fields of a verdict
        self,
        stem: str,
        block: int,
        state: State,
        reason: str,
        *,
        size: int = 0,
        meta: BlockMetadata | None = None,
    ) -> Verdict:
        return Verdict(
            root=self._root,
            parts=self._parts,
            stem=stem,
            block=block,
            state=state,
            reason=reason,
            size=size,
            file=self._file,
            meta=meta,
        )


_ABSENT: Final = "its metadata are not there"


def _disagreement(meta: BlockMetadata, file: FileManifest | None, stem: str, block: int) -> str:
    """Return the fault in the metadata of a block of that name; empty if there is none."""
    found = metadata.file_of_block(meta)
    if file is None or not found.is_possible:
        return "its metadata speak of a file that cannot be"
    if found != file:
        return f"its metadata speak of file {found.file_id} or of a change of it"
    if block >= file.blocks or stem != metadata.stem(block, file.blocks):
        return f"no block of a file of {counted(file.blocks, 'block')} has this name"
    start, size = fileplan.FilePlan(file_size=file.size, block_size=file.block_size).span(block)
    said = (meta.block, meta.start, meta.end, meta.size)
    if said != (block, start, start + size, size):
        return f"its metadata speak of block {meta.block}, bytes {meta.start} to {meta.end}"
    return ""


def _forget_cached(fd: int) -> None:
    if hasattr(os, "posix_fadvise"):  # not on macOS
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
