"""Makes the demo's files: about 1 GiB of typical files and edge cases."""

from __future__ import annotations

import os
import random

from typing import TYPE_CHECKING, Final

from streamapp.settings import Settings
from streamapp.units import KIB, MIB


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCK: Final[int] = Settings.model_fields["block_size"].default
CHUNK: Final = 4 * MIB
CSV_BYTES: Final = 256 * MIB
RANDOM_BYTES: Final = 512 * MIB


def make(folder: Path) -> Path:
    """Write the files below *folder* and return it."""
    _write(folder / "logs" / "2026" / "sensor readings.csv", _csv(CSV_BYTES))
    _write(folder / "images" / "disk.img", _random(RANDOM_BYTES))
    _write(folder / "edges" / "empty", iter(()))
    _write(folder / "edges" / "one byte", iter((b"!",)))
    _write(folder / "edges" / "exactly one block.bin", _random(BLOCK))
    _write(folder / "edges" / "one block and a byte.bin", _random(BLOCK + 1))
    _write(folder / "Müller & Søn" / "報告書 résumé.txt", _csv(64 * KIB))
    return folder


def _write(path: Path, chunks: Iterator[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)


def _random(size: int) -> Iterator[bytes]:
    for start in range(0, size, CHUNK):
        yield os.urandom(min(CHUNK, size - start))


def _csv(size: int) -> Iterator[bytes]:
    """Yield *size* bytes of sensor readings: one page of lines, repeated with new dates."""
    made = random.Random(2026)  # noqa: S311 - readings, no secrets
    rows = [
        f"{made.randrange(86400):05d},sensor-{made.randrange(500):03d},{made.gauss(20, 5):.3f},ok\n"
        for _ in range(4000)
    ]
    written = 0
    for day in range(1_000_000):
        page = "".join(f"{day:06d},{row}" for row in rows).encode()[: size - written]
        written += len(page)
        yield page
        if written == size:
            return
