"""What is found below a folder, and what is said of the rest."""

import os
import socket
import sys

from pathlib import Path

import pytest

from streamapp import manifest
from streamapp.errors import SourceError
from streamapp.producer import scan
from streamapp.producer.scan import Problem, Source


def found(folder, block_size=1 << 20):
    """Everything that `scan` yields, by name."""
    return {f.name: f for f in scan.scan(folder, machine="m", block_size=block_size)}


def problems(folder, **how):
    """What cannot be sent, and why."""
    return {n: f.reason for n, f in found(folder, **how).items() if isinstance(f, Problem)}


def test_order(tmp_path):
    """Files come sorted by name within each folder, whatever the file system gives."""
    for name in ("b", "a/z", "a/c/x", "a.txt", "Z", "ä"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")

    assert ["Z", "a/c/x", "a/z", "a.txt", "b", "ä"] == list(found(tmp_path))


def test_identity(tmp_path):
    """A file's id is that of its name, size and time, in any folder."""
    (tmp_path / "deep").mkdir()
    path = tmp_path / "deep" / "file"
    path.write_bytes(b"12345")
    os.utime(path, ns=(1, 99))
    file_id = manifest.file_id(
        source="m", name="deep/file", size=5, mtime_ns=99, block_size=1 << 20
    )

    assert {
        "deep/file": Source(str(Path("deep/file")), 5, 99, file_id, path.stat().st_ctime_ns)
    } == found(tmp_path)


def test_links(tmp_path):
    """A link to a file is sent as a file; other links are reported and not followed."""
    (tmp_path / "real").write_bytes(b"12345")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "circle").symlink_to(".")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "itself").symlink_to("itself")

    assert 5 == found(tmp_path)["link"].size
    assert {"broken", "circle", "itself"} == set(problems(tmp_path))
    assert "a link to nothing" == problems(tmp_path)["broken"]
    assert "a link to a folder, which is not followed" == problems(tmp_path)["circle"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_no_files(tmp_path, monkeypatch):
    """Sockets, pipes and devices are reported, not opened."""
    monkeypatch.chdir(tmp_path)  # a socket's path may only have 100 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        os.mkfifo("pipe")
        (tmp_path / "device").symlink_to("/dev/null")

        assert {
            "socket": "a socket, not a file",
            "pipe": "a pipe, not a file",
            "device": "a character device, not a file",
        } == problems(tmp_path)


def test_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    """It is reported, and the rest goes on. Root can list every folder: the error is made."""
    (tmp_path / "closed").mkdir()
    (tmp_path / "file").write_bytes(b"")
    listdir = os.listdir

    def deny(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", deny)

    assert {"closed": "permission denied"} == problems(tmp_path)
    assert isinstance(found(tmp_path)["file"], Source)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems only have names in Unicode")
def test_name_that_is_no_text(tmp_path):
    """Bytes that are no UTF-8 travel as %XX; what else would have that name has another id."""
    (tmp_path / os.fsdecode(b"gr\xfcn")).write_bytes(b"")
    (tmp_path / "gr%FCn").write_bytes(b"")
    sources = list(scan.scan(tmp_path, machine="m", block_size=1))

    assert ["gr%FCn", "gr%FCn"] == [source.name for source in sources]
    assert 2 == len({source.file_id for source in sources})
    assert all((tmp_path / source.relative).is_file() for source in sources)


def test_half_a_character(tmp_path, monkeypatch):
    """A name with half a character, which Windows allows, is reported."""
    monkeypatch.setattr(os, "listdir", lambda _: ["\ud800"])
    monkeypatch.setattr(os, "lstat", lambda _: os.stat_result((0o100644, *[0] * 9)))

    assert ["a name that is no text"] == list(problems(tmp_path).values())


def test_too_many_blocks(tmp_path):
    """A file of more blocks than any worker takes is reported, with what mends it."""
    with (tmp_path / "big").open("wb") as file:
        file.truncate((1 << 20) + 1)

    assert "raise --block-size" in problems(tmp_path, block_size=1)["big"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such paths")
def test_name_that_no_worker_takes(tmp_path, monkeypatch):
    """A path too deep for any worker is reported here already."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "/".join(["d"] * 130)).mkdir(parents=True)
    (tmp_path / "/".join(["d"] * 130) / "file").write_bytes(b"")

    assert ["too deep"] == [reason[-8:] for reason in problems(tmp_path).values()]


@pytest.mark.parametrize(("name", "reason"), [("missing", "does not exist"), ("file", "no folder")])
def test_data_folder(tmp_path, name, reason):
    """What is no folder is refused in one line that names it."""
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(SourceError, match=reason):
        scan.check_folder(tmp_path / name)


def test_data_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    """So is one that may not be read."""

    def deny(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", deny)

    with pytest.raises(SourceError, match="cannot be read: Permission denied"):
        scan.check_folder(tmp_path)
