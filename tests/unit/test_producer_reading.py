"""Reading a block, and noticing that its file is not what it was."""

import os
import sys

import pytest

from hypothesis import given
from hypothesis import strategies as st

from streamapp.errors import SourceChangedError
from streamapp.producer import reading
from streamapp.producer.scan import Source


@pytest.fixture
def path(tmp_path):
    """A file of 100 bytes."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    return path


def source_of(path):
    """The file as `scan` would find it now."""
    found = path.stat()
    return Source("file", found.st_size, found.st_mtime_ns, "0" * 32)


@given(start=st.integers(0, 100), length=st.integers(0, 100), size=st.integers(1, 120))
def test_pieces(tmp_path_factory, start, length, size):
    """The pieces are the bytes asked for, none larger than allowed, none empty but an only one."""
    path = tmp_path_factory.getbasetemp() / "pieces"
    if not path.exists():
        path.write_bytes(bytes(range(100)))
    length = min(length, 100 - start)
    pieces = list(reading.chunks(str(path), source_of(path), (start, length), size))

    assert bytes(range(start, start + length)) == b"".join(pieces)
    assert max(map(len, pieces)) <= size
    assert [b""] == pieces or all(pieces)


def _grow(path):
    with path.open("ab") as file:
        file.write(b"more")


def _touch(path):
    os.utime(path, ns=(1, 1))


def _shorten(path):
    os.truncate(path, 50)


def _replace(path):
    """Another file of the same size and time takes its place."""
    other, found = path.with_suffix(".new"), path.stat()
    other.write_bytes(bytes(100))
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    other.replace(path)


def _remove(path):
    path.unlink()


CHANGES = [_grow, _touch, _shorten]
if sys.platform != "win32":  # where an open file can neither be replaced nor removed
    CHANGES += [_replace, _remove]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("read_before", [0, 1, 9])
def test_changed(path, change, read_before):
    """A change is noticed before the last piece is given out, whenever it happens."""
    pieces = reading.chunks(str(path), source_of(path), (0, 100), 10)
    got = [next(pieces) for _ in range(read_before)]
    change(path)
    if (change, read_before) == (_replace, 0):
        assert 10 == len(list(pieces))  # nobody has looked at the first one
        return

    with pytest.raises((SourceChangedError, FileNotFoundError)):
        got.extend(pieces)
    assert len(got) < 10


@pytest.mark.parametrize("change", [_grow, _touch, _shorten])
def test_changed_before(path, change):
    """Of a file that changed since it was found nothing is given out."""
    source = source_of(path)
    change(path)

    with pytest.raises(SourceChangedError):
        next(reading.chunks(str(path), source, (0, 100), 10))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes among files")
def test_pipe_in_its_place(path):
    """A pipe that took the file's place does not hold the reader."""
    source = source_of(path)
    path.unlink()
    os.mkfifo(path)

    with pytest.raises(SourceChangedError):
        next(reading.chunks(str(path), source, (0, 100), 10))


def test_reads_that_give_less():
    """A file system may give less than was asked for: that is no end."""

    class Slow:
        def __init__(self, data):
            self.data = data

        def read(self, size):
            piece, self.data = self.data[: min(size, 3)], self.data[min(size, 3) :]
            return piece

    assert b"abcdefgh" == reading._read(Slow(b"abcdefghij"), 8)
    with pytest.raises(SourceChangedError):
        reading._read(Slow(b"abcde"), 8)
