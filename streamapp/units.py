"""Sizes, durations and rates as people write and read them.

Pure code. ``8MiB``, ``1GB`` or plain bytes are parsed; sizes are formatted in binary units.
"""

from __future__ import annotations

import math
import re

from typing import Final

from streamapp.errors import SettingsError


KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30

SIZE_WORDS: Final = "bytes, or a number with KiB, MiB, GiB, TiB, KB, MB, GB or TB"
"""How a size is written; for error messages."""

_FACTORS: Final[dict[str, int]] = {
    "": 1,
    "B": 1,
    **{f"{p}B": 1000**n for n, p in enumerate("KMGTP", start=1)},
    **{f"{p}IB": 1024**n for n, p in enumerate("KMGTP", start=1)},
}
_SIZE: Final = re.compile(r"\s*([0-9]{1,18})(\.[0-9]{1,9})?\s*([A-Za-z]*)\s*")
_MINUTE: Final = 60
_HOUR: Final = 3600


def parse_size(text: str | int) -> int:
    """Return *text* (``8MiB``, ``1GB``, ``1.5 GiB`` or bytes) in bytes.

    Raises:
        SettingsError: *text* is not a size.
    """
    found = _SIZE.fullmatch(str(text))
    factor = _FACTORS.get(found[3].upper(), 0) if found else 0
    if not found or not factor or (found[2] and factor == 1):
        raise SettingsError(f"{text!r:.100} is no size: write {SIZE_WORDS}")
    return int(found[1]) * factor + round(float(found[2] or 0) * factor)


def parse_rate(text: str | int) -> int:
    """Return *text* (``20MiB/s``, or a size alone) in bytes per second.

    Raises:
        SettingsError: *text* is not a rate.
    """
    return parse_size(str(text).removesuffix("/s"))


def counted(number: int, noun: str) -> str:
    """Return *number* with the singular *noun*: ``1 file``, ``2 files``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def format_size(size: float) -> str:
    """Return *size* bytes in the largest binary unit in which the value is at least 1."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        digits = 0 if unit == "B" else 1
        if abs(round(value, digits)) < KIB:
            return f"{value:.{digits}f} {unit}"
        value /= KIB
    return f"{value:.1f} PiB"


def exact_size(size: int) -> str:
    """Return *size* bytes as text that `parse_size` reads exactly: ``128MiB``, or a bare number."""
    for unit, factor in (("TiB", 1 << 40), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def format_rate(bytes_per_second: float) -> str:
    """Return *bytes_per_second* as text, as in ``4.2 MiB/s``."""
    return f"{format_size(bytes_per_second)}/s"


def format_duration(seconds: float) -> str:
    """Return *seconds* as ``4.2 s``, ``3 min 07 s`` or ``2 h 05 min``; "unknown" if infinite."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    if seconds < _HOUR:
        return f"{int(seconds // _MINUTE)} min {int(seconds % _MINUTE):02d} s"
    return f"{int(seconds // _HOUR)} h {int(seconds % _HOUR // _MINUTE):02d} min"
