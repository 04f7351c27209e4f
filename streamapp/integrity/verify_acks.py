"""Implements `streamapp verify --against-acks`: compares disks with acknowledgements, both ways.

Without ``--repair`` it only reads, also beside a running worker. With it, missing blocks are
published as ``lost``, and others are acknowledged again. `docs/protocol.md` is normative.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Final

import msgspec

from streamapp.integrity import inventory, reconciliation
from streamapp.integrity.line_writer import line_writer
from streamapp.kafka import topic_admin
from streamapp.protocol.filenames import printable
from streamapp.store import BlockStore, walk


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from streamapp.settings import Settings

EXIT_DIFFERENT: Final = 1

_MISSING: Final = "acknowledged and not on disk"
_UNACKNOWLEDGED: Final = "on disk and not acknowledged"


class Difference(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="difference"):
    """A block for which disk and acknowledgements differ."""

    state: str
    machine: str
    file_id: str
    block: int
    name: str

    def line(self) -> str:
        """Return the text output."""
        return f"{self.state}: {printable(self.name)}, block {self.block} (file {self.file_id})"


class Summary(msgspec.Struct, kw_only=True, tag_field="kind", tag="summary"):
    """The numbers of blocks that differ, and of published records."""

    missing: int = 0
    unacknowledged: int = 0
    published: int = 0

    def line(self) -> str:
        """Return the text output."""
        if not self.missing and not self.unacknowledged:
            return "The disks have what is acknowledged, and all of it is acknowledged"
        text = (
            f"{self.missing} acknowledged and not on disk, "
            f"{self.unacknowledged} on disk and not acknowledged"
        )
        return f"{text}; {self.published} published" if self.published else text


def run(
    settings: Settings,
    machines: dict[str, list[Path]],
    *,
    with_repair: bool,
    as_json: bool,
    stream: IO[str] | None = None,
) -> int:
    """Compare the folders of *machines* with the acknowledgements; return 0 when they agree.

    Raises:
        StoreError: something could not be read, or a worker has the folder (*with_repair*).
        ClusterError: the broker does not answer, or the records could not be published.
    """
    topic_admin.check(settings)
    write = line_writer(as_json=as_json, stream=stream)

    summary = Summary()
    for machine, roots in machines.items():
        if with_repair:
            _repair(settings, machine, roots, summary, write)
        else:
            _compare(settings, machine, roots, summary, write)
    write(summary)
    return EXIT_DIFFERENT if summary.missing or summary.unacknowledged else 0


def _compare(
    settings: Settings,
    machine: str,
    roots: list[Path],
    summary: Summary,
    write: Callable[[Difference | Summary], None],
) -> None:
    found = inventory.compare(settings, roots, machine=machine)
    if found.missing:  # a worker may have persisted it since the disks were looked at
        now = {
            (folder.file.file_id, block)
            for folder in walk.files_in(roots)
            for block in folder.blocks
        }
        for key in now & found.missing.keys():
            del found.missing[key]
    for difference in _differences(found, machine):
        summary.missing += difference.state == _MISSING
        summary.unacknowledged += difference.state == _UNACKNOWLEDGED
        write(difference)


def _repair(
    settings: Settings,
    machine: str,
    roots: list[Path],
    summary: Summary,
    write: Callable[[Difference | Summary], None],
) -> None:
    store = BlockStore(roots, min_free=0)
    store.open()
    try:
        _compare(settings, machine, roots, summary, write)
        outcome = reconciliation.publish_differences(settings, store, machine)
        summary.published += outcome.lost + outcome.persisted
    finally:
        store.close()


def _differences(found: inventory.Differences, machine: str) -> Iterator[Difference]:
    for (file_id, block), ack in found.missing.items():
        yield Difference(
            state=_MISSING, machine=machine, file_id=file_id, block=block, name=ack.name
        )
    for folder, block in found.unacknowledged():
        if folder.block(block):
            file = folder.file
            yield Difference(
                state=_UNACKNOWLEDGED,
                machine=machine,
                file_id=file.file_id,
                block=block,
                name=file.name,
            )
