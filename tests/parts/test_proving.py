"""The key of a producer: made once, whole, for its user alone."""

import threading

import pytest

from streamapp.producer.proving import KEY_BYTES, KEY_FILE, own_key


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
    with pytest.raises(OSError, match=r"producer\.key has \d+ bytes"):
        own_key(tmp_path)

    assert content == (tmp_path / KEY_FILE).read_bytes()
