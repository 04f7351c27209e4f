"""The status records of files: at most one record a second for each file.

Pure code. A file that is announced, sent and complete within a second causes one record, so many
small files do not flood the status topic.
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
"""Delay of a status record, so that later states of the file need no record of their own."""


class StatusUpdates:
    """Files whose status must be published, in the order in which they are due."""

    def __init__(
        self,
        *,
        machine: str,
        block_size: int,
        run_at: float,
        prover: Prover,
        earlier: EarlierVersions,
    ) -> None:
        """*run_at* is the start of the run in seconds since 1970; it identifies the run.

        *earlier* has the versions that a complete file supersedes.
        """
        self._earlier = earlier
        self._prover = prover
        self._machine = machine
        self._run_at = run_at
        self._block_size = block_size
        self._due: dict[str, tuple[float, File]] = {}

    def touch(self, files: Iterable[File], now: float) -> None:
        """Schedule a status record for each of *files*, due `HOLD_SECONDS` after *now*."""
        for file in files:
            self._due.setdefault(file.file_id, (now + HOLD_SECONDS, file))

    def take_due(self, now: float, wall: float) -> list[tuple[File, FileStatus]]:
        """Return the records due *now* (monotonic), with the time *wall* (since 1970)."""
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
        digest = version.file_digest() if state == "complete" else ""
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
    if file.state == "sent":
        return "sent"
    return "announced"
