"""Compares a machine's acknowledgements with its disks."""

from pathlib import Path

import pytest

from streamapp.integrity import inventory
from streamapp.integrity.inventory import Differences
from streamapp.protocol.messages import BlockAck
from streamapp.store.metadata import FileManifest
from streamapp.store.walk import FileFolder


FILE = "a" * 32
HERE, THERE = "1" * 32, "2" * 32


def folder(*blocks, identity=HERE):
    """Return a file's folder with *blocks* of three."""
    file = FileManifest(
        file_id=FILE, name="f", size=30, blocks=3, block_size=10, mtime_ns=1, source="s"
    )
    return FileFolder(
        root=Path("/d"), folder=identity, parts=("f",), file=file, blocks=frozenset(blocks)
    )


def ack(block=0, *, machine="m", at=HERE, outcome="persisted", **changes):
    """Return an acknowledgement."""
    fields = {"group": "g", "sha256": "0" * 64} | changes
    return BlockAck(
        file_id=FILE, block=block, blocks=3, machine=machine, outcome=outcome, attempt=7,
        size=10, folder=at, **fields,
    )  # fmt: skip


def differences(disks, acks):
    """Return what is missing, and what is unacknowledged, by the blocks' numbers."""
    found = Differences(disks, group="g", machine="m")
    for one in acks:
        found.take(one)
    return sorted(n for _, n in found.missing), [n for _, n in found.unacknowledged()]


@pytest.mark.parametrize(
    ("acks", "missing", "unacknowledged"),
    [
        pytest.param([ack()], [], [], id="as it is said"),
        pytest.param([], [], [0], id="never acknowledged"),
        pytest.param([ack(at="")], [], [], id="of an older version"),
        pytest.param([ack(), ack(outcome="lost")], [], [0], id="lost, and here"),
        pytest.param([ack(), ack(outcome="rejected")], [], [], id="one attempt rejected"),
        pytest.param([ack(at=THERE)], [], [0], id="in a folder that is gone, and here"),
        pytest.param([ack(), ack(1)], [1], [], id="one is gone"),
        pytest.param([ack(), ack(1), ack(1, outcome="lost")], [], [], id="that was said"),
        pytest.param([ack(), ack(1), ack(1, machine="n", at=THERE)], [], [], id="others have it"),
        pytest.param([ack(), ack(1, machine="n", at=THERE)], [], [], id="others had it"),
        pytest.param([ack(), ack(1, at="")], [1], [], id="gone, of an older version"),
        pytest.param([ack(machine="n", at=THERE)], [], [], id="on two machines"),
        pytest.param([ack(machine="n")], [], [0], id="in the folder of another machine"),
        pytest.param([ack(), ack(1, group="h")], [], [], id="another group's"),
    ],
)
def test_differences(acks, missing, unacknowledged):
    """The newest acknowledgement of a block counts; a folder is known by its identity."""
    assert (missing, unacknowledged) == differences([folder(0)], acks)


def test_other_content_elsewhere():
    """What is gone here is missing though another machine stored another content since.

    The producer relies on the content that it has proven, and nobody else reports its loss.
    """
    gone = ack(1)
    other = ack(1, machine="n", at=THERE, sha256="1" * 64)
    assert ([1], [0]) == differences([folder(0)], [gone, other])
    lost = ack(1, outcome="lost")
    assert ([], [0]) == differences([folder(0)], [gone, other, lost, other])
    assert ([], [0]) == differences([folder(0)], [gone, other, ack(1, machine="n", at=THERE)])
    assert ([], [0]) == differences([folder(0, 1)], [gone, other])


def test_no_disk():
    """Of a machine without a disk all is missing that it is said to have, in whatever folder."""
    acks = [ack(0), ack(1, at=""), ack(2, machine="n")]
    assert ([0, 1], []) == differences([], acks)


def test_two_folders():
    """A block in another folder of the machine than the one that is said is not lost."""
    disks = [folder(0), folder(1, identity=THERE)]
    assert ([], [1]) == differences(disks, [ack(0), ack(1)])


def test_lost_takes_back_what_was_said():
    """The record that revokes an acknowledgement has its key, and says where the block was."""
    lost = inventory.as_lost(ack(), "gone")
    assert (ack().key, "lost", HERE, "gone") == (lost.key, lost.outcome, lost.folder, lost.reason)
