"""Moves bad blocks to ``quarantine/`` of their data folder, and writes invalid records there.

Beside a block's bytes is a JSON file with the reason, its metadata, and the records that revoke
it. ``told_at`` is null until Kafka has those: if a worker dies after the move, the next one
publishes them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time

from typing import TYPE_CHECKING, Any, Final

from streamapp.errors import StoreError, StoreFullError
from streamapp.store import dirfd, metadata
from streamapp.units import MIB, format_size


if TYPE_CHECKING:
    from collections.abc import Iterator

QUARANTINE: Final = "quarantine"
KIND: Final = "lost block"
MAX_RECORDS: Final = 1000
"""Invalid records in quarantine at most."""

MAX_BYTES: Final = 64 * MIB
"""Their bytes on the volume at most."""

RESCAN_SECONDS: Final = 10.0
"""Seconds until a full quarantine is counted again."""

_MAX_RECORD_BYTES: Final = 1 << 20
_MAX_NAMESAKES: Final = 10_000
_LOST: Final = re.compile(r"[0-9a-f]{32}-\d+(\.again\d+)?")
_SECTOR_BYTES: Final = 512


class RefusedRecords:
    """The invalid records in a folder's ``quarantine/``.

    Lost blocks are not counted: they took the space before, and are never deleted.
    """

    def __init__(self, root: int | None = None) -> None:
        """Count the records in the data folder *root*, if given.

        Raises:
            OSError: it cannot be read.
        """
        self._lock = threading.Lock()
        self._taken: dict[str, int] = {}  # name -> bytes on the volume
        self._looked_at = time.monotonic()
        if root is not None:
            self._look(root)

    def keep(self, root: int, name: str, text: bytes, value: bytes) -> None:
        """Write a record under *name*: *text* is the reason, *value* its bytes.

        Raises:
            OSError: it cannot be written.
            StoreFullError: the quarantine is full.
        """
        with self._lock:
            self._check(root, name, len(text) + len(value))
            with dirfd.closing(dirfd.open_folder(QUARANTINE, at=root, create=True)) as fd:
                dirfd.write_durably(f"{name}.bin", value, at=fd)
                dirfd.write_durably(f"{name}.json", text, at=fd)
                os.fsync(fd)
                self._taken[name] = sum(_size(f"{name}{end}", fd) for end in (".bin", ".json"))

    def _check(self, root: int, name: str, size: int) -> None:
        if self._has_room(name, size):
            return
        if time.monotonic() - self._looked_at >= RESCAN_SECONDS:  # some may be removed
            self._look(root)
        if not self._has_room(name, size):
            message = (
                f"{QUARANTINE}/ is full: {len(self._taken)} records of "
                f"{format_size(sum(self._taken.values()))}, at most {MAX_RECORDS} of "
                f"{format_size(MAX_BYTES)} are kept: look at them, and remove them"
            )
            raise StoreFullError(message)

    def _has_room(self, name: str, size: int) -> bool:
        others = {kept: taken for kept, taken in self._taken.items() if kept != name}
        return len(others) < MAX_RECORDS and sum(others.values()) + size <= MAX_BYTES

    def _look(self, root: int) -> None:
        self._taken = {}
        self._looked_at = time.monotonic()
        try:
            fd = dirfd.open_folder(QUARANTINE, at=root)
        except OSError as error:
            if error.errno in dirfd.NO_FOLDER:
                return
            raise
        with dirfd.closing(fd):
            for entry in dirfd.names_in(fd):
                name = entry.removesuffix(".json").removesuffix(".bin")
                if not _LOST.fullmatch(name):
                    self._taken[name] = self._taken.get(name, 0) + _size(entry, fd)


def _size(name: str, at: int) -> int:
    try:
        return os.stat(name, dir_fd=at, follow_symlinks=False).st_blocks * _SECTOR_BYTES
    except FileNotFoundError:
        return 0


def move(root: int, parts: tuple[str, ...], stem: str, name: str, why: dict[str, Any]) -> str:
    """Move the block *stem* of the folder *parts* to ``quarantine/``; return its name there.

    *why* is written durably first, then the bytes are moved, then the metadata are deleted. So a
    crash at any point leaves a state that is found again.

    Raises:
        OSError: it cannot be moved; the block stays where it was.
        StoreError: there are too many of that name.
    """
    with (
        dirfd.closing(dirfd.open_folder(QUARANTINE, at=root, create=True)) as to,
        dirfd.closing(dirfd.open_path(parts, at=root)) as at,
    ):
        chosen = _free_name(name, to)
        old_metadata = f"{stem}_metadata.json"
        text = _text(old_metadata, at)
        record = {"kind": KIND, **why, "metadata": text, "told_at": None}
        dirfd.write_durably(f"{chosen}.json", _encode(record), at=to)
        os.fsync(to)
        try:
            os.rename(f"{stem}.bin", f"{chosen}.bin", src_dir_fd=at, dst_dir_fd=to)
        except FileNotFoundError:
            pass  # the bytes are missing
        except OSError:
            os.unlink(f"{chosen}.json", dir_fd=to)
            raise
        os.fsync(to)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(old_metadata, dir_fd=at)
        os.fsync(at)
        return chosen


def untold(root: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the record of every quarantined block whose loss is not published.

    Raises:
        OSError: the quarantine cannot be read.
    """
    try:
        fd = dirfd.open_folder(QUARANTINE, at=root)
    except FileNotFoundError:
        return
    with dirfd.closing(fd):
        for name in dirfd.names_in(fd):
            if name.endswith(".json"):
                record = _record(name, fd)
                if record.get("kind") == KIND and record.get("told_at") is None:
                    yield name.removesuffix(".json"), record


def mark_told(root: int, name: str, at: float) -> None:
    """Record that the loss of the block *name* was published *at* seconds since 1970.

    Raises:
        OSError: it cannot be recorded.
    """
    with dirfd.closing(dirfd.open_folder(QUARANTINE, at=root)) as fd:
        record = _record(f"{name}.json", fd) | {"told_at": at}
        dirfd.write_durably(f"{name}.json", _encode(record), at=fd)
        os.fsync(fd)


def _free_name(name: str, at: int) -> str:
    taken = {os.path.splitext(entry)[0] for entry in dirfd.names_in(at)}  # noqa: PTH122 - no path
    for number in range(1, _MAX_NAMESAKES):
        chosen = name if number == 1 else f"{name}.again{number}"
        if chosen not in taken:
            return chosen
    message = f"{QUARANTINE}/ has {_MAX_NAMESAKES} blocks {name}: look at that disk"
    raise StoreError(message)


def _text(name: str, at: int) -> str | None:
    try:
        raw = dirfd.read_file(name, at=at, limit=metadata.MAX_METADATA_BYTES)
    except OSError:
        return None  # unreadable, which may be the reason for the move
    return None if raw is None else raw.decode("utf-8", "backslashreplace")


def _record(name: str, at: int) -> dict[str, Any]:
    try:
        found = json.loads(dirfd.read_file(name, at=at, limit=_MAX_RECORD_BYTES) or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _encode(record: dict[str, Any]) -> bytes:
    return json.dumps(record, indent=2, default=str).encode() + b"\n"
