"""Damages disks (strace's injection, loop-mounted file systems), and checks them afterwards.

The check shares no code with the program: it reads metadata as JSON, and bytes with hashlib.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys

from pathlib import Path

import pytest

from tests.storage import child
from tests.waiting import wait_for


PACKAGES = {
    "strace": "strace",
    "xfs_io": "xfsprogs",
    "mkfs.xfs": "xfsprogs",
    "mkfs.ext4": "e2fsprogs",
    "losetup": "mount",
    "ip": "iproute2",
    "tc": "iproute2",
    "ss": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "curl": "curl",
}
IMAGE_MIB = 320  # mkfs.xfs refuses less than 300
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def need(*tools, what):
    """Skip the test, and say what is not proven, unless it is root's and the *tools* are there."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip(f"not proven without root: {what}")
    for tool in tools:
        if shutil.which(tool, path=PATH) is None:
            pytest.skip(f"not proven without {tool} (Debian: {PACKAGES[tool]}): {what}")


def run(*command, check=True, **how):
    """Run *command*, with the administrator's tools at hand."""
    return subprocess.run(
        command,
        check=check,
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": PATH},
        **how,
    )


def child_command(folder, first, count):
    """The command that keeps blocks in *folder*."""
    return [sys.executable, "-m", "tests.storage.child", str(folder), str(first), str(count)]


def keep(folder, first, count, *, under=()):
    """Keep blocks, with what is put in front of the command; return the ended process."""
    return run(*under, *child_command(folder, first, count), check=False)


def acknowledged(output):
    """The numbers of the blocks that were reported as persisted."""
    return [int(line) for line in output.splitlines() if line.strip().isdigit()]


def verify(folder, numbers):
    """Return what is wrong in *folder*, in which *numbers* were acknowledged."""
    wrong = []
    for path in sorted(Path(folder).rglob("block_*.bin")):
        meta = path.with_name(path.name.replace(".bin", "_metadata.json"))
        if not meta.exists():
            wrong.append(f"{path}: no metadata")
            continue
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if json.loads(meta.read_text())["sha256"] != found:
            wrong.append(f"{path}: another SHA-256")
    for number in numbers:
        _, block, meta = child.place(number)
        path = Path(folder) / meta.name / f"block_{block:04d}.bin"
        if not path.exists():
            wrong.append(f"block {number} was acknowledged and is not at {path}")
        elif path.read_bytes() != child.content(number):
            wrong.append(f"block {number} was acknowledged and is another at {path}")
    return wrong


@contextlib.contextmanager
def volume(kind, tmp_path):
    """A file system of its own on a loop device; yields it, unmounted at the end."""
    image = tmp_path / f"{kind}.img"
    with image.open("wb") as file:
        file.truncate(IMAGE_MIB << 20)
    run(f"mkfs.{kind}", "-q", *(("-F",) if kind == "ext4" else ()), str(image))
    mounted = Volume(image, tmp_path / f"{kind}-mount")
    mounted.path.mkdir()
    mounted.mount()
    try:
        yield mounted
    finally:
        mounted.unmount()
        image.unlink()


class Volume:
    """A mounted image whose power can be cut."""

    def __init__(self, image, path):
        self._image = image
        self.path = path
        self._is_mounted = False

    def mount(self):
        """Mount it; the journal is replayed."""
        run("mount", "-o", "loop", str(self._image), str(self.path))
        self._is_mounted = True

    def unmount(self):
        """Unmount it, and wait until nobody has it: it would come back with its power still cut.

        A process with mounts of its own (`ip netns exec` copies them) has it until it ends.
        """
        if self._is_mounted:
            wait_for(
                lambda: not run("umount", str(self.path), check=False).returncode,
                within=60,
                what=f"{self.path} to be unmounted",
            )
            self._is_mounted = False
            wait_for(
                lambda: not run("losetup", "-j", str(self._image)).stdout,
                within=120,
                what=f"the loop device of {self._image} to be let go",
            )

    def cut_power(self):
        """Cut the power: what is not on the disk now is gone."""
        run("xfs_io", "-x", "-c", "shutdown", str(self.path))

    def power_up(self):
        """Mount it again, as after a power cut."""
        self.unmount()
        self.mount()
