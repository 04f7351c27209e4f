"""What was acknowledged is there after the power went, on ext4 and on xfs."""

import os
import random
import subprocess
import sys

import pytest

from tests.storage import damage


CUTS = 3
MANY_CUTS = 20
LONGEST_RUN = 40  # blocks that are acknowledged before the power goes, at most
WHAT = "that acknowledged blocks survive a power cut"


def cut_while_keeping(volume, first, after):
    """Keep blocks from *first* on and cut the power when *after* are acknowledged."""
    process = subprocess.Popen(
        damage.child_command(volume.path / "data", first, 10_000),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        said = [int(process.stdout.readline()) for _ in range(after)]
        volume.cut_power()
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    return said + damage.acknowledged(rest)


def check_cuts(kind, tmp_path, cuts):
    """Cut the power *cuts* times, each at a random moment; the seed is shown when it fails."""
    damage.need("xfs_io", f"mkfs.{kind}", what=WHAT)
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)  # noqa: S311 - a moment, no secret
    kept = []
    with damage.volume(kind, tmp_path) as volume:
        for cut in range(cuts):
            first = len(kept)
            kept += cut_while_keeping(volume, first, chance.randrange(1, LONGEST_RUN))
            volume.power_up()

            assert [] == damage.verify(volume.path / "data", kept), f"seed {seed}, cut {cut}"

        again = damage.keep(volume.path / "data", 0, len(kept) + 1)

        assert list(range(len(kept) + 1)) == damage.acknowledged(again.stdout), again.stderr
        assert [] == damage.verify(volume.path / "data", range(len(kept) + 1)), f"seed {seed}"
        assert [] == list((volume.path / "data").rglob("*.part"))
    sys.stdout.write(f"{kind}: {cuts} cuts, {len(kept)} acknowledged, 0 lost, seed {seed}\n")


@pytest.mark.root
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_power_loss(kind, tmp_path):
    """A few power cuts at random moments lose nothing that was acknowledged."""
    check_cuts(kind, tmp_path, CUTS)


@pytest.mark.root
@pytest.mark.long
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_many_power_losses(kind, tmp_path):
    """Twenty power cuts at random moments lose nothing that was acknowledged."""
    check_cuts(kind, tmp_path, MANY_CUTS)


@pytest.mark.root
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_power_cut_is_one(kind, tmp_path):
    """The injector cuts: what was not synced is gone, what was synced is there."""
    damage.need("xfs_io", f"mkfs.{kind}", what="that the injector of power cuts works")
    with damage.volume(kind, tmp_path) as volume:
        for name, is_synced in (("synced", True), ("unsynced", False)):
            fd = os.open(volume.path / name, os.O_CREAT | os.O_WRONLY)
            os.write(fd, b"bytes")
            if is_synced:
                os.fsync(fd)
                os.sync()
            os.close(fd)
        volume.cut_power()
        volume.power_up()

        assert b"bytes" == (volume.path / "synced").read_bytes()
        assert not (volume.path / "unsynced").exists() or (
            b"bytes" != (volume.path / "unsynced").read_bytes()
        )
