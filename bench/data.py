"""What is sent: random bytes, and log lines as a web server writes them."""

from __future__ import annotations

import os
import random
import string

from typing import TYPE_CHECKING, Final

from streamapp.units import GIB, MIB


if TYPE_CHECKING:
    from pathlib import Path


_PIECE: Final = 4 * MIB
_TEXT_BYTES: Final = 64 * MIB

DELIMITER: Final = "\f"
"""Ends a record in a payload file: log lines have line feeds in them."""


def random_files(folder: Path, size: int) -> Path:
    """Write *size* random bytes into files of at most 1 GiB; return their folder."""
    folder.mkdir(parents=True)
    for number, start in enumerate(range(0, size, GIB)):
        _write_random(folder / f"random-{number}.bin", min(GIB, size - start))
    return folder


def log_files(folder: Path, size: int) -> Path:
    """Write a log of *size* bytes; return its folder.

    The same 64 MiB come again and again, which no frame of 1 MiB can notice.
    """
    folder.mkdir(parents=True)
    text = log_text(_TEXT_BYTES)
    with (folder / "access.log").open("wb") as file:
        for start in range(0, size, len(text)):
            file.write(text[: size - start])
    return folder


def log_text(size: int) -> bytes:
    """Return *size* bytes of log lines: time, level, host, path, status, bytes, time, request."""
    chance = random.Random(2026)  # noqa: S311 - readings, no secrets
    lines: list[bytes] = []
    length = second = 0
    while length < size:
        second += chance.random() < 0.02
        line = (
            f"2026-11-{1 + second // 86400 % 30:02d}T{second // 3600 % 24:02d}:"
            f"{second // 60 % 60:02d}:{second % 60:02d}.{chance.randrange(1000):03d}Z "
            f"{chance.choice(('INFO', 'INFO', 'INFO', 'WARN', 'ERROR'))} "
            f"web-{chance.randrange(40):02d} GET /api/v1/sensors/{chance.randrange(5000)}/readings "
            f"status={chance.choice((200, 200, 200, 304, 404, 500))} "
            f"bytes={chance.randrange(200, 60000)} ms={chance.expovariate(0.02):.1f} "
            f"request={chance.getrandbits(64):016x}\n"
        ).encode()
        lines.append(line)
        length += len(line)
    return b"".join(lines)[:size]


def payload_file(path: Path, records: int, record_size: int) -> Path:
    """Write *records* records of random letters for the perf test to choose from; return *path*."""
    chance = random.Random(2026)  # noqa: S311 - no secrets
    letters = (string.ascii_letters + string.digits + "+/").encode()
    with path.open("wb") as file:
        for _ in range(records):
            piece = chance.randbytes(record_size).translate(letters * 4)
            file.write(piece + DELIMITER.encode())
    return path


def text_payload_file(path: Path, record_size: int) -> Path:
    """Write the log as records for the perf test to choose from; return *path*."""
    text = log_text(_TEXT_BYTES)
    pieces = [text[at : at + record_size] for at in range(0, len(text), record_size)]
    path.write_bytes(DELIMITER.encode().join(pieces))
    return path


def one_file(folder: Path, size: int) -> Path:
    """Write one file of *size* random bytes; return its folder."""
    folder.mkdir(parents=True)
    _write_random(folder / "large.bin", size)
    return folder


def _write_random(path: Path, size: int) -> None:
    with path.open("wb") as file:
        while size:
            size -= file.write(os.urandom(min(_PIECE, size)))
