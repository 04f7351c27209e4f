"""The result of a fault: the promise is held, or what was lost.

Pure code. `tests/integration/test_selftest.py` plants losses and expects exit code 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from rich.table import Table
from rich.text import Text

from streamapp.protocol.filenames import printable


if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from streamapp.protocol.messages import BlockAck

HELD: Final = "held"
EXIT_LOST: Final = 1
_LISTED: Final = 3

Place = tuple[str, str, int]
"""Where a block is stored: machine, file id, block number."""


class Row(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="fault"):
    """One fault and its result."""

    promise: str
    fault: str
    outcome: str
    seconds: float

    @property
    def is_held(self) -> bool:
        """Whether nothing was lost."""
        return self.outcome == HELD


def row(promise: str, fault: str, problems: Sequence[str], *, seconds: float) -> Row:
    """Return the row of a *fault* that caused *problems*."""
    listed = "; ".join(problems[:_LISTED])
    more = f"; and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
    outcome = f"LOST: {listed}{more}" if problems else HELD
    return Row(promise=promise, fault=fault, outcome=outcome, seconds=round(seconds, 1))


def untrue(acks: Iterable[BlockAck], stored: Mapping[Place, str]) -> list[str]:
    """Return the acknowledgements that are untrue; *stored* has each block's SHA-256 on disk."""
    problems = {}
    for ack in acks:
        found = stored.get((ack.machine, ack.file_id, ack.block))
        what = f"{ack.name} block {ack.block}"
        if ack.outcome == "lost":
            problems[what] = f"{what}: {ack.machine} had acknowledged it, and lost it"
        elif ack.outcome == "persisted" and found is None:
            problems[what] = f"{what}: acknowledged by {ack.machine}, and not on its disk"
        elif ack.outcome == "persisted" and found != ack.sha256:
            problems[what] = f"{what}: acknowledged by {ack.machine}, which has other bytes"
    return list(problems.values())


def exit_code(rows: Sequence[Row]) -> int:
    """Return 0 only if there are *rows* and each promise is held."""
    return 0 if rows and all(row.is_held for row in rows) else EXIT_LOST


def table(rows: Iterable[Row]) -> Table:
    """Return *rows* as a table."""
    shown = Table(title="What was promised, what was done to it, what came of it")
    for column in ("promise", "fault", "outcome"):
        shown.add_column(column, overflow="fold")
    for row in rows:
        outcome = Text(printable(row.outcome), style="green" if row.is_held else "red")
        shown.add_row(row.promise, row.fault, outcome)
    return shown
