"""Names from elsewhere: refused, or safe as folders; never a path as they are."""

import unicodedata

from pathlib import PurePosixPath

import pytest

from hypothesis import example, given
from hypothesis import strategies as st

from streamapp.errors import BlockMalformedError
from streamapp.protocol import filenames


REFUSED = [
    "",
    ".",
    "..",
    "/",
    "//",
    "/etc/passwd",
    "../../etc/passwd",
    "a/../../b",
    "a/..",
    "a/./b",
    "a//b",
    "a/",
    "./a",
    "\0",
    "a\0b",
    "a/b\0",
    "a/" * 32 + "a",
    "a" * 4097,
    "é" * 2049,
    "\ud800" * 1366,
]
ESCAPED = {
    "a\nb": ("a%0Ab",),
    "a\rb": ("a%0Db",),
    "\x1b[31mred": ("%1B[31mred",),
    "bell\x07": ("bell%07",),
    "del\x7f": ("del%7F",),
    "c1\x85": ("c1%C2%85",),
    "..\\..\\windows": ("..%5C..%5Cwindows",),
    "C:\\x": ("C:%5Cx",),
    "gpj.\u202eexe": ("gpj.%E2%80%AEexe",),
    "\u202aa\u202c": ("%E2%80%AAa%E2%80%AC",),
    "\u2066a\u2069": ("%E2%81%A6a%E2%81%A9",),
    "\u200ea": ("%E2%80%8Ea",),
    "\u200fa": ("%E2%80%8Fa",),
    "\u061ca": ("%D8%9Ca",),
    "a\u2028b\u2029": ("a%E2%80%A8b%E2%80%A9",),
    "\ufeffa": ("%EF%BB%BFa",),
    "\ud800": ("%ED%A0%80",),
    "\udcffa": ("%ED%B3%BFa",),
    "\uffff": ("%EF%BF%BF",),
    "\U0010ffff": ("%F4%8F%BF%BF",),
    "...": ("..%2E",),
    "....": ("...%2E",),
    "a.": ("a%2E",),
    "a ": ("a%20",),
    " ": ("%20",),
    "a./b /c": ("a%2E", "b%20", "c"),
    "\n\u0301": ("%0Á",),
    "e\u0301": ("é",),
    "\u212a": ("K",),
    "\ufb29": ("\ufb29",),
    "a/file.json": ("a", "%66ile.json"),
    "a/FILE.json": ("a", "%46ILE.json"),
    "a/file.json.part": ("a", "%66ile.json.part"),
    "a/block_0000.bin": ("a", "%62lock_0000.bin"),
    "a/block_0000.bin/x": ("a", "%62lock_0000.bin", "x"),
    "a/block_12345_metadata.json": ("a", "%62lock_12345_metadata.json"),
}
AS_THEY_ARE = [
    "a",
    "-rf",
    "~",
    "~root",
    ".bashrc",
    "..a",
    "a..b",
    "%2e%2e",
    "%00",
    "a b",
    " a",
    "12:30.log",
    "<img src=x onerror=alert(1)>",
    "'; DROP TABLE files; --",
    "$(reboot)",
    "`reboot`",
    "a|b&c;d",
    "*?[]",
    "con",
    "NUL",
    "файл/日本語/ﷺ",
    "👩‍👩‍👧",
    "file.json",
    "block_0000.bin",
    "a/block_1.csv",
    "a/" * 31 + "a",
    "a" * 240,
]
CUT = [
    "a" * 241,
    "é" * 121,
    "x" + "é" * 120,
    "😀" * 61,
    "ﷺ" * 81,
    "\x01" * 81,
    "\u0344" * 120,
    "a" * 4096,
]


def is_safe(part):
    """Return whether *part* is one folder below another one, on any system we know."""
    return (
        part not in {"", ".", ".."}
        and "/" not in part
        and "\\" not in part
        and all(len(name.encode()) <= 255 for name in filenames.with_suffixes(part, "0" * 32))
        and unicodedata.is_normalized("NFC", part)
        and not {unicodedata.category(c) for c in part} & {"Cc", "Cs", "Cn", "Zl", "Zp"}
        and not part.endswith((".", " "))
    )


def is_inside(parts):
    """Return whether the folders *parts* lie below the one they are put into."""
    path = PurePosixPath("/data").joinpath(*parts)
    return path.is_relative_to("/data") and len(path.parts) == 2 + len(parts)


def test_table_is_long():
    """The table of hostile names has at least sixty of them."""
    assert len({*REFUSED, *ESCAPED, *AS_THEY_ARE, *CUT}) >= 60


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    """A name that no producer of this project sends is refused, with a short message."""
    with pytest.raises(BlockMalformedError) as caught:
        filenames.folder_parts(name)

    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("name", ESCAPED)
def test_escaped(name):
    """Characters that a folder's name cannot have here are escaped, never dropped."""
    assert ESCAPED[name] == filenames.folder_parts(name)


@pytest.mark.parametrize("name", AS_THEY_ARE)
def test_kept(name):
    """A harmless name does not change, even if a shell or a browser would interpret it."""
    assert tuple(name.split("/")) == filenames.folder_parts(name)


@pytest.mark.parametrize("name", CUT)
def test_cut(name):
    """A name that is too long is cut between characters, and gets a digest of the whole name."""
    (part,) = filenames.folder_parts(name)
    (other,) = filenames.folder_parts(name[:-1] + "!")

    assert is_safe(part)
    assert part != other


@given(st.text(st.characters(exclude_categories=()), max_size=300))
@example("\x01\u0338/\x0a\u0301.")
@example("a/block_0000\u002ebin\n")
def test_any_text(text):
    """Any text is refused, or gives folders that are safe and lie inside, the same ones always."""
    try:
        parts = filenames.folder_parts(text)
    except BlockMalformedError:
        return

    assert text.count("/") + 1 == len(parts)
    assert [] == [part for part in parts if not is_safe(part)]
    assert is_inside(parts)
    assert parts == filenames.folder_parts(text)


@given(st.lists(st.text(st.characters(exclude_categories=()), min_size=1), min_size=1))
def test_what_travels_is_text(parts):
    """The published name of any file is Unicode that every JSON decoder accepts."""
    name = filenames.portable_name(tuple(parts))

    assert name == name.encode().decode()


def test_bytes_travel_as_hex():
    """A byte that is no UTF-8 on the producer's disk is written as ``%XX``."""
    assert "a%FF/b" == filenames.portable_name(("a\udcff", "b"))


def test_suffix():
    """If another file has the folder, the name gets as much of the file id as is needed."""
    file_id = "0123abcd" * 4

    assert ["a~0123abcd", "a~0123abcd0123abcd", f"a~{file_id}"] == filenames.with_suffixes(
        "a", file_id
    )


@pytest.mark.parametrize("part", ["a" * 240, "é" * 120, "a" + "é" * 119, "😀" * 60])
def test_suffix_of_a_long_name(part):
    """The short suffix fits behind every name; longer ones cut the name between characters."""
    short, *longer = filenames.with_suffixes(part, "0123abcd" * 4)

    assert f"{part}~0123abcd" == short
    assert [True, True] == [part.startswith(name.partition("~")[0]) for name in longer]
    assert all(is_safe(name.partition("~")[0]) and len(name.encode()) > 250 for name in longer)
