"""The rules of a delivery: which blocks are sent, sent again, failed or done.

Pure code: no Kafka, no disk, no clock (*now* is in seconds, monotonic) and no threads. Several
threads share a delivery through `SharedDelivery`. A block is sent again only when that can help
(`docs/adr/0006-when-a-block-is-sent-again.md`):

* a worker rejected its newest attempt, or lost it after it was stored, or Kafka refused it;
* for a while, the group has committed beyond its last frame and not acknowledged it: a worker
  acknowledges before it commits, so it aborted the block;
* Kafka's retention has deleted its first frame before it was acknowledged.

Time alone is no reason: while no worker is up, or all of them are busy, a copy does not help.

Anyone who may write to Kafka may store any bytes under a file's id, so an acknowledgement alone
does not prove the content (`docs/adr/0012-whose-content-it-is.md`). A block counts as persisted
only with the SHA-256 of the source: hashed in this run, or by an earlier run that left its proof.
Otherwise the block is read and compared. If another content is stored, the file is sent as a new
version, under an id of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import msgspec

from streamapp.producer.events import BlockFailed, BlockResent, Event, FileEvent, Notice
from streamapp.producer.in_flight import BlocksInFlight
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
    from streamapp.producer.view import View
    from streamapp.protocol.messages import BlockAck, FileStatus

MAX_NEW_VERSIONS: Final = 3
"""Times that a file is sent under a new id in one run. Without a limit, an unknown producer that
stores other bytes under each new id would make this one send for ever."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """How blocks are cut, sent and retried; sizes in bytes, times in seconds.

    *machine* is the producer's id. Without *wait*, a block is done when Kafka has it, and
    acknowledgements count only until `Delivery.begin`. With *verify*, every acknowledged block is
    compared with the source. *window* bounds the bytes of the blocks in flight; blocks that a
    worker lost after they were stored are not bounded by it.
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


class Delivery:
    """All files of one run. Pass it the old acknowledgements, call `begin`, then `take` blocks."""

    def __init__(  # noqa: PLR0913 - pure code is given chance and keys
        self,
        sources: Iterable[SourceFile],
        policy: Policy,
        *,
        first_attempt: int,
        chance: Callable[[], float],
        prover: Prover,
        new_mark: Callable[[], str],
    ) -> None:
        """Plan the blocks of *sources*.

        *first_attempt* is a number that no other run has. *new_mark* returns the mark of a new
        version: 16 hexadecimal digits. *chance* returns a random number in [0, 1).
        """
        self.files = {s.file_id: File(s, _plan(s, policy).blocks) for s in sources}
        self.earlier = EarlierVersions(policy.machine, (f.source for f in self.files.values()))
        self.in_flight = BlocksInFlight(
            block_size=policy.block_size, window=policy.window, size_of=self.size_of
        )
        self.bytes_wanted = 0  # that this run has to deliver: not persisted before `begin`
        self.bytes_missing = 0  # of these: not even acknowledged before `begin`
        self.bytes_persisted = 0  # since `begin`
        self.blocks_sent = 0  # attempts that Kafka has
        self.blocks_resent = 0
        self.events: list[Event] = []  # the caller reports and clears them
        self.touched: dict[str, File] = {}  # the caller publishes their status and clears them
        self._policy = policy
        self._chance = chance
        self._recognition = Recognition(
            policy.machine, policy.block_size, prover, verify=policy.verify
        )
        self._new_mark = new_mark
        self._losses: dict[tuple[str, int], int] = {}  # how often workers reported a block lost
        self._attempt = first_attempt
        self._has_begun = False
        self._queue = SendQueue(self._all_blocks())
        self._left = self._busy = sum(file.left for file in self.files.values())

    @property
    def is_done(self) -> bool:
        """Return whether nothing is left to send or to wait for."""
        return self._left == 0 if self._policy.wait else self._busy == 0

    def begin(self, *, only_failed: bool = False) -> None:
        """Decide for each file what is missing, after all old acknowledgements were passed.

        With *only_failed*, files that did not fail in an earlier run are not sent.
        """
        self._has_begun = True
        self.bytes_persisted = 0
        for file in self.files.values():
            self._choose_version(file)
            if file.left == 0:
                file.state = "skipped"
                is_published = file.version.is_recorded and not self.earlier.exist(file)
                self._report(file, publish=not is_published)
            elif only_failed and not file.has_failed:
                self._count(file, left=-file.left, busy=-file.busy)
                file.state = "passed"
            else:
                wanted = [n for n in range(file.blocks) if not file.is_persisted(n)]
                self.bytes_wanted += sum(self.size_of(file, number) for number in wanted)
                missing = (n for n in wanted if not file.version.is_unchecked(n))
                self.bytes_missing += sum(self.size_of(file, number) for number in missing)

    def announce(self, file: File) -> None:
        """Announce *file*, unless it was announced before or its blocks are only compared."""
        if file.state == "waiting" and not file.version.is_all_acknowledged:
            file.state = "announced"
            self._report(file)

    def take(self, now: float, busy: Container[int]) -> Block | None:
        """Return the next block to send or check, on no *busy* partition; None if there is none."""
        while True:
            block = self._queue.take(now, busy, with_fresh=self.in_flight.has_room)
            if block is None:
                return None
            if self._is_obsolete(block) or not self.in_flight.add(block):
                continue
            block.phase = Phase.SENDING
            block.attempt = self._attempt
            block.is_check = block.version.is_unchecked(block.number)
            if not block.is_check:
                block.tries += 1
                block.passed_at = None
                self.announce(block.file)
            return block

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
            self.in_flight.remove(*block.key)
        self._count(block.file, busy=-1)
        self._settle(block.file)

    def checked(self, block: Block, attempt: int, sha256: bytes, now: float) -> None:
        """Note that the acknowledged *block*, which was read, has *sha256* at the source."""
        if not block.is_wanted(attempt):
            return
        file, number = block.file, block.number
        block.sha256 = sha256
        found = block.version.digest(number)
        if found == sha256:
            block.version.confirm(number)
            self.bytes_wanted -= self.size_of(file, number)  # it need not be sent
            self._end(file, block)
        elif found == NO_DIGEST:  # a worker lost the block meanwhile
            self._schedule(block, now)
        else:
            self._change_version(file, number, sha256)

    def retry(self, block: Block, attempt: int, reason: str, now: float) -> None:
        """End *attempt*, which failed for *reason*: send the block again, or count it as failed."""
        if block.attempt != attempt or block.phase in {Phase.QUEUED, Phase.OVER}:
            return
        if block.phase is Phase.SENT:
            self._count(block.file, busy=1)
        block.phase = Phase.QUEUED
        if block.tries < self._policy.max_attempts:
            wait = backoff(block.tries, self._policy.retry_base, self._chance())
            self._send_again(block, reason, now + wait)
        else:
            self._fail_block(block, reason)

    def abort(self, file: File, state: Literal["changed", "unreadable"], reason: str) -> None:
        """Stop sending *file*, and stop waiting for its blocks."""
        if file.is_aborted:
            return
        self._remove_blocks(file)
        self._count(file, left=-file.left, busy=-file.busy)
        file.state = state
        file.reason = reason
        self._report(file)

    def acknowledged(self, ack: BlockAck, now: float) -> None:
        """Take a worker's *ack*; blocks that it persisted for another run count as well."""
        if ack.outcome == "rejected":
            self._rejected(ack, now)
            return
        file = self.files.get(ack.version_of or ack.file_id)
        if file is None or file.is_aborted:
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
        """Take a file's *status* that an earlier run recorded; the newest comes last."""
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
        """Send again the blocks that the group passed over or that Kafka has deleted."""
        for block in self.in_flight:
            if block.phase is not Phase.SENT:
                continue
            if block.last_offset < 0:  # unknown: it is somewhere before the end of the log
                block.last_offset = view.ends.get(block.partition, 0) - 1
            if block.first_offset < 0:
                block.first_offset = block.last_offset
            reason = view.why_hopeless(block)
            if reason is None:
                block.passed_at = None
            elif block.passed_at is None:
                block.passed_at = now
            elif now - block.passed_at >= self._policy.ack_grace:
                self.retry(block, block.attempt, reason, now)

    def size_of(self, file: File, number: int) -> int:
        """Return the bytes of block *number* of *file*."""
        return _plan(file.source, self._policy).span(number)[1]

    @staticmethod
    def _is_obsolete(block: Block) -> bool:
        """Return whether *block* ended, or its file changed its version, while it was queued."""
        file, number = block.file, block.number
        return (
            file.is_aborted
            or file.version is not block.version
            or file.is_persisted(number)
            or number in (file.failed or {})
        )

    def _all_blocks(self) -> Iterator[Block]:
        for file in self.files.values():
            yield from self._blocks_of(file)

    def _blocks_of(self, file: File) -> Iterator[Block]:
        """Yield the missing blocks of the current version of *file*, until that changes."""
        version = file.version
        for number in range(file.blocks):
            if file.is_aborted or file.version is not version:
                return
            if not version.is_persisted(number):
                yield self._block(file, number)

    def _block(self, file: File, number: int) -> Block:
        partitions = self._policy.partitions
        return Block(file, number, fileplan.block_partition(file.file_id, number, partitions))

    def _choose_version(self, file: File) -> None:
        """Choose the version of which the group has most."""
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

    def _change_version(self, file: File, number: int, sha256: bytes) -> None:
        """Change to another version: the source's block *number* has another content, *sha256*.

        The file is sent under the id of a known version with that content, or of a new one.
        """
        refused = file.version
        file.refused = (file.refused or set()) | {refused.file_id}
        self._remove_blocks(file)
        usable = [
            version
            for version in file.versions
            if version.file_id not in file.refused and version.digest(number) == sha256
        ]
        if not usable and len(file.refused) > MAX_NEW_VERSIONS:
            self._fail_file(file)
            return
        self._use(file, max(usable, key=lambda v: v.acknowledged) if usable else self._new(file))
        missing = (n for n in range(file.blocks) if not file.is_persisted(n))
        self.bytes_wanted += sum(self.size_of(file, n) for n in missing)
        file.failed, file.reason = None, ""
        self._queue.extend(self._blocks_of(file))
        if not usable:
            self._report_new_version(file)

    def _remove_blocks(self, file: File) -> None:
        """Send no more blocks of the current version of *file*."""
        for number in range(file.blocks):
            if block := self.in_flight.remove(file.file_id, number):
                block.phase = Phase.OVER
            if not file.is_persisted(number):
                self.bytes_wanted -= self.size_of(file, number)

    def _new(self, file: File) -> Version:
        mark = self._new_mark()
        return Version(self._recognition.id_of(file, mark), file.blocks, mark)

    def _report_new_version(self, file: File) -> None:
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

    def _fail_file(self, file: File) -> None:
        file.is_failed = True
        file.reason = "each time that it was sent, another content was stored under its id"
        file.failed = {0: file.reason}
        file.state = "failed"
        self._count(file, left=-file.left, busy=-file.busy)
        self._report(file)

    def _rejected(self, ack: BlockAck, now: float) -> None:
        block = self.in_flight.find(ack.file_id, ack.block)
        if block is None or block.attempt != ack.attempt or block.is_check:
            return
        if block.sha256 and ack.sha256 and bytes.fromhex(ack.sha256) != block.sha256:
            self._change_version(block.file, block.number, block.sha256)
        else:
            self.retry(block, ack.attempt, f"{ack.machine} rejected it: {ack.reason}", now)

    def _persisted(self, file: File, ack: BlockAck, now: float) -> None:
        """Count a block as persisted if it is known to have the content of the source."""
        number, digest = ack.block, bytes.fromhex(ack.sha256)
        if file.is_persisted(number):
            return
        block = self.in_flight.find(ack.file_id, number)
        if block is not None and block.sha256:
            if digest != block.sha256:
                self._change_version(file, number, block.sha256)
                return
        elif not self._recognition.is_proven(file, ack):
            file.version.acknowledge(number, digest, is_checked=False)
            if block is not None and block.phase is Phase.SENDING and not block.is_check:
                self._schedule(block, now)  # to be read and compared
            return
        self._count_persisted(file, number, digest, block)

    def _count_persisted(self, file: File, number: int, digest: bytes, block: Block | None) -> None:
        file.version.acknowledge(number, digest, is_checked=True)
        file.is_sent = True
        self.bytes_persisted += self.size_of(file, number)
        if file.failed and file.failed.pop(number, None) is not None:
            # The block was counted as failed, so it is not in the counts of the file any more.
            file.reason = next(iter(file.failed.values()), "")
            self._settle(file)
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
        self.in_flight.add(block)
        # A loss does not count as a try. The backoff bounds the cost of forged losses.
        losses = self._losses.get(block.key, 0)
        self._losses[block.key] = losses + 1
        wait = backoff(losses, self._policy.retry_base, self._chance()) if losses else 0.0
        self._send_again(block, "a machine lost it after it was stored", now + wait)

    def _send_again(self, block: Block, reason: str, due: float) -> None:
        self._attempt += 1
        self.blocks_resent += 1
        self._schedule(block, due)
        self.events.append(_block_event(BlockResent, block, reason))

    def _schedule(self, block: Block, due: float) -> None:
        block.phase = Phase.QUEUED
        self._queue.schedule(block, due)

    def _fail_block(self, block: Block, reason: str) -> None:
        block.file.failed = (block.file.failed or {}) | {block.number: reason}
        block.file.reason = block.file.reason or reason
        self.touched[block.file.file_id] = block.file
        self.events.append(_block_event(BlockFailed, block, reason))
        self._end(block.file, block)

    def _end(self, file: File, block: Block | None) -> None:
        """Count a block as done; *block* is None if another run sent it and this run did not."""
        busy = 1
        if block is not None:
            if block.phase is Phase.SENT:
                busy = 0
            block.phase = Phase.OVER
            self.in_flight.remove(*block.key)
        self._count(file, left=-1, busy=-busy)
        self._settle(file)

    def _settle(self, file: File) -> None:
        """Report the new state of *file* when Kafka or the group has all of it."""
        if not self._has_begun or file.busy:
            return
        state: Literal["sent", "failed", "complete", "skipped"]
        if file.left and self._policy.wait:
            state = "sent"
        elif file.failed:
            state = "failed"
        elif file.left:
            state = "sent"
        else:
            state = "complete" if file.is_sent else "skipped"
        if state != file.state:
            file.state = state
            self._report(file)

    def _count(self, file: File, *, left: int = 0, busy: int = 0) -> None:
        file.left += left
        file.busy += busy
        self._left += left
        self._busy += busy

    def _report(self, file: File, *, publish: bool = True) -> None:
        """Add an event for the state of *file*; with *publish*, its status is published too."""
        source = file.source
        if publish:
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


def _plan(source: SourceFile, policy: Policy) -> fileplan.FilePlan:
    return fileplan.FilePlan(file_size=source.size, block_size=policy.block_size)


def _block_event(
    kind: type[BlockResent | BlockFailed], block: Block, reason: str
) -> BlockResent | BlockFailed:
    return kind(
        name=block.file.source.name,
        file_id=block.version.file_id,
        block=block.number,
        tries=block.tries,
        reason=reason,
    )
