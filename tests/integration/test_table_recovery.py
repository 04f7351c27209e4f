"""The tables' databases on disk: which cannot be used, and what is wiped."""

import json
import os
import subprocess
import sys

import pytest

from rocksdict import Options, Rdict

from streamapp.errors import StoreBusyError
from streamapp.worker import table_recovery


IDS = {"g-files-changelog": "id-1", "g-block_map-changelog": "id-2"}
ENDS = {"files-0": 100, "files-1": 0, "block_map-0": 7}
ROWS = 3000


@pytest.fixture
def folder(tmp_path):
    """A worker's tables: a table file, rows in the log that are in no table file yet, the mark."""
    database = tmp_path / "v1" / "tables" / "files-0.db"
    database.mkdir(parents=True)
    opened = Rdict(str(database), options=Options(raw_mode=True))
    for number in range(ROWS):
        opened[b"%06d" % number] = os.urandom(50)
    opened.flush()
    opened[table_recovery.OFFSET_KEY] = b"99"
    opened.close()
    (tmp_path / table_recovery.MARK).write_text(json.dumps(IDS))
    return tmp_path


def why(folder, ids=IDS, ends=ENDS):
    """Why the tables in *folder* cannot be used."""
    return table_recovery._why_unusable(folder, ids, ends)


def only(folder, pattern):
    """The largest file of the database that has such a name."""
    return max(folder.glob(f"v1/tables/files-0.db/{pattern}"), key=lambda path: path.stat().st_size)


def flip(path, place):
    """Flip the bits of one byte at *place*, a share of the file."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 0xFF
    path.write_bytes(data)


def test_usable(folder):
    """Intact databases of these topics are not wiped, however often they are checked."""
    assert ["", ""] == [why(folder), why(folder)]


def test_nothing_there(tmp_path):
    """A new worker has nothing, and nothing to wipe."""
    assert "" == why(tmp_path)


DAMAGES = {
    "SST cut": lambda folder: os.truncate(only(folder, "*.sst"), 1000),
    "SST gone": lambda folder: only(folder, "*.sst").unlink(),
    "SST flipped early": lambda folder: flip(only(folder, "*.sst"), 0.1),
    "SST flipped in the middle": lambda folder: flip(only(folder, "*.sst"), 0.5),
    "MANIFEST flipped": lambda folder: flip(only(folder, "MANIFEST-*"), 0.5),
    "MANIFEST cut": lambda folder: os.truncate(only(folder, "MANIFEST-*"), 20),
    "MANIFEST gone": lambda folder: only(folder, "MANIFEST-*").unlink(),
    "CURRENT empty": lambda folder: os.truncate(only(folder, "CURRENT"), 0),
    "CURRENT gone": lambda folder: only(folder, "CURRENT").unlink(),
    "CURRENT wrong": lambda folder: only(folder, "CURRENT").write_text("MANIFEST-999999\n"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged(folder, damage):
    """Every damage is seen, also one that RocksDB itself would pass over in silence."""
    DAMAGES[damage](folder)

    assert "files-0.db is damaged" in why(folder)


CRASH = """
import os, sys
from rocksdict import Options, Rdict
opened = Rdict(sys.argv[1], options=Options(raw_mode=True))
for number in range(10):
    opened[b"row"] = opened[b"__faust\\0offset__"] = b"%d" % number
os._exit(0)
"""


@pytest.mark.parametrize("cut", [0, 3, 60, 200])
def test_log_cut(tmp_path, cut):
    """If a database's log is cut, offset and rows still agree: Kafka has the rest."""
    database = tmp_path / "v1" / "tables" / "files-0.db"
    database.mkdir(parents=True)
    (tmp_path / table_recovery.MARK).write_text(json.dumps(IDS))
    subprocess.run([sys.executable, "-c", CRASH, database], check=True, timeout=60)
    log = only(tmp_path, "*.log")
    os.truncate(log, log.stat().st_size - cut)
    assert "" == why(tmp_path)

    opened = Rdict(str(database), options=Options(raw_mode=True))
    try:
        row, offset = int(opened[b"row"]), int(opened[table_recovery.OFFSET_KEY])
    finally:
        opened.close()
    assert row - offset in {0, 1}  # the row is written first
    assert (offset == 9) == (cut == 0)


@pytest.mark.parametrize("end", [100, 99, 50])
def test_offset_beyond_the_end(folder, end):
    """A database that has more than its changelog is not of it: Faust would refuse it for ever."""
    assert (end == 100) == (not why(folder, ends=ENDS | {"files-0": end}))


def test_other_topics(folder):
    """Databases of topics that were deleted and made anew are not used."""
    assert "topics that are no more" in why(folder, ids=IDS | {"g-files-changelog": "id-9"})


@pytest.mark.parametrize("mark", [None, "", "{torn"])
def test_unknown_topics(folder, mark):
    """Databases of unknown topics are not used."""
    path = folder / table_recovery.MARK
    path.unlink() if mark is None else path.write_text(mark)

    assert "not known" in why(folder)


def test_wipe(folder):
    """A wipe removes the databases and their marks, and no other file."""
    others = [folder / "scrub.json", folder / "v1" / "x", folder / "photos" / "tables" / "a.jpg"]
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    table_recovery.ask_for_wipe(folder)
    assert "could not recover" in why(folder)

    table_recovery.wipe(folder)

    assert "" == why(folder)
    assert sorted(others) == sorted(path for path in folder.rglob("*") if path.is_file())


def test_ask_for_wipe_of_nothing(tmp_path):
    """A process that ends does not fail at what it cannot write."""
    table_recovery.ask_for_wipe(tmp_path / "missing")

    assert [] == list(tmp_path.iterdir())


HOLD = """
import sys
from rocksdict import Options, Rdict
opened = Rdict(sys.argv[1], options=Options(raw_mode=True))
print("open", flush=True)
sys.stdin.read()
"""


def test_open_elsewhere(folder):
    """Tables that another worker has open are not damaged: they are left alone, and it is said."""
    database = folder / "v1" / "tables" / "files-0.db"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, database], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert b"open\n" == other.stdout.readline()
        with pytest.raises(StoreBusyError, match="--state-dir"):
            why(folder)
        other.stdin.close()

    assert "" == why(folder)
