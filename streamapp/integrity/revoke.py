"""Revokes a bad block: moves it to quarantine, and returns the ``lost`` records to publish.

The block is moved first, because while it has its name it counts as persisted and would be
acknowledged again. Then the records are published. Until that is recorded beside the bytes, the
next start publishes them again.
"""

from __future__ import annotations

import logging
import re
import time

from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from streamapp.errors import BlockMalformedError, StoreError
from streamapp.integrity import verify
from streamapp.integrity.verify import Pace, State, Verdict
from streamapp.protocol import fileplan
from streamapp.protocol.messages import BlockAck, decode_ack, encode


if TYPE_CHECKING:
    from streamapp.store import BlockStore
    from streamapp.store.data_folder import DataFolder

logger = logging.getLogger(__name__)

_LOSS: Final = "the block was stored, and is not what it was: "


class RevokedBlock(msgspec.Struct, frozen=True, kw_only=True):
    """A block that is no longer persisted: the records to publish, and its quarantined bytes.

    *name* is its name in the quarantine of *root*, empty if it could not be moved there.
    """

    root: Path
    reason: str
    acks: tuple[BlockAck, ...]
    name: str = ""


def revoke_block(
    store: BlockStore, root: DataFolder, bad: Verdict, *, group: str, machine: str
) -> RevokedBlock | None:
    """Quarantine the block of the verdict *bad*; return None if nothing must be published.

    That is so if a second look finds the block good, if it was found before and could not be
    moved, and for a bad ``file.json``, which is rewritten without loss.

    Raises:
        StoreError: it could not be read again, or ``file.json`` could not be written.
    """
    if bad.state is State.FILE_JSON:
        root.mend(bad.parts)
        return None
    seen = verify.again(bad, Pace())
    if seen is None or seen.is_good:
        logger.warning("%s was bad (%s), and is not at a second look", bad.path, bad.reason)
        return None
    acks = _acks(seen, group=group, machine=machine)
    file_id = seen.file.file_id if seen.file else "unknown"
    why = {
        "state": seen.state.value,
        "reason": seen.reason,
        "file": str(seen.path.relative_to(root.path)),
        "at": time.time(),
        "acks": [encode(ack).decode() for ack in acks],
    }
    name = ""
    try:
        name = root.quarantine(seen.parts, seen.stem, f"{file_id}-{seen.block}", why).stem
    except StoreError as error:
        if not root.condemn(file_id, seen.block):
            return None
        logger.error("%s stays where it is: %s", seen.path, error)  # noqa: TRY400 - expected
    root.kept.remove(_size(seen))
    return RevokedBlock(
        root=root.path, reason=seen.reason, acks=_still_lost(store, acks), name=name
    )


def _size(bad: Verdict) -> int:
    """Return the bytes of the block of *bad*, by its file's sizes if known."""
    if bad.file is None:
        return bad.size
    return bad.file.size_of(bad.block) if bad.block < bad.file.blocks else bad.size


def untold(store: BlockStore) -> list[RevokedBlock]:
    """Return the losses that an earlier run did not publish.

    A block that is persisted again has no records to publish: its newer acknowledgement is right.

    Raises:
        StoreError: the quarantine cannot be read.
    """
    found = []
    for root in store.roots:
        for name, record in root.untold_losses():
            acks = tuple(ack for text in record.get("acks", ()) if (ack := _ack(text)))
            reason = str(record.get("reason", ""))
            lost = _still_lost(store, acks)
            found.append(RevokedBlock(root=root.path, reason=reason, acks=lost, name=name))
    return found


def told(store: BlockStore, revoked: RevokedBlock) -> None:
    """Record that the records of *revoked* are published."""
    for root in store.roots:
        if revoked.name and root.path == revoked.root:
            try:
                root.mark_told(revoked.name)
            except StoreError as error:
                logger.warning("%s", error)


def _acks(bad: Verdict, *, group: str, machine: str) -> tuple[BlockAck, ...]:
    """Return the records that revoke the block, for every group that has it."""
    file = bad.file
    if file is None or bad.block >= file.blocks:
        logger.error("nothing tells whose block %s was: nobody can send it again", bad.path)
        return ()
    groups = {group}
    if bad.meta and re.match(fileplan.IDENTIFIER, bad.meta.group):
        groups.add(bad.meta.group)  # the machine may have been in another group then
    return tuple(
        BlockAck(
            file_id=file.file_id,
            block=bad.block,
            blocks=file.blocks,
            group=name,
            machine=machine,
            outcome="lost",
            attempt=0,
            size=file.size_of(bad.block),
            name=file.name,
            file_size=file.size,
            block_size=file.block_size,
            source=file.source,
            mtime_ns=str(file.mtime_ns),
            version=file.version,
            version_of=file.version_of,
            reason=_LOSS + bad.reason,
            at=time.time(),
        )
        for name in sorted(groups)
    )


def _still_lost(store: BlockStore, acks: tuple[BlockAck, ...]) -> tuple[BlockAck, ...]:
    """Leave out blocks that another data folder of this machine has."""
    return tuple(ack for ack in acks if store.stored(ack.file_id, ack.block) is None)


def _ack(text: object) -> BlockAck | None:
    try:
        return decode_ack(str(text).encode())
    except BlockMalformedError as error:
        logger.warning("passed over a record in the quarantine: %s", error)
        return None
