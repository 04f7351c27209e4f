"""Acknowledges every block in this machine's data folders again, after the topic was lost.

The workers fold the records as any other, so doing this twice changes nothing.
"""

from __future__ import annotations

import time

from typing import TYPE_CHECKING

from streamapp.errors import SourceError
from streamapp.kafka import publish, topic_admin
from streamapp.restore import assemble
from streamapp.store import metadata


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from streamapp.protocol.messages import BlockAck
    from streamapp.settings import Settings


def from_disks(settings: Settings) -> int:
    """Publish a ``persisted`` record for every block in this machine's data folders.

    Returns how many blocks there were.

    Raises:
        SourceError: there is no data folder.
        ClusterError: the broker does not answer, or did not take them all.
    """
    roots = [root for root in settings.data_roots if root.is_dir()]
    if not roots:
        message = f"no data folder {settings.data_roots[0]}: give --machine-id and --data-dir"
        raise SourceError(message)
    topic_admin.ensure(settings)
    return publish.publish_acks(settings, _acks(settings, roots))


def _acks(settings: Settings, roots: list[Path]) -> Iterator[BlockAck]:
    for joined in assemble.collect(roots).values():
        for block, paths in joined.blocks.items():
            path = paths[0].with_name(metadata.metadata_name(block, joined.file.blocks))
            if path.exists():
                stored = metadata.decode_block(path.read_bytes())
                yield stored.acknowledgement(
                    group=settings.group_id, machine=settings.machine_id, at=time.time()
                )
