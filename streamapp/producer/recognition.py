"""Decides whether an acknowledgement or a status record counts for a file of this producer.

Pure code. A record counts only if it has the name, size, time and block size of the file, and if
its file id is the digest of these. This does not prove that the stored content is that of the
source. Only a proof of this producer does, or a comparison with the source.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from streamapp.producer.version import Version
from streamapp.protocol import fileplan
from streamapp.protocol.messages import FileStatus


if TYPE_CHECKING:
    from streamapp.producer.block_proofs import Prover
    from streamapp.producer.model import File
    from streamapp.protocol.messages import BlockAck

MAX_VERSIONS: Final = 16
"""Known versions of a file, at most: an unknown producer may write any number to the topics."""


class Recognition:
    """Validates records for the producer *machine*; with *verify*, no proof counts."""

    def __init__(self, machine: str, block_size: int, prover: Prover, *, verify: bool) -> None:
        self._machine = machine
        self._block_size = block_size
        self._prover = prover
        self._verify = verify

    def version(self, file: File, record: BlockAck | FileStatus) -> Version | None:
        """Return the version of *file* that *record* names; None if the record does not count."""
        if not self._is_about(file, record):
            return None
        version = file.find(record.file_id)
        if version is None and record.version and len(file.others or ()) < MAX_VERSIONS:
            if self.id_of(file, record.version) != record.file_id:
                return None
            version = Version(record.file_id, file.blocks, record.version)
            file.add(version)
        return version

    def id_of(self, file: File, mark: str) -> str:
        """Return the id of the version *mark* of *file*."""
        source = file.source
        return fileplan.file_id(
            source=self._machine,
            name=source.path,
            size=source.size,
            mtime_ns=source.mtime_ns,
            block_size=self._block_size,
            version=mark,
        )

    def is_proven(self, file: File, ack: BlockAck) -> bool:
        """Return whether this producer has hashed the content that *ack* names."""
        if self._verify or not ack.proof:
            return False
        sha256 = bytes.fromhex(ack.sha256)
        proof = self._prover.of_block(ack.file_id, ack.block, file.source, sha256)
        return proof.hex() == ack.proof

    def is_recorded(self, file: File, status: FileStatus) -> bool:
        """Return whether this producer hashed all of *file*, and published *status* then."""
        if status.state != "complete" or not status.proof:
            return False
        proof = self._prover.of_file(status.file_id, file.source, status.digest)
        return proof.hex() == status.proof

    def _is_about(self, file: File, record: BlockAck | FileStatus) -> bool:
        source = file.source
        size = record.size if isinstance(record, FileStatus) else record.file_size
        return (
            (record.source, record.name) == (self._machine, source.name)
            and (size, record.block_size, record.blocks)
            == (source.size, self._block_size, file.blocks)
            and record.mtime_ns in {"", str(source.mtime_ns)}  # older records have none
        )
