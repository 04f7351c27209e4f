"""Proofs and versions: which acknowledgements count, and which blocks are read again."""

import itertools

import pytest

from streamapp.producer.block_proofs import Prover
from streamapp.producer.delivery import MAX_NEW_VERSIONS, Delivery
from tests.unit.deliveries import (
    BLOCK,
    FIRST_ATTEMPT,
    PROVER,
    ack,
    delivery,
    digest,
    kinds,
    only_file,
    policy,
    send,
    source,
    status,
)


OTHER = "ab" * 32
OTHER_PROVER = Prover(b"o" * 32)


def begun(*there, size=25, **changes):
    """Return a delivery of one file, begun after it received *there*, and the file."""
    made = delivery(source(size=size), begun=False, **changes)
    file = only_file(made)
    for record in there:
        made.acknowledged(record(file), 0.0)
    made.begin()
    return made, file


def told(number, **changes):
    """Return a function that makes an acknowledgement of block *number* of a file."""
    return lambda file: ack(file, number, **changes)


def check(made, sha256=None):
    """Take the next block, which is to be read, and read it; return it."""
    block = made.take(0.0, ())
    assert block.is_check
    made.checked(block, block.attempt, sha256 or digest(block.number), 0.0)
    return block


def deliver(made):
    """Send all that is to be sent, and have it acknowledged; return the blocks."""
    blocks = []
    while (block := made.take(1e6, ())) is not None:
        assert not block.is_check
        made.sent(block, block.attempt, (1, 2), digest(block.number))
        made.acknowledged(ack(block.file, block.number, attempt=block.attempt), 0.0)
        blocks.append(block)
    return blocks


# --- what counts


@pytest.mark.parametrize(
    "lie",
    [
        {"name": "g"},
        {"file_size": 24},
        {"block_size": 9},
        {"source": "n"},
        {"mtime_ns": "8"},
        {"blocks": 4},
        {"size": 9},
        {"version": "0" * 16},
        {"file_id": "0" * 32},
        {"name": "", "file_size": 0, "block_size": 0, "source": ""},
    ],
)
@pytest.mark.parametrize("has_begun", [False, True])
def test_not_its_own(lie, has_begun):
    """A record with any other field than the file's does not count."""
    made = delivery(begun=has_begun)
    file = only_file(made)
    if lie.keys() == {"version"}:
        lie = lie | {"version_of": file.file_id, "file_id": "1" * 32}
    made.acknowledged(ack(file, 0, **lie), 0.0)
    if not has_begun:
        made.begin()

    assert not file.is_persisted(0)
    assert not file.version.is_unchecked(0)
    assert 3 == file.left


def test_proven():
    """A block with this producer's proof counts without being read."""
    made, file = begun(told(0), told(1), told(2))

    assert "skipped" == file.state
    assert made.is_done
    assert 0 == made.bytes_wanted


@pytest.mark.parametrize(
    "proof", ["", OTHER_PROVER.of_block(source().file_id, 0, source(), digest(0)).hex()]
)
def test_unproven(proof):
    """An unproven block is read, and counts if it is equal to the source; nothing is sent."""
    made, file = begun(told(0, proof=proof), told(1), told(2))
    assert (1, 1, 10, 0) == (file.left, file.busy, made.bytes_wanted, made.bytes_missing)

    block = check(made)
    assert 0 == block.number
    assert made.is_done
    assert ("skipped", 0, 0) == (file.state, made.bytes_wanted, made.blocks_sent)
    assert ["skipped"] == kinds(made)
    assert [file] == list(made.touched.values())


@pytest.mark.parametrize("change", [{}, {"ctime_ns": 10}, {"inode": 10}])
def test_proof_of_another_file(change):
    """A proof is for one file in one state: it does not count for another file or state.

    Two folders whose files have equal sizes and times may change places.
    """
    _, file = begun()
    source_then = source()
    source_then = type(source_then)(**{**_fields(source_then), **change})
    proof = PROVER.of_block(file.file_id, 0, source_then, digest(0)).hex()
    _, file = begun(told(0, proof=proof))

    assert bool(change) == file.version.is_unchecked(0) == (not file.is_persisted(0))


def test_fresh_file_is_not_proven():
    """A file that was changed just before the scan gets no proof, and no proof counts for it."""
    fresh = type(source())(**_fields(source()) | {"is_fresh": True})

    assert b"" == PROVER.of_block(fresh.file_id, 0, fresh, digest(0))
    assert b"" == PROVER.of_file(fresh.file_id, fresh, "00")
    made = delivery(fresh, begun=False)
    file = only_file(made)
    old = PROVER.of_block(file.file_id, 0, source(), digest(0)).hex()
    made.acknowledged(ack(file, 0, proof=old), 0.0)
    made.begin()
    assert file.version.is_unchecked(0)


@pytest.mark.parametrize("change", [{"ctime_ns": 10}, {"inode": 10}])
def test_record_of_another_file(change):
    """The same holds for the status record of a whole file."""
    made = delivery(begun=False)
    file = only_file(made)
    said = status(file)
    source_then = type(file.source)(**{**_fields(file.source), **change})
    proof = PROVER.of_file(file.file_id, source_then, said.digest).hex()
    for number in range(3):
        made.acknowledged(ack(file, number, proof=""), 0.0)
    made.recorded(status(file, proof=proof))
    made.begin()

    assert not made.is_done


def _fields(struct):
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


@pytest.mark.parametrize("change", [{}, {"proof": ""}, {"digest": OTHER}, {"state": "announced"}])
def test_recorded(change):
    """A file that was compared once is recorded with a proof, and is not read again."""
    made = delivery(begun=False)
    file = only_file(made)
    for number in range(3):
        made.acknowledged(ack(file, number, proof=""), 0.0)
    made.recorded(status(file, **change))
    made.begin()

    assert made.is_done == (not change)
    assert (made.take(0.0, ()) is None) == (not change)


def test_verify():
    """With ``--verify`` no proof counts: every block is read, none is sent."""
    made, file = begun(told(0), told(1), told(2), verify=True)
    made.recorded(status(file))
    assert 3 == file.left

    for _ in range(3):
        check(made)
    assert made.is_done
    assert ("skipped", 0) == (file.state, made.blocks_sent)


def test_verify_finds_another_content():
    """With ``--verify``, proven content that changed is sent as a new version."""
    made, file = begun(told(0), told(1), told(2), verify=True)
    first = file.file_id
    check(made, b"\xee" * 32)

    assert first != file.file_id
    assert [0, 1, 2] == sorted(block.number for block in deliver(made))
    assert "complete" == file.state


# --- while it is sent


def test_unproven_while_it_waits():
    """An unproven block of another run is read when it is taken from the queue."""
    made, file = begun(size=15)
    made.acknowledged(ack(file, 0, proof=""), 0.0)
    assert 2 == file.left

    check(made)
    assert 1 == file.left
    assert 1 == made.take(0.0, ()).number


def test_unproven_while_it_is_sent():
    """When an unproven acknowledgement comes, sending stops, and the block is compared."""
    made, file = begun(size=5)
    block = made.take(0.0, ())
    made.acknowledged(ack(file, 0, proof=""), 0.0)

    assert not block.is_wanted(block.attempt)
    check(made)
    assert ("skipped", 0) == (file.state, made.blocks_sent)


def test_hashed_in_this_run():
    """A block that this run hashed counts if its SHA-256 is equal, with any proof."""
    made, file = begun(size=5)
    send(made)
    made.acknowledged(ack(file, 0, proof=""), 0.0)

    assert "complete" == file.state


def test_failed_block_of_another_content():
    """A late acknowledgement makes a failed block persisted only if it is proven."""
    made, file = begun(size=5, max_attempts=1)
    block = send(made)
    made.retry(block, block.attempt, "no reason", 0.0)
    assert "failed" == file.state

    made.acknowledged(ack(file, 0, sha256=OTHER, proof=""), 0.0)
    assert "failed" == file.state


# --- another content


@pytest.mark.parametrize("outcome", ["persisted", "rejected"])
def test_another_content(outcome):
    """If a worker has stored other content, the file is sent as a new version."""
    made, file = begun(size=15)
    first, block = file.file_id, send(made)
    made.acknowledged(ack(file, 0, outcome, block.attempt, sha256=OTHER, proof=""), 0.0)

    assert (2, 2) == (file.left, file.busy)
    assert first != file.file_id
    assert file.version.mark
    sent = deliver(made)
    assert [(file.file_id, 0), (file.file_id, 1)] == sorted(block.key for block in sent)
    assert made.is_done
    assert "complete" == file.state
    assert made.bytes_persisted == made.bytes_wanted == 15
    assert "Notice" in kinds(made)


def test_another_content_before():
    """Other content that was stored before this run is found by reading, in any block."""
    made, file = begun(told(0), told(1, sha256=OTHER, proof=""), told(2, proof=""))
    first = file.file_id
    check(made)
    assert first != file.file_id
    assert 3 == len(deliver(made))

    assert ("complete", 25, 25) == (file.state, made.bytes_wanted, made.bytes_persisted)


def test_second_run_of_a_version():
    """The next run recognizes the version: it sends and reads nothing."""
    made, file = begun(told(0, sha256=OTHER, proof=""), size=5)
    check(made)
    (block,) = deliver(made)
    answers = [ack(file, 0), status(file)]
    assert block.key == (file.file_id, 0)

    for version_first in (True, False):
        again = delivery(source(size=5), begun=False)
        there = [answers[0], ack(only_file(again), 0, sha256=OTHER, proof="")]
        for record in there if version_first else reversed(there):
            again.acknowledged(record, 0.0)
        again.begin()
        assert again.is_done
        assert only_file(again).file_id == file.file_id
        assert [file.file_id] == list(again.touched)


def test_version_without_its_key():
    """Without the key, the version is found by its content: it is read, nothing is sent."""
    made, file = begun(told(0, sha256=OTHER, proof=""), size=5)
    check(made)
    deliver(made)
    again = delivery(source(size=5), begun=False)
    found = only_file(again)
    again.acknowledged(ack(found, 0, sha256=OTHER, proof=""), 0.0)
    again.acknowledged(ack(file, 0, proof=""), 0.0)
    again.begin()

    check(again)  # the first version, which has another content
    assert found.file_id == file.file_id
    check(again)
    assert again.is_done
    assert ("skipped", 0) == (found.state, again.blocks_sent)


def test_always_another_content():
    """If other bytes are stored under each new id, only this file fails."""
    made, file = begun(size=15)
    for _ in range(MAX_NEW_VERSIONS + 1):
        assert not made.is_done
        block = send(made)
        made.acknowledged(ack(file, block.number, sha256=OTHER, proof=""), 0.0)

    assert made.is_done
    assert "failed" == file.state
    made.acknowledged(ack(file, 0), 0.0)
    made.acknowledged(ack(file, 1), 0.0)
    assert "failed" == file.state
    assert made.take(1e6, ()) is None


def test_first_of_two_claims():
    """A second unproven acknowledgement does not replace the first; a proven one does."""
    _, file = begun(told(0), told(0, sha256=OTHER, proof=""))
    assert file.is_persisted(0)

    _, file = begun(told(0, sha256=OTHER, proof=""), told(0))
    assert file.is_persisted(0)


def test_no_digest():
    """A SHA-256 of zeros counts as none."""
    made, file = begun(told(0, sha256="00" * 32, proof=""))

    assert 0 == file.version.acknowledged
    assert not made.take(0.0, ()).is_check


# --- lost


def test_forged_losses():
    """A loss does not count as an attempt, and each further one waits longer."""
    made, file = begun(size=5, max_attempts=2)
    send(made)
    made.acknowledged(ack(file, 0), 0.0)
    now, waits = 0.0, []
    for _ in range(20):
        made.acknowledged(ack(file, 0, "lost"), now)
        start = now
        while (block := made.take(now, ())) is None:
            now += 0.25
        waits.append(now - start)
        assert 1 == block.tries
        made.sent(block, block.attempt, (1, 2), digest(0))
        made.acknowledged(ack(file, 0), now)

    assert "complete" == file.state
    assert waits[0] == 0.0
    assert waits[1] < waits[4] < waits[8]
    assert waits[-1] >= 30.0


def test_lost_and_checked():
    """A block that is reported as lost while it is read is sent."""
    made, file = begun(told(0, proof=""), size=5)
    block = made.take(0.0, ())
    made.acknowledged(ack(file, 0, "lost"), 0.0)
    made.checked(block, block.attempt, digest(0), 0.0)

    assert [0] == [block.number for block in deliver(made)]
    assert "complete" == file.state


def test_machines_of_one_id():
    """Two machines with one id, whose files differ only in content, both deliver all files."""
    kept = []
    provers, contents = (PROVER, OTHER_PROVER), (b"\x01" * 32, b"\x02" * 32)
    for run, (prover, content) in enumerate([*zip(provers, contents, strict=True)] * 3):
        made = Delivery(
            [source(size=BLOCK)],
            policy(),
            first_attempt=FIRST_ATTEMPT + run,
            chance=lambda: 0.5,
            prover=prover,
            new_mark=map("{:016x}".format, itertools.count(100 * run)).__next__,
        )
        file = only_file(made)
        for record in kept:
            made.acknowledged(record, 0.0)
        made.begin()
        while (block := made.take(1e6, ())) is not None:
            if block.is_check:
                made.checked(block, block.attempt, content, 0.0)
                continue
            made.sent(block, block.attempt, (1, 2), content)
            proof = prover.of_block(file.file_id, 0, file.source, content).hex()
            kept.append(ack(file, 0, sha256=content.hex(), proof=proof))
            made.acknowledged(kept[-1], 0.0)
        assert made.is_done
        assert ("skipped" if run > 1 else "complete") == file.state
        assert made.blocks_sent == (run < 2)

    assert {content.hex() for content in contents} == {record.sha256 for record in kept}
    assert 2 == len({record.file_id for record in kept})
