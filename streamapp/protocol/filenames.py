"""File names from elsewhere, made safe to be folders here.

Pure code. A name is data that a stranger sent: it never becomes a path as it is. What no
producer of ours sends (``..``, absolute paths, NUL, empty components) is refused; what is
an honest name elsewhere but none here (control characters, bidirectional overrides, dots and
spaces at the end, the store's own names, more than 255 bytes) is escaped, never dropped.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

from typing import Final

from streamapp.errors import BlockMalformedError


MAX_NAME_BYTES: Final = 4096
"""The longest relative path, in UTF-8 bytes: Linux's PATH_MAX."""

MAX_COMPONENT_BYTES: Final = 240
"""The longest folder name: 255 is the file systems' limit, ``~<8 hex digits>`` may follow."""

MAX_COMPONENTS: Final = 32
"""The most parts of a name: each may cost a folder, an inode and an fsync, for a few bytes."""

_MAX_FOLDER_BYTES: Final = 255
_SUFFIX_DIGITS: Final = (8, 16, 32)

# Characters that change how a name is shown or parsed: bidirectional controls (a name that
# reads backwards), separators of other systems, and the byte order mark.
_ESCAPED: Final = frozenset("\\\u061c\u200e\u200f\u2028\u2029\ufeff") | {
    chr(c) for span in ((0x202A, 0x202F), (0x2066, 0x206A)) for c in range(*span)
}

_ESCAPED_BYTE: Final = re.compile(r"%([89A-F][0-9A-F])")

# What the store writes beside the blocks. Below the first folder such a name could be wanted
# in the folder of another file, and whichever came second could never be stored.
_OURS: Final = re.compile(r"file\.json|block_[0-9]{4,}(?:\.bin|_metadata\.json)", re.IGNORECASE)


def portable_name(parts: tuple[str, ...]) -> str:
    """Return the relative path *parts* as it travels: ``/`` between them, valid Unicode.

    Bytes that are no UTF-8 on the producer's disk (lone surrogates in Python) are written
    as ``%XX``. Two names that become one this way still have two file ids.
    """
    name = "/".join(parts)
    return (
        "".join(f"%{ord(c) - 0xDC00:02X}" if "\udc80" <= c <= "\udcff" else c for c in name)
        .encode("utf-8", "replace")
        .decode()
    )


def raw_name(parts: tuple[str, ...]) -> bytes:
    """Return the bytes of the relative path *parts* where its portable name is another one.

    They travel beside the portable name, because the file id is the digest of these bytes.
    Empty when the portable name is the path.
    """
    path = "/".join(parts)
    return b"" if path == portable_name(parts) else path.encode("utf-8", "surrogateescape")


def original_names(name: str, raw: bytes) -> tuple[str, ...]:
    """Return the paths, as Python gives them, that may travel as *name* with the bytes *raw*.

    There is one, or none where *raw* has another portable name. Older producers sent no *raw*:
    without it every ``%XX`` may stand for a byte that is no UTF-8.
    """
    if raw:
        path = raw.decode("utf-8", "surrogateescape")
        return (path,) if portable_name((path,)) == name else ()
    unescaped = _ESCAPED_BYTE.sub(lambda found: chr(0xDC00 + int(found[1], 16)), name)
    return (name,) if unescaped == name else (name, unescaped)


def folder_parts(name: str) -> tuple[str, ...]:
    """Return the folders, outermost first, that the file *name* gets below the data folder.

    Raises:
        BlockMalformedError: no producer of ours sends such a name.
    """
    if not name or len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        message = f"a name of {len(name)} characters, expected 1 to {MAX_NAME_BYTES} bytes"
        raise BlockMalformedError(message)
    parts = name.split("/")
    if len(parts) > MAX_COMPONENTS:
        message = (
            f"the name {name[:200]!r} has {len(parts)} parts, expected at most {MAX_COMPONENTS}: "
            "move the file up, or send a folder further down"
        )
        raise BlockMalformedError(message)
    if any(p in {"", ".", ".."} or "\0" in p for p in parts):
        message = (
            f"the name {name[:200]!r} is no relative path inside a folder: "
            "empty, '.', '..', absolute or NUL"
        )
        raise BlockMalformedError(message)
    return tuple(_component(part, below=bool(depth)) for depth, part in enumerate(parts))


def with_suffixes(component: str, file_id: str) -> list[str]:
    """Return *component* made unique by *file_id*, for a folder that another file has.

    Each is longer than the one before it, which another file may have as well.
    """
    return [cut(component, f"~{file_id[:digits]}") for digits in _SUFFIX_DIGITS]


def cut(component: str, suffix: str) -> str:
    """Return *component* and *suffix*, the component cut until both are a folder's name."""
    kept = component.encode()[: _MAX_FOLDER_BYTES - len(suffix)].decode("utf-8", "ignore")
    return f"{kept}{suffix}"


def printable(text: str) -> str:
    """Return *text* with everything that a terminal would obey made visible."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _component(part: str, *, below: bool) -> str:
    safe = "".join(_escape(c) if _is_unsafe(c) else c for c in unicodedata.normalize("NFC", part))
    # Once more: an accent behind an escaped character joins the escape's last letter.
    safe = unicodedata.normalize("NFC", safe)
    if safe[-1] in ". ":  # other file systems drop it, and two names become one
        safe = safe[:-1] + _escape(safe[-1])
    if below and _OURS.match(safe):
        safe = _escape(safe[0]) + safe[1:]
    encoded = safe.encode()
    if len(encoded) <= MAX_COMPONENT_BYTES:
        return safe
    digest = hashlib.sha256(encoded).hexdigest()[:16]
    kept = encoded[: MAX_COMPONENT_BYTES - len(digest) - 1].decode("utf-8", "ignore")
    return f"{kept}~{digest}"


def _is_unsafe(character: str) -> bool:
    return unicodedata.category(character) in {"Cc", "Cs", "Cn"} or character in _ESCAPED


def _escape(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
