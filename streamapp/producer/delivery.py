"""Which blocks are sent, sent again, given up or done: the rules of a delivery.

Pure code: no Kafka, no disk, no clock (*now* is in seconds, monotonic), no threads. Whoever
calls it from several threads holds a lock. A block is sent again only when that can help
(`docs/adr/0006-when-a-block-is-sent-again.md`):

* a worker rejected its newest attempt, or lost it after it was stored, or Kafka refused it;
* the group has committed beyond its last frame for a while without acknowledging it: a
  worker acknowledges before it commits, so it gave the block up;
* Kafka's retention has deleted its first frame before it was acknowledged.

Waiting alone is no reason: with no machine up, or all of them busy, a copy helps nobody.

Whoever may write to Kafka may store any bytes under a file's id, so an acknowledgement alone
says nothing of the content (`docs/adr/0012-whose-content-it-is.md`). A block counts as
persisted only with the SHA-256 of the source: hashed in this run, or by an earlier run that
left its proof. Otherwise it is read and compared. Where another content is stored, the file is
sent as a new version, under an id of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import msgspec

from streamapp.producer.events import BlockFailed, BlockResent, Event, FileEvent, Notice
from streamapp.producer.model import Block, File, Phase
from streamapp.producer.recognition import Recognition
from streamapp.producer.send_queue import SendQueue, backoff
from streamapp.producer.superseding import EarlierVersions
from streamapp.producer.version import NO_DIGEST, Version
from streamapp.protocol import filenames, fileplan


if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator

    from streamapp.producer.block_proofs import Prover
    from streamapp.producer.sources.scan import SourceFile
    from streamapp.protocol.messages import BlockAck, FileStatus

MAX_UNACKNOWLEDGED: Final = 100_000
"""Blocks that may wait for an acknowledgement: each costs about half a KiB of memory."""

MAX_NEW_VERSIONS: Final = 3
"""Times that a file is sent under a new id in one run: whoever stores other bytes under each of
them would never stop."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """How blocks are cut, and how patient the delivery is; seconds.

    Without *wait*, a block is done when Kafka has it, and acknowledgements count only until
    `Delivery.begin`. With *verify*, all that is acknowledged is compared with the source.
    *machine* is the producer's id. *window* bounds the bytes of blocks that are taken and not
    over; what a machine lost after it was stored comes on top.
    """

    machine: str
    block_size: int
    partitions: int
    max_attempts: int
    retry_base: float
    ack_grace: float
    wait: bool = True
    window: int | None = None
    verify: bool = False


class View(msgspec.Struct, frozen=True):
    """What was seen of Kafka at one moment, by partition of the blocks' topic.

    *committed* is the group's (absent: never), *starts* and *ends* are the log's.
    *is_group_up* is whether machines of the group are; None when Kafka does not say.
    """

    committed: dict[int, int]
    starts: dict[int, int]
    ends: dict[int, int]
    is_group_up: bool | None

    @property
    def unread(self) -> int:
        """How many records the group has before it."""
        begun = {n: max(self.committed.get(n, 0), start) for n, start in self.starts.items()}
        return sum(max(0, end - begun.get(n, 0)) for n, end in self.ends.items())


class Delivery:
    """All files of one run. Feed it old acknowledgements, then `begin`, then `take` blocks."""

    def __init__(  # noqa: PLR0913 - what is pure is given time, chance and keys
        self,
        sources: Iterable[SourceFile],
        policy: Policy,
        *,
        first_attempt: int,
        chance: Callable[[], float],
        prover: Prover,
        new_mark: Callable[[], str],
    ) -> None:
        """Plan *sources*; *first_attempt* is a number that no other run has.

        *new_mark* returns what makes the id of a new version: 16 hexadecimal digits.
        """
        self.files = {s.file_id: File(s, _plan(s, policy).blocks) for s in sources}
        self.earlier = EarlierVersions(policy.machine, (f.source for f in self.files.values()))
        self.bytes_wanted = 0  # by this run: without what was there already
        self.bytes_missing = 0  # of these: what nobody acknowledged before `begin`
        self.bytes_persisted = 0  # since `begin`
        self.blocks_sent = 0  # as often as Kafka has them
        self.blocks_resent = 0
        self.events: list[Event] = []  # for the engine to report and to clear
        self.touched: dict[str, File] = {}  # likewise: files whose status is to be sent
        self._policy = policy
        self._chance = chance
        self._recognition = Recognition(
            policy.machine, policy.block_size, prover, verify=policy.verify
        )
        self._new_mark = new_mark
        self._losses: dict[tuple[str, int], int] = {}  # how often blocks were called lost
        self._attempt = first_attempt
        self._has_begun = False
        self._blocks: dict[tuple[str, int], Block] = {}  # taken, and not over
        self._bytes_open = 0  # of those
        self._queue = SendQueue(self._fresh_blocks())
        self._left = self._busy = sum(file.left for file in self.files.values())

    @property
    def is_done(self) -> bool:
        """Return whether nothing is left to send or to wait for."""
        return (self._left if self._policy.wait else self._busy) == 0

    def begin(self, *, only_failed: bool = False) -> None:
        """Settle what was there before: call it when all old acknowledgements were fed.

        With *only_failed*, files that no earlier run gave up are passed over.
        """
        self._has_begun = True
        self.bytes_persisted = 0
        for file in self.files.values():
            self._choose(file)
            if file.left == 0:
                file.state = "skipped"
                is_told = file.version.is_recorded and not self.earlier.exist(file)
                self._tell(file, record=not is_told)
            elif only_failed and not file.has_failed:
                self._count(file, left=-file.left, busy=-file.busy)
                file.state = "passed"
            else:
                wanted = [n for n in range(file.blocks) if not file.is_persisted(n)]
                self.bytes_wanted += sum(self.size_of(file, number) for number in wanted)
                missing = (n for n in wanted if not file.version.is_unchecked(n))
                self.bytes_missing += sum(self.size_of(file, number) for number in missing)

    def announce(self, file: File) -> None:
        """Say that *file* will be sent, if that was not said and it is not only compared."""
        if file.state == "waiting" and not file.version.is_all_acknowledged:
            file.state = "announced"
            self._tell(file)

    def take(self, now: float, busy: Container[int]) -> Block | None:
        """Return the next block to send, on none of the *busy* partitions; None: not now."""
        while (block := self._queue.take(now, busy, with_fresh=self._has_room)) is not None:
            if self._is_over(block) or not self._open(block):
                continue  # what it waited for came meanwhile
            block.phase = Phase.SENDING
            block.attempt = self._attempt
            block.is_check = block.version.is_unchecked(block.number)
            if not block.is_check:
                block.tries += 1
                block.passed_at = None
                self.announce(block.file)
            return block
        return None

    def sent(self, block: Block, attempt: int, offsets: tuple[int, int], sha256: bytes) -> None:
        """Note that Kafka has all frames of *attempt*; *offsets* of the first and last one."""
        if not block.is_wanted(attempt):
            return
        block.phase = Phase.SENT
        block.file.is_sent = True
        self.blocks_sent += 1
        block.sha256 = sha256
        block.first_offset, block.last_offset = offsets
        if not self._policy.wait:
            self._close(block.key)
        self._count(block.file, busy=-1)
        self._settle(block.file)

    def checked(self, block: Block, attempt: int, sha256: bytes, now: float) -> None:
        """Note that the acknowledged *block* has *sha256* at the source."""
        if not block.is_wanted(attempt):
            return
        file, number = block.file, block.number
        block.sha256 = sha256
        found = block.version.digest(number)
        if found == sha256:
            block.version.confirm(number)
            self.bytes_wanted -= self.size_of(file, number)  # nothing of it is sent
            self._end(file, block)
        elif found == NO_DIGEST:  # lost meanwhile
            block.phase = Phase.RESTING
            self._queue.rest(block, now)
        else:
            self._other_content(file, number, sha256)

    def retry(self, block: Block, attempt: int, reason: str, now: float) -> None:
        """End *attempt*, which failed for *reason*: send the block again, or give it up."""
        if block.attempt != attempt or block.phase in {Phase.RESTING, Phase.OVER}:
            return
        if block.phase is Phase.SENT:
            self._count(block.file, busy=1)
        block.phase = Phase.RESTING
        if block.tries < self._policy.max_attempts:
            wait = backoff(block.tries, self._policy.retry_base, self._chance())
            self._send_again(block, reason, now + wait)
        else:
            self._give_up(block, reason)

    def drop(self, file: File, state: Literal["changed", "unreadable"], reason: str) -> None:
        """Send no more of *file*, and wait for none of it."""
        if file.is_dropped:
            return
        for number in range(file.blocks):
            if block := self._close((file.file_id, number)):
                block.phase = Phase.OVER
            if not file.is_persisted(number):
                self.bytes_wanted -= self.size_of(file, number)
        self._count(file, left=-file.left, busy=-file.busy)
        file.state = state
        file.reason = reason
        self._tell(file)

    def acknowledged(self, ack: BlockAck, now: float) -> None:
        """Take a worker's answer; what it stored for another run counts as well."""
        if ack.outcome == "rejected":
            self._rejected(ack, now)
            return
        file = self.files.get(ack.version_of or ack.file_id)
        if file is None or file.is_dropped:
            return
        version = self._recognition.version(file, ack)
        if version is None or ack.size != self.size_of(file, ack.block):
            return
        if ack.outcome == "lost":
            self._lost(file, version, ack.block, now)
        elif version is file.version and self._has_begun:
            self._persisted(file, ack, now)
        else:
            is_proven = self._recognition.is_proven(file, ack)
            version.acknowledge(ack.block, bytes.fromhex(ack.sha256), is_checked=is_proven)

    def recorded(self, status: FileStatus) -> None:
        """Take what an earlier run recorded of a file; the newest comes last."""
        file = self.files.get(status.version_of or status.file_id)
        if file is None:
            self.earlier.note(status)
            return
        version = self._recognition.version(file, status)
        if version is None:
            return
        version.state = status.state
        version.is_recorded = self._recognition.is_recorded(file, status)
        if version.is_recorded:
            version.recorded = status.digest
        file.has_failed = status.state == "failed"

    def look(self, view: View, now: float) -> None:
        """Send again what the group passed over, and what Kafka has deleted."""
        for block in list(self._blocks.values()):
            if block.phase is not Phase.SENT:
                continue
            if block.last_offset < 0:  # it lies somewhere before the end of the log
                block.last_offset = view.ends.get(block.partition, 0) - 1
            if block.first_offset < 0:
                block.first_offset = block.last_offset
            reason = _why_hopeless(block, view)
            if reason is None:
                block.passed_at = None
            elif block.passed_at is None:
                block.passed_at = now
            elif now - block.passed_at >= self._policy.ack_grace:
                self.retry(block, block.attempt, reason, now)

    def size_of(self, file: File, number: int) -> int:
        """Return the bytes of block *number* of *file*."""
        return _plan(file.source, self._policy).span(number)[1]

    @property
    def _has_room(self) -> bool:
        """Whether one more block fits into the window; one always does."""
        window = self._policy.window
        fits = window is None or self._bytes_open + self._policy.block_size <= window
        return len(self._blocks) < MAX_UNACKNOWLEDGED and (fits or not self._blocks)

    def _open(self, block: Block) -> bool:
        """Note that *block* is under way; return whether no other one is it already."""
        if block.key not in self._blocks:
            self._blocks[block.key] = block
            self._bytes_open += self.size_of(block.file, block.number)
        return self._blocks[block.key] is block

    def _close(self, key: tuple[str, int]) -> Block | None:
        """Note that a block is not under way any more; return it if it was."""
        block = self._blocks.pop(key, None)
        if block is not None:
            self._bytes_open -= self.size_of(block.file, block.number)
        return block

    @staticmethod
    def _is_over(block: Block) -> bool:
        file, number = block.file, block.number
        return (
            file.is_dropped
            or file.version is not block.version
            or file.is_persisted(number)
            or number in (file.failed or {})
        )

    def _fresh_blocks(self) -> Iterator[Block]:
        for file in self.files.values():
            yield from self._blocks_of(file)

    def _blocks_of(self, file: File) -> Iterator[Block]:
        """Return the blocks of the version of *file* that is the one now, as long as it is."""
        version = file.version
        for number in range(file.blocks):
            if file.is_dropped or file.version is not version:
                return
            if not version.is_persisted(number):
                yield self._block(file, number)

    def _block(self, file: File, number: int) -> Block:
        partitions = self._policy.partitions
        return Block(file, number, fileplan.block_partition(file.file_id, number, partitions))

    def _choose(self, file: File) -> None:
        """Take the version of which most is there, and count what of it is there for good."""
        for version in file.versions:
            if version.unchecked and version.recorded and not self._policy.verify:
                is_same = version.is_all_acknowledged and version.file_digest() == version.recorded
                if is_same:
                    version.confirm_all()
        best = max(file.versions, key=lambda v: (v.persisted, v.acknowledged, not v.mark))
        self._use(file, best)

    def _use(self, file: File, version: Version) -> None:
        file.choose(version)
        left = version.blocks - version.persisted
        self._count(file, left=left - file.left, busy=left - file.busy)

    def _other_content(self, file: File, number: int, sha256: bytes) -> None:
        """Leave the version whose block *number* is not what the source has: *sha256*.

        The file goes on under the id of a version that has it, or under a new one.
        """
        refused = file.version
        file.refused = (file.refused or set()) | {refused.file_id}
        for other in range(file.blocks):
            if block := self._close((refused.file_id, other)):
                block.phase = Phase.OVER
            if not refused.is_persisted(other):
                self.bytes_wanted -= self.size_of(file, other)
        usable = [v for v in file.versions if v.file_id not in file.refused]
        usable = [v for v in usable if v.digest(number) == sha256]
        if not usable and len(file.refused) > MAX_NEW_VERSIONS:
            self._give_up_file(file)
            return
        self._use(file, max(usable, key=lambda v: v.acknowledged) if usable else self._new(file))
        missing = (n for n in range(file.blocks) if not file.is_persisted(n))
        self.bytes_wanted += sum(self.size_of(file, n) for n in missing)
        file.failed, file.reason = None, ""
        self._queue.extend(self._blocks_of(file))
        if not usable:
            self._tell_new(file)

    def _new(self, file: File) -> Version:
        mark = self._new_mark()
        return Version(self._recognition.id_of(file, mark), file.blocks, mark)

    def _tell_new(self, file: File) -> None:
        if file.state == "waiting":
            self.announce(file)
        else:
            file.state = "announced"
            self.touched[file.file_id] = file
        text = (
            f"{filenames.printable(file.source.name)}: another content of the same size and time "
            f"is stored under its id; this one is sent as a new version, {file.file_id}"
        )
        self.events.append(Notice(text=text))

    def _give_up_file(self, file: File) -> None:
        file.is_given_up = True
        file.reason = "each time that it was sent, another content was stored under its id"
        file.failed = {0: file.reason}
        file.state = "failed"
        self._count(file, left=-file.left, busy=-file.busy)
        self._tell(file)

    def _rejected(self, ack: BlockAck, now: float) -> None:
        block = self._blocks.get((ack.file_id, ack.block))
        if block is None or block.attempt != ack.attempt or block.is_check:
            return
        if block.sha256 and ack.sha256 and bytes.fromhex(ack.sha256) != block.sha256:
            self._other_content(block.file, block.number, block.sha256)
        else:
            self.retry(block, ack.attempt, f"{ack.machine} rejected it: {ack.reason}", now)

    def _persisted(self, file: File, ack: BlockAck, now: float) -> None:
        """Count a block as persisted if it is known to have the content of the source."""
        number, digest = ack.block, bytes.fromhex(ack.sha256)
        if file.is_persisted(number):
            return
        block = self._blocks.get((ack.file_id, number))
        if block is not None and block.sha256:
            if digest != block.sha256:
                self._other_content(file, number, block.sha256)
                return
        elif not self._recognition.is_proven(file, ack):
            file.version.acknowledge(number, digest, is_checked=False)
            if block is not None and block.phase is Phase.SENDING and not block.is_check:
                block.phase = Phase.RESTING
                self._queue.rest(block, now)  # to be read
            return
        self._is_there(file, number, digest, block)

    def _is_there(self, file: File, number: int, digest: bytes, block: Block | None) -> None:
        file.version.acknowledge(number, digest, is_checked=True)
        file.is_sent = True
        self.bytes_persisted += self.size_of(file, number)
        if file.failed and file.failed.pop(number, None) is not None:
            file.reason = next(iter(file.failed.values()), "")
            self._settle(file)  # it was given up too early, and counted then
        else:
            self._end(file, block)

    def _lost(self, file: File, version: Version, number: int, now: float) -> None:
        was_persisted = version.is_persisted(number)
        version.lose(number)
        if not (was_persisted and self._has_begun and version is file.version):
            return
        self._count(file, left=1, busy=1)
        self.bytes_wanted += self.size_of(file, number)
        file.state = "announced"
        block = self._block(file, number)
        self._open(block)
        # A loss uses up no attempt; but whoever makes them up gets no more than a slow sender.
        losses = self._losses.get(block.key, 0)
        self._losses[block.key] = losses + 1
        wait = backoff(losses, self._policy.retry_base, self._chance()) if losses else 0.0
        self._send_again(block, "a machine lost it after it was stored", now + wait)

    def _send_again(self, block: Block, reason: str, due: float) -> None:
        self._attempt += 1
        self.blocks_resent += 1
        self._queue.rest(block, due)
        self.events.append(_about(BlockResent, block, reason))

    def _give_up(self, block: Block, reason: str) -> None:
        block.file.failed = (block.file.failed or {}) | {block.number: reason}
        block.file.reason = block.file.reason or reason
        self.touched[block.file.file_id] = block.file
        self.events.append(_about(BlockFailed, block, reason))
        self._end(block.file, block)

    def _end(self, file: File, block: Block | None) -> None:
        """Stop counting a block, which may not have been taken at all (another run sent it)."""
        is_busy = block is None or block.phase is not Phase.SENT
        if block is not None:
            block.phase = Phase.OVER
            self._close(block.key)
        self._count(file, left=-1, busy=-int(is_busy))
        self._settle(file)

    def _settle(self, file: File) -> None:
        if not self._has_begun or file.busy:
            return
        if file.left and self._policy.wait:
            state: Literal["sent", "failed", "complete", "skipped"] = "sent"
        elif file.failed:
            state = "failed"
        else:
            state = "sent" if file.left else ("complete" if file.is_sent else "skipped")
        if state != file.state:
            file.state = state
            self._tell(file)

    def _count(self, file: File, *, left: int = 0, busy: int = 0) -> None:
        file.left += left
        file.busy += busy
        self._left += left
        self._busy += busy

    def _tell(self, file: File, *, record: bool = True) -> None:
        source = file.source
        if record:
            self.touched[file.file_id] = file
        if file.state != "waiting" and file.state != "passed":  # noqa: PLR1714 - narrows the type
            self.events.append(
                FileEvent(
                    name=source.name,
                    state=file.state,
                    file_id=file.file_id,
                    size=source.size,
                    reason=file.reason,
                )
            )


def _why_hopeless(block: Block, view: View) -> str | None:
    committed = view.committed.get(block.partition, -1)
    end = view.ends.get(block.partition, -1)
    if block.last_offset < committed <= end:  # beyond the end: of a topic that is no more
        return "the group went on without acknowledging it"
    # A copy would be deleted as well while no machine is up to read it.
    if (
        view.starts.get(block.partition, 0) > block.first_offset >= 0
        and view.is_group_up is not False
    ):
        return "Kafka deleted it before it was acknowledged: raise the topic's retention"
    return None


def _plan(source: SourceFile, policy: Policy) -> fileplan.FilePlan:
    return fileplan.FilePlan(file_size=source.size, block_size=policy.block_size)


def _about(
    kind: type[BlockResent | BlockFailed], block: Block, reason: str
) -> BlockResent | BlockFailed:
    return kind(
        name=block.file.source.name,
        file_id=block.version.file_id,
        block=block.number,
        tries=block.tries,
        reason=reason,
    )
