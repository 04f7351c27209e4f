"""Makes what the tests of the producer's pure parts need."""

import itertools

from streamapp.producer.block_proofs import Prover
from streamapp.producer.delivery import Delivery, Policy
from streamapp.producer.sources.scan import SourceFile
from streamapp.producer.view import View
from streamapp.protocol import fileplan
from streamapp.protocol.messages import BlockAck, FileStatus


GROUP = "g"
CTIME = 9
PARTITIONS = 6
BLOCK = 10
FIRST_ATTEMPT = 1000
GRACE = 15.0
PROVER = Prover(b"k" * 32)


def source(name="f", size=25):
    """A file as `scan` finds it."""
    file_id = fileplan.file_id(source="m", name=name, size=size, mtime_ns=7, block_size=BLOCK)
    return SourceFile(name, size, 7, file_id, ctime_ns=CTIME)


def policy(**changes):
    """Blocks of 10 bytes, three attempts."""
    values = {
        "machine": "m",
        "block_size": BLOCK,
        "partitions": PARTITIONS,
        "max_attempts": 3,
        "retry_base": 1.0,
        "ack_grace": GRACE,
    }
    return Policy(**values | changes)


def delivery(*sources, begun=True, **changes):
    """A delivery of *sources* (one file of three blocks), begun with nothing there before."""
    made = Delivery(
        sources or (source(),),
        policy(**changes),
        first_attempt=FIRST_ATTEMPT,
        chance=lambda: 0.5,
        prover=PROVER,
        new_mark=map("{:016x}".format, itertools.count(1)).__next__,
    )
    if begun:
        made.begin()
    return made


def digest(number):
    """The SHA-256 that stands for that of block *number* of any file."""
    return bytes([number % 255 + 1]) * 32


def ack(file, number, outcome="persisted", attempt=FIRST_ATTEMPT, **changes):
    """A machine's answer about block *number* of *file*, with its producer's proof."""
    version, known = file.version, file.source
    values = {
        "file_id": version.file_id,
        "block": number,
        "blocks": file.blocks,
        "group": GROUP,
        "machine": "w1",
        "outcome": outcome,
        "attempt": attempt,
        "size": fileplan.FilePlan(file_size=known.size, block_size=BLOCK).span(number)[1],
        "sha256": digest(number).hex() if outcome == "persisted" else "",
        "reason": "" if outcome == "persisted" else "because",
        "name": known.name,
        "file_size": known.size,
        "block_size": BLOCK,
        "source": "m",
        "mtime_ns": str(known.mtime_ns),
        "version": version.mark,
        "version_of": known.file_id if version.mark else "",
        "proof": PROVER.of_block(version.file_id, number, known, digest(number)).hex(),
    }
    return BlockAck(**values | changes)


def status(file, state="complete", **changes):
    """Return the status that an earlier run recorded of *file*, with its proof."""
    version, known = file.version, file.source
    said = fileplan.file_digest(digest(number) for number in range(file.blocks))
    values = {
        "file_id": version.file_id,
        "state": state,
        "name": known.name,
        "size": known.size,
        "blocks": file.blocks,
        "block_size": BLOCK,
        "source": "m",
        "digest": said if state == "complete" else "",
        "mtime_ns": str(known.mtime_ns),
        "version": version.mark,
        "version_of": known.file_id if version.mark else "",
        "proof": PROVER.of_file(version.file_id, known, said).hex(),
    }
    return FileStatus(**values | changes)


def view(*, committed=None, starts=None, end=1_000_000, is_group_up=True):
    """Return a view with the same offsets on every partition."""
    every = range(PARTITIONS)
    return View(
        committed={} if committed is None else dict.fromkeys(every, committed),
        starts=dict.fromkeys(every, starts or 0),
        ends=dict.fromkeys(every, end),
        is_group_up=is_group_up,
    )


def send(made, now=0.0, offsets=(100, 109)):
    """Take the next block and let Kafka have it at *offsets*; return it."""
    block = made.take(now, ())
    made.sent(block, block.attempt, offsets, digest(block.number))
    return block


def only_file(made):
    """The file of a delivery that has one."""
    (file,) = made.files.values()
    return file


def kinds(made):
    """Return and clear the reported events: their kinds, for files their states."""
    told = [getattr(event, "state", type(event).__name__) for event in made.events]
    made.events.clear()
    return told
