"""Which files the scan finds, and how it reports other entries."""

import os
import socket
import sys

from pathlib import Path

import msgspec
import pytest

from streamapp.errors import SourceError
from streamapp.producer.sources import directory, scan
from streamapp.producer.sources.directory import Directory
from streamapp.producer.sources.scan import Problem, SourceFile
from streamapp.protocol import fileplan
from streamapp.settings import Settings
from streamapp.store import placement


@pytest.fixture(autouse=True, params=["descriptors", "paths"])
def _way(request, monkeypatch):
    """Every rule holds where folders are opened by descriptor, and where they cannot be."""
    monkeypatch.setattr(directory, "HAS_DESCRIPTORS", request.param == "descriptors")


def found(folder, block_size=1 << 20, **how):
    """Everything that `scan` yields, by name."""
    return {f.name: f for f in scan.scan(folder, machine="m", block_size=block_size, **how)}


def problems(folder, **how):
    """The entries that cannot be sent, and why."""
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
    file_id = fileplan.file_id(
        source="m", name="deep/file", size=5, mtime_ns=99, block_size=1 << 20
    )

    seen = path.stat()
    source = SourceFile(
        str(Path("deep/file")),
        5,
        99,
        file_id,
        seen.st_ctime_ns,
        device=seen.st_dev,
        inode=seen.st_ino,
        is_fresh=True,
    )

    assert {"deep/file": source} == found(tmp_path)
    assert source.is_same(seen)


@pytest.mark.parametrize("field", ["device", "inode", "size", "mtime_ns", "ctime_ns"])
def test_another_file(tmp_path, field):
    """A file that differs from the scan in any of these fields is another file."""
    (tmp_path / "file").write_bytes(b"12345")
    source = found(tmp_path)["file"]
    other = msgspec.structs.replace(source, **{field: getattr(source, field) + 1})

    assert not other.is_same((tmp_path / "file").stat())


@pytest.mark.parametrize(
    ("age", "expected"), [(-(10**12), True), (0, True), (scan.FRESH_NS, False), (10**12, False)]
)
def test_fresh(tmp_path, age, expected):
    """A file is fresh while another change of it might leave the same times, on any clock."""
    (tmp_path / "file").write_bytes(b"12345")
    os.utime(tmp_path / "file")
    seen = (tmp_path / "file").stat()

    assert expected == scan.is_fresh(seen, now_ns=seen.st_ctime_ns + age)


def test_links(tmp_path):
    """A link to a file inside is sent as a file; others are listed and not followed."""
    (tmp_path / "real").write_bytes(b"12345")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "deep").symlink_to("../link")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "absolute").symlink_to(tmp_path / "folder" / ".." / "real")
    (tmp_path / "circle").symlink_to(".")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "itself").symlink_to("itself")
    (tmp_path / "through").symlink_to("real/nothing")
    sources = {n: f for n, f in found(tmp_path).items() if isinstance(f, SourceFile)}

    assert {"real", "folder/deep", "link", "absolute"} == set(sources)
    assert {(5, "real")} == {(f.size, f.place) for n, f in sources.items() if n != "real"}
    assert {
        "broken": "a link to nothing",
        "circle": "a link to a folder, which is not followed",
        "itself": "a link to nothing",
        "through": "a link to nothing",
    } == problems(tmp_path)
    assert all(f.is_special for f in found(tmp_path).values() if isinstance(f, Problem))
    assert not any(
        f.is_special for f in found(tmp_path, special="fail").values() if isinstance(f, Problem)
    )


def test_links_out_of_the_folder(tmp_path):
    """A link to a file outside is sent only on request; it is a failure unless it is passed by."""
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret").write_bytes(b"12345")
    (tmp_path / "inside-too").mkdir()  # its name begins as the folder's
    (tmp_path / "inside-too" / "file").write_bytes(b"123")
    (inside / "up").symlink_to("../secret")
    (inside / "beside").symlink_to(tmp_path / "inside-too" / "file")

    for links, is_special in [("fail", False), ("skip", True)]:
        outcome = found(inside, links=links)
        assert {"up": is_special, "beside": is_special} == {
            name: problem.is_special for name, problem in outcome.items()
        }
        assert all("a link out of the data folder" in f.reason for f in outcome.values())
    assert "--links follow" in problems(inside)["up"]

    followed = found(inside, links="follow")
    assert {"up": 5, "beside": 3} == {name: f.size for name, f in followed.items()}
    assert str((tmp_path / "secret").resolve()) == followed["up"].place


def test_data_folder_that_is_a_link(tmp_path):
    """The data folder itself may be a link; what lies in it is inside."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_bytes(b"1")
    (tmp_path / "real" / "link").symlink_to("file")
    (tmp_path / "data").symlink_to("real")

    assert {"file": 1, "link": 1} == {n: f.size for n, f in found(tmp_path / "data").items()}


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_workers_folder(tmp_path, depth):
    """A worker's data folder below the data folder is refused: what is stored would be sent."""
    root = Settings(machine_id="w", data_dir=[tmp_path / "deeper"]).data_roots[0]
    folders = [tmp_path, root.parent, root]
    root.mkdir(parents=True)
    (root / "file").write_bytes(b"1")
    assert 1 == len(found(folders[depth]))

    (root / placement.LOCK).touch()
    with pytest.raises(SourceError, match="would be sent again"):
        found(folders[depth])


def test_folder_that_becomes_a_link(tmp_path, monkeypatch):
    """A folder that is replaced by a link while it is found is reported, and is not entered."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"1")
    (tmp_path / "data" / "folder").mkdir(parents=True)
    enter = Directory.enter

    def swap(self, name):
        (tmp_path / "data" / "folder").rename(tmp_path / "moved")
        (tmp_path / "data" / "folder").symlink_to(tmp_path / "outside")
        return enter(self, name)

    monkeypatch.setattr(Directory, "enter", swap)

    assert ["folder"] == list(problems(tmp_path / "data"))
    assert {"folder"} == set(found(tmp_path / "data"))


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
        assert all(f.is_special for f in found(tmp_path).values())
        assert not any(f.is_special for f in found(tmp_path, special="fail").values())


def test_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    """It is reported, and the scan continues. Root can list every folder: the error is made."""
    (tmp_path / "closed").mkdir()
    (tmp_path / "file").write_bytes(b"")
    names = Directory.names

    def deny(self):
        if self.path.endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return names(self)

    monkeypatch.setattr(Directory, "names", deny)

    assert {"closed": "permission denied"} == problems(tmp_path)
    assert isinstance(found(tmp_path)["file"], SourceFile)


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
    monkeypatch.setattr(Directory, "names", lambda _: ["\ud800"])
    monkeypatch.setattr(Directory, "look", lambda *_: os.stat_result((0o100644, *[0] * 9)))

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
    (tmp_path / "/".join(["d"] * 32)).mkdir(parents=True)
    (tmp_path / "/".join(["d"] * 32) / "file").write_bytes(b"")
    (tmp_path / "/".join(["d"] * 31) / "file").write_bytes(b"")

    (reason,) = problems(tmp_path).values()
    assert "has 33 parts, expected at most 32" in reason


@pytest.mark.parametrize(("name", "reason"), [("missing", "does not exist"), ("file", "no folder")])
def test_data_folder(tmp_path, name, reason):
    """A path that is no folder is refused in one line that names it."""
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(SourceError, match=reason):
        scan.check_folder(tmp_path / name)


def test_data_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    """A folder that may not be read is refused in one line as well."""

    def deny(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", deny)

    with pytest.raises(SourceError, match="cannot be read: Permission denied"):
        scan.check_folder(tmp_path)
