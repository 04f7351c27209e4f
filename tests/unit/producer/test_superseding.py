"""Which versions of a file a producer calls superseded, when, and which it never does."""

import msgspec
import pytest

from streamapp.producer.status_updates import StatusUpdates
from streamapp.producer.superseding import MAX_EARLIER
from streamapp.protocol import fileplan, messages
from tests.unit.deliveries import BLOCK, PROVER, ack, delivery, kinds, only_file, source, status


MARK = "0123456789abcdef"


def earlier(made, state="complete", **changes):
    """Return what an earlier run recorded of the file when it was modified at 6 and not at 7."""
    cut = {"name": "f", "size": 25, "mtime_ns": 6, "block_size": BLOCK, "version": ""}
    cut |= {key: value for key, value in changes.items() if key in cut}
    file_id = fileplan.file_id(source="m", **cut)
    said = {"file_id": file_id} | cut | {"mtime_ns": str(cut["mtime_ns"])}
    return status(only_file(made), state, **(changes | said))


def fed(*noted, size=25):
    """Return a delivery of one file that received *noted*, functions of the file."""
    made = delivery(source(size=size), begun=False)
    for note in noted:
        made.recorded(note(made))
    return made


def published(made):
    """Return which ids are published in which state, and by what they are superseded."""
    updates = StatusUpdates(
        machine="m", block_size=BLOCK, run_at=7.0, prover=PROVER, earlier=made.earlier
    )
    updates.touch(made.touched.values(), now=0.0)
    made.touched.clear()
    found = [said for _, said in updates.take_due(10.0, wall=8.0)]
    assert found == [messages.decode_status(messages.encode(said)) for said in found]
    return {said.file_id: (said.state, said.superseded_by) for said in found}


def acknowledge(made):
    """Acknowledge all blocks of the file."""
    for number in range(only_file(made).blocks):
        made.acknowledged(ack(only_file(made), number), 0.0)


def test_changed_file():
    """The earlier version is superseded when all of the new one is acknowledged, and not before."""
    made = fed(earlier)
    made.begin()
    file, old = only_file(made), earlier(made).file_id
    made.announce(file)
    assert {file.file_id: ("announced", "")} == published(made)

    acknowledge(made)
    assert {file.file_id: ("complete", ""), old: ("superseded", file.file_id)} == published(made)


@pytest.mark.parametrize("state", ["announced", "sent", "complete", "failed", "changed"])
def test_there_already(state):
    """A run that sends nothing calls superseded what an earlier one did not."""
    made = fed(lambda made: earlier(made, state), lambda made: status(only_file(made)))
    acknowledge(made)
    made.begin()

    file = only_file(made)
    assert ["skipped"] == kinds(made)
    assert ("superseded", file.file_id) == published(made)[earlier(made).file_id]


def test_superseded_already():
    """A version that is superseded already gets no further record."""
    made = fed(
        earlier,
        lambda made: earlier(made, "superseded", superseded_by="ab" * 16),
        lambda made: status(only_file(made)),
    )
    acknowledge(made)
    made.begin()

    assert {} == published(made)


def test_returned_content():
    """A file that was superseded, and is on the source's disk again, is called complete again."""
    made = fed(lambda made: status(only_file(made), "superseded", superseded_by="ab" * 16))
    acknowledge(made)
    made.begin()

    assert {only_file(made).file_id: ("complete", "")} == published(made)


@pytest.mark.parametrize("change", [{"size": 7}, {"block_size": 9}, {"version": MARK}])
def test_any_cut(change):
    """A version may have another size, another cut, or a mark."""
    made = fed(lambda made: earlier(made, **change))
    made.begin()
    acknowledge(made)

    assert "superseded" == published(made)[earlier(made, **change).file_id][0]


@pytest.mark.parametrize(
    "lie", [{"source": "n"}, {"mtime_ns": ""}, {"mtime_ns": "5"}, {"name": "g"}, {"size": 24}]
)
def test_not_its_own(lie):
    """An id that is not that of this producer's file of this name is never called superseded."""
    made = fed()
    made.recorded(msgspec.structs.replace(earlier(made), **lie))
    made.begin()
    acknowledge(made)

    assert [only_file(made).file_id] == list(published(made))


def test_bounded():
    """Any number of made-up versions costs a bounded number of records."""
    made = fed(*(lambda made, n=n: earlier(made, mtime_ns=100 + n) for n in range(2 * MAX_EARLIER)))
    made.begin()
    acknowledge(made)

    assert 1 + MAX_EARLIER == len(published(made))


def test_other_content():
    """Versions of equal size and time are superseded by the one whose content the file has."""
    made = fed()
    file = only_file(made)
    first = file.file_id
    made.acknowledged(ack(file, 0, sha256="ab" * 32, proof=""), 0.0)
    made.begin()
    block = made.take(0.0, ())
    made.checked(block, block.attempt, b"\1" * 32, 0.0)
    assert first != file.file_id
    acknowledge(made)

    assert ("superseded", file.file_id) == published(made)[first]


def test_other_content_is_superseded_already():
    """A version of equal size and time is called superseded once."""
    made = fed()
    file = only_file(made)
    mark = MARK
    other = fileplan.file_id(
        source="m", name="f", size=25, mtime_ns=7, block_size=BLOCK, version=mark
    )
    said = {"file_id": other, "version": mark, "version_of": file.file_id}
    made.recorded(status(file, "superseded", superseded_by=file.file_id, **said))
    made.recorded(status(file))
    acknowledge(made)
    made.acknowledged(ack(file, 0, **said), 0.0)
    made.begin()

    assert {} == published(made)


@pytest.mark.parametrize("has_begun", [False, True])
def test_freed(has_begun):
    """Freed blocks of a superseded version with the file's size and time are not sent again."""
    made = fed(lambda made: status(only_file(made)))
    file = only_file(made)
    other = fileplan.file_id(
        source="m", name="f", size=25, mtime_ns=7, block_size=BLOCK, version=MARK
    )
    said = {"file_id": other, "version": MARK, "version_of": file.file_id}
    made.recorded(status(file, "superseded", superseded_by=file.file_id, **said))
    acknowledge(made)
    made.acknowledged(ack(file, 0, **said), 0.0)
    if has_begun:
        made.begin()
    made.acknowledged(ack(file, 0, "lost", **said), 0.0)
    if not has_begun:
        made.begin()

    assert made.is_done
    assert made.take(0.0, ()) is None
    assert {} == published(made)
