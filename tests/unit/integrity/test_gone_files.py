"""Which files are ended that can never be complete, and which never."""

import msgspec
import pytest

from streamapp.integrity.gone_files import GoneFiles
from streamapp.protocol.messages import FileStatus
from tests.frames import FILE_ID
from tests.unit.rows import ack_of


STATUS = FileStatus(
    file_id=FILE_ID, state="announced", name="a", size=30, blocks=3, block_size=10, source="s"
)


def found(*acks, at_source=(), **said):
    """Return the ids that are ended, of a file of which *said* is the newest status."""
    gone = GoneFiles("s", set(at_source), group="g")
    gone.take_status(FILE_ID, STATUS)
    gone.take_status(FILE_ID, msgspec.structs.replace(STATUS, **said))
    for ack in acks:
        gone.take(ack)
    return [status.file_id for status in gone.found()]


def acks(*outcomes, group="g", first=0):
    """Return acknowledgements of the file's blocks, from block *first* on."""
    return [
        msgspec.structs.replace(ack_of(number, outcome, blocks=3), group=group)
        for number, outcome in enumerate(outcomes, first)
    ]


@pytest.mark.parametrize("state", ["announced", "sent", "complete", "failed", "changed"])
def test_is_ended(state):
    """A file that its source no longer has, of which a block is missing, whatever was said."""
    whole = acks("persisted", "persisted", "persisted")

    assert [FILE_ID] == found(state=state)
    assert [FILE_ID] == found(*whole[:2], state=state, at_source=["b"])
    assert [FILE_ID] == found(*whole, *acks("lost", first=1), state=state)


def test_is_not_ended():
    """A file that is there, of somebody else, ended before, or complete."""
    assert [] == found(at_source=["a"])
    assert [] == found(source="t")
    assert [] == found(state="superseded")
    assert [] == found(*acks("persisted", "persisted", "lost"), *acks("persisted", first=2))


def test_groups_are_apart():
    """Records of another group do not concern this group's blocks."""
    others = acks("persisted", "persisted", "persisted", group="h")

    assert [FILE_ID] == found(*others)
    assert [] == found(*acks("persisted", "persisted", "persisted"), *acks("lost", group="h"))


def test_rejections_change_nothing():
    """A rejection does not concern persisted blocks."""
    whole = acks("persisted", "persisted", "persisted")

    assert [] == found(*whole, *acks("rejected"))


def test_tombstone():
    """A file of which nothing is said any more is not ended."""
    gone = GoneFiles("s", (), group="g")
    gone.take_status(FILE_ID, STATUS)
    gone.take_status(FILE_ID, None)

    assert [] == gone.found()
