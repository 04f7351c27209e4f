"""Finds the earlier versions that a delivered file supersedes, and makes their status records.

Pure code. A changed file has another id, so one name of a source may have several versions. When
the version on the source's disk is complete, it supersedes the others
(`docs/adr/0020-which-version-is-current.md`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from streamapp.protocol import fileplan


if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from streamapp.producer.model import File
    from streamapp.producer.sources.scan import SourceFile
    from streamapp.producer.version import Version
    from streamapp.protocol.messages import FileStatus

MAX_EARLIER: Final = 16
"""Earlier versions of a name that one run supersedes; the next run finds further ones."""


class EarlierVersions:
    """Versions of *sources* of *machine* with another size, time or block size."""

    def __init__(self, machine: str, sources: Iterable[SourceFile]) -> None:
        self._machine = machine
        self._sources = {source.name: source for source in sources}
        self._found: dict[str, dict[str, FileStatus]] = {}  # by name and file id

    def note(self, status: FileStatus) -> None:
        """Take the status of a file id that none of the sources has; the newest comes last.

        It counts only if the id is the digest of a file of this machine with a source's name.
        """
        source = self._sources.get(status.name)
        if source is None or not self._is_version(source, status):
            return
        found = self._found.setdefault(status.name, {})
        if status.state == "superseded":
            found.pop(status.file_id, None)
        elif status.file_id in found or len(found) < MAX_EARLIER:
            found[status.file_id] = status

    def exist(self, file: File) -> bool:
        """Return whether a version of *file* must be published as superseded."""
        return bool(self._found.get(file.source.name)) or any(_replaced(file))

    def superseded(self, file: File, current: FileStatus) -> list[FileStatus]:
        """Return the records to publish with *current*, the status of the complete *file*."""
        same_cut = [
            msgspec.structs.replace(
                current,
                file_id=version.file_id,
                version=version.mark,
                version_of=file.source.file_id if version.mark else "",
                digest="",
                proof="",
            )
            for version in _replaced(file)
        ]
        return [
            msgspec.structs.replace(
                status,
                state="superseded",
                superseded_by=current.file_id,
                reason="",
                failed_blocks=(),
                at=current.at,
                run_at=current.run_at,
            )
            for status in (*self._found.get(file.source.name, {}).values(), *same_cut)
        ]

    def _is_version(self, source: SourceFile, status: FileStatus) -> bool:
        if status.source != self._machine or not status.mtime_ns:  # an older record has no time
            return False
        return status.file_id == fileplan.file_id(
            source=self._machine,
            name=source.path,
            size=status.size,
            mtime_ns=int(status.mtime_ns),
            block_size=status.block_size,
            version=status.version,
        )


def _replaced(file: File) -> Iterator[Version]:
    """Yield the other versions with the size and time of *file*."""
    for version in file.versions:
        is_known = version.acknowledged or version.state or version.file_id in (file.refused or ())
        if version is not file.version and is_known and version.state != "superseded":
            yield version
