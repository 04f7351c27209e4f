"""Past the page cache or through it: what is in the file is what was written, in every case."""

import errno
import fcntl
import os

import pytest

from streamapp.errors import StoreError, StoreFullError
from streamapp.store import direct_io
from streamapp.store.direct_io import PAGE_BYTES, PIECE_BYTES
from tests.frames import FILE_ID, meta_of
from tests.integration.blocks import block_file


DATA = os.urandom(3 * PIECE_BYTES + PAGE_BYTES + 17)


@pytest.fixture
def writes(monkeypatch):
    """Every write as (bytes, whether it went past the cache); `refuse` may fail it first."""

    class Writes(list):
        refuse = staticmethod(lambda _fd, data: len(data))

    seen = Writes()
    pwrite = os.pwrite

    def watched(fd, data, offset):
        data = data[: seen.refuse(fd, data)]
        count = pwrite(fd, data, offset)
        seen.append((count, is_direct(fd)))
        return count

    monkeypatch.setattr(os, "pwrite", watched)
    return seen


def is_direct(fd):
    """Return whether what is written to *fd* goes past the cache."""
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT)


def kept(root, *pieces):
    """Keep a block that comes in *pieces*; return what its file has then."""
    data = b"".join(pieces)
    writer, offset = root.begin(FILE_ID, 0, meta_of(len(data))), 0
    for piece in pieces:
        writer.write(piece, offset=offset)
        offset += len(piece)
    writer.commit(block_file(data))
    return (root.path / "a/b.csv/block_0000.bin").read_bytes()


def needs_direct(path):
    """Skip where the file system of *path* cannot do what the test is about."""
    fd = os.open(path / "probe", os.O_WRONLY | os.O_CREAT)
    try:
        if not direct_io.begin(fd):
            pytest.skip("no O_DIRECT here: not proven that whole pages go past the cache")
    finally:
        os.close(fd)


def test_whole_pages_go_past_the_cache(root, writes, tmp_path):
    """Whole pages bypass the page cache; the end of the block does not."""
    needs_direct(tmp_path)

    assert kept(root, DATA[:PIECE_BYTES], DATA[PIECE_BYTES:]) == DATA
    block = [(PIECE_BYTES, True)] * 3 + [(PAGE_BYTES, True), (17, False)]
    assert block == writes[1 : 1 + len(block)]  # behind file.json


@pytest.mark.parametrize("size", [1, 17, PAGE_BYTES - 1, PAGE_BYTES + 1, 3 * PAGE_BYTES, 250_000])
def test_pieces(root, size):
    """In pieces of any size, whole pages or not."""
    data = DATA[: 40 * size]

    assert data == kept(root, *(data[at : at + size] for at in range(0, len(data), size)))


def test_no_bytes(root):
    """A piece without bytes changes nothing."""
    assert DATA[:PAGE_BYTES] == kept(root, b"", DATA[:PAGE_BYTES], b"")


def test_file_system_that_cannot(root, writes, monkeypatch):
    """If a file cannot be written past the page cache, all bytes go through it."""
    monkeypatch.setattr(direct_io, "begin", lambda _fd: False)

    assert kept(root, DATA) == DATA
    assert not any(past for _, past in writes)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP])
def test_disk_with_larger_pages(root, writes, code):
    """A disk that refuses such a write, at any time, gets the rest through the cache."""

    def refuse(fd, data):
        if is_direct(fd) and any(past for _, past in writes):
            raise OSError(code, "no")
        return len(data)

    writes.refuse = refuse

    assert kept(root, DATA) == DATA
    assert sum(past for _, past in writes) <= 1


@pytest.mark.parametrize("limit", [PAGE_BYTES, 512, 3 * PAGE_BYTES + 512])
def test_short_writes(root, writes, limit):
    """The disk may take less than it was given, also no whole pages."""
    writes.refuse = lambda fd, data: min(len(data), limit) if is_direct(fd) else len(data)

    assert kept(root, DATA) == DATA


@pytest.mark.parametrize(
    ("code", "error"), [(errno.ENOSPC, StoreFullError), (errno.EIO, StoreError)]
)
@pytest.mark.parametrize("nth", [0, 1, 4])
def test_failure_is_repeated(root, writes, code, error, nth):
    """A write that failed anywhere is repeated from its beginning."""
    calls = 0

    def refuse(_fd, data):
        nonlocal calls
        calls += 1
        if calls == nth + 1:
            raise OSError(code, os.strerror(code))
        return len(data)

    writer = root.begin(FILE_ID, 0, meta_of(len(DATA)))
    writes.refuse = refuse

    with pytest.raises(error):
        writer.write(DATA, offset=0)
    writer.write(DATA, offset=0)
    writer.commit(block_file(DATA))
    assert (root.path / "a/b.csv/block_0000.bin").read_bytes() == DATA


@pytest.mark.parametrize("data", [DATA, DATA[: 2 * PIECE_BYTES]], ids=["tail", "pages"])
def test_fsync_that_fails(root, monkeypatch, data):
    """After a failed fsync all bytes are copied, past the page cache or not."""
    fsync, calls = os.fsync, []

    def failing(fd):
        calls.append(fd)
        if len(calls) == 1:
            raise OSError(errno.EIO, "fsync")
        fsync(fd)

    writer = root.begin(FILE_ID, 0, meta_of(len(data)))
    writer.write(data, offset=0)
    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StoreError):
        writer.commit(block_file(data))
    writer.commit(block_file(data))

    assert data == (root.path / "a/b.csv/block_0000.bin").read_bytes()
