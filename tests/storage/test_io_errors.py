"""A disk that fails or is full: no block is reported wrongly, and work resumes afterwards."""

import re
import subprocess

import pytest

from tests.storage import damage


BLOCKS = 6
CREATED = re.compile(r"openat\(.*O_CREAT.*\) = (?P<fd>\d+)")
SYNCED = re.compile(r"fsync\((?P<fd>\d+)\) += (?P<result>-?\d+)")
CLOSED = re.compile(r"close\((?P<fd>\d+)\) += 0")


def under_strace(inject, log):
    """Strace with an injection, and with what opens, syncs and closes files in *log*."""
    calls = "trace=fsync,openat,close,pwrite64"
    return ("strace", "-f", "-qq", "-o", str(log), "-e", calls, "-e", inject)


def syncs_of_failed(log):
    """How often an fsync was tried on a file's descriptor whose fsync had failed before.

    A folder's fsync may be tried again: its names were undone meanwhile, and made anew.
    """
    files, failed, tried = set(), set(), 0
    for line in log.read_text().splitlines():
        if match := CREATED.search(line):
            files.add(match["fd"])
        elif match := CLOSED.search(line):
            failed.discard(match["fd"])
            files.discard(match["fd"])
        elif (match := SYNCED.search(line)) and match["fd"] in files:
            tried += match["fd"] in failed
            if match["result"] == "-1":
                failed.add(match["fd"])
    return tried


@pytest.mark.root
@pytest.mark.parametrize("when", range(1, 11))
def test_fsync_fails(tmp_path, when):
    """After a failed fsync the file is written anew: never synced again, never said too early."""
    damage.need("strace", what="that a failed fsync is never taken for a good one")
    log = tmp_path / "strace.log"
    inject = f"inject=fsync:error=EIO:when={when}"
    hurt = damage.keep(tmp_path / "data", 0, BLOCKS, under=under_strace(inject, log))

    assert list(range(BLOCKS)) == damage.acknowledged(hurt.stdout), hurt.stderr
    assert [] == damage.verify(tmp_path / "data", range(BLOCKS))
    assert [] == list((tmp_path / "data").rglob("*.part"))
    assert 0 == syncs_of_failed(log)
    assert 1 == log.read_text().count("EIO (Input/output error) (INJECTED)")


@pytest.mark.root
@pytest.mark.parametrize(("error", "when"), [("EIO", 1), ("EIO", 5), ("ENOSPC", 2), ("EDQUOT", 9)])
def test_write_fails(tmp_path, error, when):
    """A write that fails once is made again; the block is whole."""
    damage.need("strace", what="that a failed write tears nothing")
    inject = f"inject=pwrite64:error={error}:when={when}"
    under = under_strace(inject, tmp_path / "strace.log")
    hurt = damage.keep(tmp_path / "data", 0, BLOCKS, under=under)

    assert list(range(BLOCKS)) == damage.acknowledged(hurt.stdout), hurt.stderr
    assert [] == damage.verify(tmp_path / "data", range(BLOCKS))
    assert "INJECTED" in (tmp_path / "strace.log").read_text()


@pytest.mark.root
def test_disk_is_full(tmp_path):
    """A full disk pauses the work; when space is free it resumes, and no block is partial."""
    damage.need(what="that a full disk only holds the work")
    mount = tmp_path / "small"
    mount.mkdir()
    damage.run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount))
    process = None
    try:
        process = subprocess.Popen(
            damage.child_command(mount / "data", 0, 20),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        first = process.stderr.readline()  # the injector works: it is full
        damage.run("mount", "-o", "remount,size=16m", str(mount))
        said, _ = process.communicate(timeout=60)

        assert "disk full" in first or "No space left" in first
        assert list(range(20)) == damage.acknowledged(said)
        assert [] == damage.verify(mount / "data", range(20))
    finally:
        if process is not None:
            process.kill()
            process.wait()
        damage.run("umount", str(mount))


@pytest.mark.root
def test_file_size_limit(tmp_path):
    """A limit on the size of files (EFBIG) counts as no room: held, never torn or said."""
    damage.need(what="that a file size limit tears nothing")
    command = damage.child_command(tmp_path / "data", 0, 1)
    limited = damage.run("sh", "-c", 'ulimit -f 64; exec "$@"', "sh", *command, check=False)

    assert [] == damage.acknowledged(limited.stdout)
    assert 0 != limited.returncode
    assert "File too large" in limited.stderr
    assert [] == damage.verify(tmp_path / "data", [])


def test_checker_sees_damage(tmp_path):
    """The check finds damage: a flipped bit, a lost block, lost metadata."""
    kept = damage.keep(tmp_path / "data", 0, BLOCKS)
    blocks = sorted((tmp_path / "data").rglob("block_*.bin"))
    raw = bytearray(blocks[0].read_bytes())
    raw[7] ^= 1
    blocks[0].write_bytes(raw)
    blocks[1].unlink()
    blocks[2].with_name(blocks[2].name.replace(".bin", "_metadata.json")).unlink()
    wrong = damage.verify(tmp_path / "data", damage.acknowledged(kept.stdout))

    assert {str(path) for path in blocks[:3]} == {
        path for line in wrong for path in map(str, blocks[:3]) if path in line
    }
