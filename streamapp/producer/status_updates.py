"""What the status topic is told of each file: at most one record a second.

Pure code. A file that is announced, sent and complete within a second costs one record, so
that a folder of many small files does not keep the workers busy with news.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from streamapp.protocol.messages import MAX_FAILED_BLOCKS_LISTED, FailedBlock, FileStatus


if TYPE_CHECKING:
    from collections.abc import Iterable

    from streamapp.producer.block_proofs import Prover
    from streamapp.producer.model import File
    from streamapp.producer.superseding import EarlierVersions

HOLD_SECONDS: Final = 1.0


class StatusUpdates:
    """Files whose status is to be sent, in the order in which they are due."""

    def __init__(
        self,
        *,
        machine: str,
        block_size: int,
        run_at: float,
        prover: Prover,
        earlier: EarlierVersions,
    ) -> None:
        """*run_at* is when the run began, seconds since 1970: all its files are known by it.

        *earlier* knows which versions of a file are superseded when it is complete.
        """
        self._earlier = earlier
        self._prover = prover
        self._machine = machine
        self._run_at = run_at
        self._block_size = block_size
        self._due: dict[str, tuple[float, File]] = {}

    def touch(self, files: Iterable[File], now: float) -> None:
        """Note that something changed about *files*."""
        for file in files:
            self._due.setdefault(file.file_id, (now + HOLD_SECONDS, file))

    def take_due(self, now: float, wall: float) -> list[tuple[File, FileStatus]]:
        """Return what is to be sent *now* (monotonic); *wall* is the time that is written."""
        taken = []
        while self._due:
            file_id, (due, file) = next(iter(self._due.items()))
            if due > now:
                break
            del self._due[file_id]
            status = self._record(file, wall)
            taken.append((file, status))
            if status.state == "complete":
                taken += [(file, old) for old in self._earlier.superseded(file, status)]
        return taken

    def _record(self, file: File, wall: float) -> FileStatus:
        source, state = file.source, _state(file)
        failed = sorted((file.failed or {}).items())[:MAX_FAILED_BLOCKS_LISTED]
        version = file.version
        digest = file.file_digest() if state == "complete" else ""
        return FileStatus(
            file_id=version.file_id,
            state=state,
            name=source.name,
            size=source.size,
            blocks=file.blocks,
            block_size=self._block_size,
            source=self._machine,
            digest=digest,
            mtime_ns=str(source.mtime_ns),
            ctime_ns="" if source.ctime_ns is None else str(source.ctime_ns),
            version=version.mark,
            version_of=source.file_id if version.mark else "",
            proof=self._prover.of_file(version.file_id, source, digest).hex() if digest else "",
            reason=file.reason,
            failed_blocks=tuple(FailedBlock(*block) for block in failed),
            at=wall,
            run_at=self._run_at,
        )


def _state(file: File) -> Literal["announced", "sent", "complete", "failed", "changed"]:
    if file.state == "changed":
        return "changed"
    if file.failed or file.state == "unreadable":
        return "failed"
    if file.state in {"complete", "skipped"}:
        return "complete"
    return "sent" if file.state == "sent" else "announced"
