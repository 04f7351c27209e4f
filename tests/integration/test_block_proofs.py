"""The key of a producer: made once, whole, for its user alone."""

import os
import threading

import pytest

from streamapp.producer.block_proofs import KEY_BYTES, KEY_FILE, own_key


def test_made_once(tmp_path):
    """The first run makes the key, later ones have the same; nothing else lies beside it."""
    folder = tmp_path / "deep" / "state"
    key = own_key(folder)

    assert KEY_BYTES == len(key)
    assert key == own_key(folder)
    assert key != own_key(tmp_path / "other")
    assert [KEY_FILE] == [path.name for path in folder.iterdir()]
    assert 0o600 == (folder / KEY_FILE).stat().st_mode & 0o777


def test_made_by_many(tmp_path):
    """Producers that start together end with one key."""
    found = []
    threads = [threading.Thread(target=lambda: found.append(own_key(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 8 == len(found)
    assert 1 == len(set(found))


@pytest.mark.parametrize("content", [b"", b"short", bytes(KEY_BYTES + 1)])
def test_damaged(tmp_path, content):
    """What is no key is not taken for one, and not replaced: its owner decides."""
    (tmp_path / KEY_FILE).write_bytes(content)
    (tmp_path / KEY_FILE).chmod(0o600)
    with pytest.raises(OSError, match=r"producer\.key has \d+ bytes"):
        own_key(tmp_path)

    assert content == (tmp_path / KEY_FILE).read_bytes()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
def test_open_to_others(tmp_path, mode):
    """A key that other users can read or write is refused: they could make proofs."""
    own_key(tmp_path)
    (tmp_path / KEY_FILE).chmod(mode)
    with pytest.raises(OSError, match=rf"producer\.key has mode 0{mode:o}, expected 0600"):
        own_key(tmp_path)


def test_somebody_elses(tmp_path, monkeypatch):
    """Nor does a key that somebody else put there."""
    own_key(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    monkeypatch.setattr(os, "fstat", _owned_by(os.getuid() + 2))
    with pytest.raises(OSError, match=r"producer\.key belongs to user \d+"):
        own_key(tmp_path)


def _owned_by(user):
    real = os.fstat

    def fstat(fd):
        found = list(real(fd))
        found[4] = user
        return os.stat_result(found)

    return fstat


def test_no_file(tmp_path):
    """What is no file is not waited for: nobody ever writes to a pipe that lies there."""
    os.mkfifo(tmp_path / KEY_FILE)
    with pytest.raises(OSError, match=r"producer\.key is no file"):
        own_key(tmp_path)


def test_endless(tmp_path):
    """Of a file that is too long no more is read than shows it."""
    path = tmp_path / KEY_FILE
    path.touch(mode=0o600)
    os.truncate(path, 1 << 40)
    with pytest.raises(OSError, match=r"producer\.key has 1099511627776 bytes"):
        own_key(tmp_path)
