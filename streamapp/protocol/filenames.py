"""Turns file names of unknown producers into safe folder names.

Pure code. Names that no producer sends (``..``, absolute paths, NUL, empty components) are
refused. Names that are valid elsewhere but not here (control characters, bidirectional
overrides, trailing dots and spaces, the store's own names, more than 255 bytes) are escaped.
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
"""The longest folder name: file systems allow 255, and ``~<8 hex digits>`` may be appended."""

MAX_COMPONENTS: Final = 32
"""Components of a name at most: each costs a folder, an inode and an fsync."""

_MAX_FOLDER_BYTES: Final = 255
_SUFFIX_DIGITS: Final = (8, 16, 32)

# These characters change how a name is shown or parsed: bidirectional controls, separators of
# other systems, and the byte order mark.
_ESCAPED: Final = frozenset("\\\u061c\u200e\u200f\u2028\u2029\ufeff") | {
    chr(c) for span in ((0x202A, 0x202F), (0x2066, 0x206A)) for c in range(*span)
}

_ESCAPED_BYTE: Final = re.compile(r"%([89A-F][0-9A-F])")

# Names of the store's own files. Below the first level, a folder of that name could be needed
# inside another file's folder, and one of the two files could never be stored.
_OURS: Final = re.compile(r"file\.json|block_[0-9]{4,}(?:\.bin|_metadata\.json)", re.IGNORECASE)


def portable_name(parts: tuple[str, ...]) -> str:
    """Return the relative path *parts* as it is sent: joined by ``/``, valid Unicode.

    Bytes that are no UTF-8 on the producer's disk (lone surrogates in Python) are written
    as ``%XX``. Two names that become equal this way still have different file ids.
    """
    name = "/".join(parts)
    return (
        "".join(f"%{ord(c) - 0xDC00:02X}" if "\udc80" <= c <= "\udcff" else c for c in name)
        .encode("utf-8", "replace")
        .decode()
    )


def raw_name(parts: tuple[str, ...]) -> bytes:
    """Return the bytes of the relative path *parts* if its portable name differs, else no bytes.

    They are sent beside the portable name, because the file id is the digest of these bytes.
    """
    path = "/".join(parts)
    return b"" if path == portable_name(parts) else path.encode("utf-8", "surrogateescape")


def original_names(name: str, raw: bytes) -> tuple[str, ...]:
    """Return the paths, as Python gives them, that may be sent as *name* with the bytes *raw*.

    There is one, or none if *raw* has another portable name. Older producers send no *raw*;
    then every ``%XX`` may stand for a byte that is not UTF-8.
    """
    if raw:
        path = raw.decode("utf-8", "surrogateescape")
        return (path,) if portable_name((path,)) == name else ()
    unescaped = _ESCAPED_BYTE.sub(lambda found: chr(0xDC00 + int(found[1], 16)), name)
    return (name,) if unescaped == name else (name, unescaped)


def folder_parts(name: str) -> tuple[str, ...]:
    """Return the folders, outermost first, for the file *name* below the data folder.

    Raises:
        BlockMalformedError: no producer sends such a name.
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
    """Return variants of *component* with ever longer parts of *file_id* appended.

    The next one is used when another file has the folder.
    """
    return [cut(component, f"~{file_id[:digits]}") for digits in _SUFFIX_DIGITS]


def cut(component: str, suffix: str) -> str:
    """Return *component* with *suffix*, the component truncated to the limit of a folder name."""
    kept = component.encode()[: _MAX_FOLDER_BYTES - len(suffix)].decode("utf-8", "ignore")
    return f"{kept}{suffix}"


def printable(text: str) -> str:
    """Return *text* with control characters escaped, so that a terminal does not obey them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _component(part: str, *, below: bool) -> str:
    safe = "".join(_escape(c) if _is_unsafe(c) else c for c in unicodedata.normalize("NFC", part))
    # Again: an accent after an escaped character combines with the escape's last letter.
    safe = unicodedata.normalize("NFC", safe)
    if safe[-1] in ". ":  # other file systems remove it, and two names become equal
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
