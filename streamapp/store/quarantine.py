"""Keeps bad blocks under ``quarantine/`` of their data folder: moved, never deleted.

Beside the bytes stands why, what the metadata said, and the acknowledgements that take the
block back. Those stay on record as untold until Kafka has them: a worker that dies between the
move and the word must not leave a block that is acknowledged and nowhere.
"""

from __future__ import annotations

import contextlib
import json
import os

from typing import TYPE_CHECKING, Any, Final

from streamapp.errors import StoreError
from streamapp.store import folders, metadata


if TYPE_CHECKING:
    from collections.abc import Iterator

QUARANTINE: Final = "quarantine"
KIND: Final = "lost block"
_MAX_RECORD_BYTES: Final = 1 << 20
_MAX_NAMESAKES: Final = 10_000


def move(root: int, parts: tuple[str, ...], stem: str, name: str, why: dict[str, Any]) -> str:
    """Move the block *stem* of the folder *parts* to ``quarantine/``; return its name there.

    *why* stands first and is durable before anything moves; then the bytes go, then their
    metadata, so that what is left after a crash at any point is found again.

    Raises:
        OSError: it cannot be moved; the block is where it was.
        StoreError: there are too many of that name.
    """
    with (
        folders.closing(folders.open_folder(QUARANTINE, at=root, create=True)) as to,
        folders.closing(folders.open_path(parts, at=root)) as at,
    ):
        chosen = _free_name(name, to)
        old_metadata = f"{stem}_metadata.json"
        text = _text(old_metadata, at)
        record = {"kind": KIND, **why, "metadata": text, "told_at": None}
        folders.write_durably(f"{chosen}.json", _encode(record), at=to)
        os.fsync(to)
        try:
            os.rename(f"{stem}.bin", f"{chosen}.bin", src_dir_fd=at, dst_dir_fd=to)
        except FileNotFoundError:
            pass  # the bytes are what is missing
        except OSError:
            os.unlink(f"{chosen}.json", dir_fd=to)
            raise
        os.fsync(to)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(old_metadata, dir_fd=at)
        os.fsync(at)
        return chosen


def untold(root: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the record of every block that was moved, and nobody was told.

    Raises:
        OSError: the quarantine cannot be read.
    """
    try:
        fd = folders.open_folder(QUARANTINE, at=root)
    except FileNotFoundError:
        return
    with folders.closing(fd):
        for name in folders.names_in(fd):
            if name.endswith(".json"):
                record = _record(name, fd)
                if record.get("kind") == KIND and record.get("told_at") is None:
                    yield name.removesuffix(".json"), record


def mark_told(root: int, name: str, at: float) -> None:
    """Note that Kafka has the acknowledgements of the block *name*, *at* seconds since 1970.

    Raises:
        OSError: it cannot be noted.
    """
    with folders.closing(folders.open_folder(QUARANTINE, at=root)) as fd:
        record = _record(f"{name}.json", fd) | {"told_at": at}
        folders.write_durably(f"{name}.json", _encode(record), at=fd)
        os.fsync(fd)


def _free_name(name: str, at: int) -> str:
    taken = {os.path.splitext(entry)[0] for entry in folders.names_in(at)}  # noqa: PTH122 - no path
    for number in range(1, _MAX_NAMESAKES):
        chosen = name if number == 1 else f"{name}.again{number}"
        if chosen not in taken:
            return chosen
    message = f"{QUARANTINE}/ has {_MAX_NAMESAKES} blocks {name}: look at that disk"
    raise StoreError(message)


def _text(name: str, at: int) -> str | None:
    try:
        raw = folders.read_file(name, at=at, limit=metadata.MAX_METADATA_BYTES)
    except OSError:
        return None  # unreadable, which may be why it is moved
    return None if raw is None else raw.decode("utf-8", "backslashreplace")


def _record(name: str, at: int) -> dict[str, Any]:
    try:
        found = json.loads(folders.read_file(name, at=at, limit=_MAX_RECORD_BYTES) or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _encode(record: dict[str, Any]) -> bytes:
    return json.dumps(record, indent=2, default=str).encode() + b"\n"
