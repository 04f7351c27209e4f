"""Reading a block, and noticing that its file is not what it was."""

import contextlib
import os
import sys

import pytest

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamapp.errors import SourceChangedError
from streamapp.producer.sources import directory, reader, scan
from streamapp.producer.sources.directory import Directory


@pytest.fixture(autouse=True, params=["descriptors", "paths"])
def _way(request, monkeypatch):
    """Every rule holds where folders are opened by descriptor, and where they cannot be."""
    monkeypatch.setattr(directory, "HAS_DESCRIPTORS", request.param == "descriptors")


@pytest.fixture
def path(tmp_path):
    """A file of 100 bytes."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    return path


def source_of(path, **how):
    """The file as `scan` finds it now."""
    found = scan.scan(path.parent, machine="m", block_size=1 << 20, **how)
    return next(source for source in found if source.name == path.name)


def read(path, source, size=10):
    """Return the pieces of the whole of *source*, which lies below the folder of *path*."""
    return reader.chunks(path.parent, source, (0, source.size), size)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 100), length=st.integers(0, 100), size=st.integers(1, 120))
def test_pieces(tmp_path_factory, start, length, size):
    """The pieces are the bytes asked for, none larger than allowed, none empty but an only one."""
    path = tmp_path_factory.getbasetemp() / "pieces" / "file"
    if not path.exists():
        path.parent.mkdir()
        path.write_bytes(bytes(range(100)))
    length = min(length, 100 - start)
    pieces = list(reader.chunks(path.parent, source_of(path), (start, length), size))

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
    """Another file of the same size and time replaces it."""
    other, found = path.with_suffix(".new"), path.stat()
    other.write_bytes(bytes(100))
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    other.replace(path)


def _remove(path):
    path.unlink()


def _rewrite(path):
    """Other bytes, the same size, and the old modification time again."""
    found = path.stat()
    while path.stat().st_ctime_ns == found.st_ctime_ns:  # the clock of a file system ticks slowly
        path.write_bytes(bytes(100))
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


CHANGES = [_grow, _touch, _shorten]
if sys.platform != "win32":  # where an open file can neither be replaced nor removed
    CHANGES += [_replace, _remove, _rewrite]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("read_before", [0, 1, 9])
def test_changed(path, change, read_before):
    """A change is noticed before the last piece is given out, whenever it happens."""
    pieces = read(path, source_of(path))
    got = [next(pieces) for _ in range(read_before)]
    change(path)

    with pytest.raises(SourceChangedError):
        got.extend(pieces)
    assert len(got) < 10


@pytest.mark.parametrize("change", [_grow, _touch, _shorten])
def test_changed_before(path, change):
    """Of a file that changed since it was found nothing is given out."""
    source = source_of(path)
    change(path)

    with pytest.raises(SourceChangedError):
        next(read(path, source))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes among files")
def test_pipe_in_its_place(path):
    """A pipe that replaced the file does not block the reader."""
    source = source_of(path)
    path.unlink()
    os.mkfifo(path)

    with pytest.raises(SourceChangedError):
        next(read(path, source))


def _swap_folder(folder, outside):
    """A link to another folder replaces *folder*."""
    folder.rename(folder.with_name("moved"))
    folder.symlink_to(outside)


def twins(tmp_path):
    """Make two files of equal size and time, one in the data folder and one outside of it."""
    for name in ("data/folder", "outside"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_bytes(name.encode().ljust(100))
        os.utime(tmp_path / name / "file", ns=(1, 99))
    (source,) = scan.scan(tmp_path / "data", machine="m", block_size=1 << 20)
    return source


def test_folder_is_replaced_by_a_link(tmp_path):
    """A link out of the folder replaced a folder between the scan and the reading."""
    source = twins(tmp_path)
    _swap_folder(tmp_path / "data" / "folder", tmp_path / "outside")

    with pytest.raises(SourceChangedError, match="was replaced"):
        next(reader.chunks(tmp_path / "data", source, (0, 100), 10))


def test_data_folder_is_replaced_by_a_link(tmp_path):
    """A replaced data folder is noticed as well: its path leads to another file."""
    source = twins(tmp_path)
    (tmp_path / "outside" / "folder").mkdir()
    (tmp_path / "outside" / "file").rename(tmp_path / "outside" / "folder" / "file")
    _swap_folder(tmp_path / "data", tmp_path / "outside")

    with pytest.raises(SourceChangedError, match="another file"):
        next(reader.chunks(tmp_path / "data", source, (0, 100), 10))


@pytest.mark.parametrize("step", ["look", "open"])
def test_file_is_replaced_at_the_last_moment(tmp_path, monkeypatch, step):
    """The file is replaced by another of equal size and time just before each step."""
    source = twins(tmp_path)
    original = getattr(Directory, step)

    def swap(self, name):
        with contextlib.suppress(FileNotFoundError):  # the second time
            (tmp_path / "outside" / "file").replace(tmp_path / "data" / "folder" / "file")
        return original(self, name)

    monkeypatch.setattr(Directory, step, swap)

    with pytest.raises(SourceChangedError, match="another file"):
        next(reader.chunks(tmp_path / "data", source, (0, 100), 10))


def test_folder_is_moved_while_it_is_read(tmp_path):
    """The open file is the one that was found, even if the folder's path leads elsewhere now."""
    source = twins(tmp_path)
    pieces = reader.chunks(tmp_path / "data", source, (0, 100), 10)
    first = next(pieces)
    _swap_folder(tmp_path / "data" / "folder", tmp_path / "outside")

    if directory.HAS_DESCRIPTORS:
        assert b"data/folder".ljust(100) == first + b"".join(pieces)
    else:  # the path is used again, and another file is there
        with pytest.raises(SourceChangedError, match="another file"):
            list(pieces)


def test_link_is_replaced(tmp_path):
    """A link's file is read where it lay when it was found, and another one is not."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "real").write_bytes(b"1234567890")
    (tmp_path / "secret").write_bytes(b"0987654321")
    for path in (data / "real", tmp_path / "secret"):
        os.utime(path, ns=(1, 99))
    (data / "link").symlink_to("real")
    source = source_of(data / "link")
    (data / "link").unlink()
    (data / "link").symlink_to(tmp_path / "secret")

    assert b"1234567890" == b"".join(read(data / "link", source))

    (data / "real").unlink()
    (data / "real").symlink_to(tmp_path / "secret")
    with pytest.raises(SourceChangedError):
        next(read(data / "link", source))


def test_link_out_of_the_folder(tmp_path):
    """A link that was to be followed is read where it led."""
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "file").write_bytes(b"1234567890")
    (data / "link").symlink_to("../file")
    source = source_of(data / "link", links="follow")

    assert b"1234567890" == b"".join(read(data / "link", source))

    _replace(tmp_path / "file")
    with pytest.raises(SourceChangedError):
        next(read(data / "link", source))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not list descriptors so")
def test_no_descriptor_is_left(path):
    """In every case, all descriptors are closed."""
    source = source_of(path)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    list(read(path, source))
    _touch(path)
    with pytest.raises(SourceChangedError):
        next(read(path, source))
    path.unlink()
    with pytest.raises(SourceChangedError):
        next(read(path, source))

    assert before == len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_reads_that_give_less():
    """A file system may give less than was asked for: that is no end."""

    class Slow:
        def __init__(self, data):
            self.data = data

        def read(self, size):
            piece, self.data = self.data[: min(size, 3)], self.data[min(size, 3) :]
            return piece

    assert b"abcdefgh" == reader._read(Slow(b"abcdefghij"), 8)
    with pytest.raises(SourceChangedError):
        reader._read(Slow(b"abcde"), 8)
