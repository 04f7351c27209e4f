"""A process that dies at any system call of the write path leaves nothing torn, loses nothing."""

import signal

import pytest

from tests.storage import damage


BLOCKS = 6
POINTS = {
    "pwrite64": (1, 2, 3, 5, 7, 9, 12, 20),
    "fsync": (1, 2, 3, 4, 5, 9, 11, 14),
    "rename,renameat,renameat2": (1, 2, 3, 4, 5, 6, 7, 8),
    "mkdir,mkdirat": (1, 2, 3, 4),
    "unlinkat,unlink": (1, 2, 3),
    "ftruncate": (1,),
}
ALL = [(calls, when) for calls, points in POINTS.items() for when in points]
NAMES = [f"{calls.split(',')[0]}-{when}" for calls, when in ALL]


@pytest.mark.root
@pytest.mark.parametrize(("calls", "when"), ALL, ids=NAMES)
def test_killed(tmp_path, calls, when):
    """Killed just before a system call takes effect: all that was said is there, all is whole."""
    damage.need("strace", what="that a kill in the write path tears and loses nothing")
    inject = f"inject={calls}:signal=KILL:when={when}"
    under = ("strace", "-f", "-qq", "-e", f"trace={calls}", "-e", inject)
    hurt = damage.keep(tmp_path / "data", 0, BLOCKS, under=under)
    said = damage.acknowledged(hurt.stdout)

    assert [] == damage.verify(tmp_path / "data", said)

    again = damage.keep(tmp_path / "data", 0, BLOCKS)

    assert list(range(BLOCKS)) == damage.acknowledged(again.stdout), again.stderr
    assert [] == damage.verify(tmp_path / "data", range(BLOCKS))
    assert [] == list((tmp_path / "data").rglob("*.part"))
    assert hurt.returncode in {-signal.SIGKILL, 128 + signal.SIGKILL}  # the point was met


@pytest.mark.root
def test_kill_points_are_met(tmp_path):
    """The injector kills: at the first fsync nothing can have been said."""
    damage.need("strace", what="that the injector of kill points works")
    under = ("strace", "-f", "-qq", "-e", "trace=fsync", "-e", "inject=fsync:signal=KILL:when=1")
    hurt = damage.keep(tmp_path / "data", 0, BLOCKS, under=under)

    assert hurt.returncode in {-signal.SIGKILL, 128 + signal.SIGKILL}
    assert [] == damage.acknowledged(hurt.stdout)
