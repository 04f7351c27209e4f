"""The list of the group's files: its query, this worker's part, and the merged page.

Each worker sorts its own part. A page is merged from the first rows of all parts.
"""

from __future__ import annotations

import contextlib
import re
import time

from typing import TYPE_CHECKING, Any, Final

import msgspec

from streamapp.protocol.messages import STATES
from streamapp.tables import rows
from streamapp.tables.folds import readable
from streamapp.tables.state import files
from streamapp.tables.web import table_reader
from streamapp.tables.web.deliveries import Deliveries, Delivery
from streamapp.tables.web.peer_answers import FilesAnswer
from streamapp.tables.web.peers import held_here
from streamapp.web.client import LOCAL


if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

PAGE_ROWS: Final = 100
MAX_PAGE_ROWS: Final = 1000
MAX_OFFSET: Final = 10_000
"""Largest offset: every worker sorts that many rows. Later pages are requested by ``after``."""

FILE_ID: Final = re.compile(r"[0-9a-f]{32}")
BY_NAME: Final = rows.ORDERS[0]

TOTALS: Final = ("files", "complete", "bytes", "persisted_bytes", "superseded")
"""Totals over all files. Superseded versions count in ``superseded`` alone."""

_Place = tuple[tuple[int, float, str], str]


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """The query of a list: files that come after *after* (name and file id), in *order*."""

    offset: int = 0
    limit: int = PAGE_ROWS
    after: tuple[str, str] = ("", "")
    search: str = ""
    state: str = ""
    order: str = BY_NAME

    def for_others(self) -> dict[str, str]:
        """Return the query for the other workers' parts.

        It asks for one row more than the page, which shows whether another page follows.
        """
        name, file_id = self.after
        return {
            "limit": str(self.offset + self.limit + 1),
            "after": f"{file_id}:{name}" if file_id else "",
            "search": self.search,
            "state": self.state,
            "order": self.order,
        }


def wanted_by(query: Mapping[str, str]) -> Wanted:
    """Return the parsed and validated *query*.

    Raises:
        ValueError: a value is invalid; the message has the value and what was expected.
    """
    order = _one_of(query.get("order", BY_NAME), "order", rows.ORDERS)
    after = query.get("after", "")
    file_id, colon, name = after.partition(":")
    if after and not (colon and FILE_ID.fullmatch(file_id) and order == BY_NAME):
        message = f"after is {after[:20]!a}, expected what `next` of another page by name was"
        raise ValueError(message)
    most = MAX_PAGE_ROWS + MAX_OFFSET + 1 if LOCAL in query else MAX_PAGE_ROWS
    return Wanted(
        offset=_number(query.get("offset", "0"), "offset", MAX_OFFSET),
        limit=_number(query.get("limit", str(PAGE_ROWS)), "limit", most),
        after=(name, file_id) if after else ("", ""),
        search=query.get("search", "").lower(),
        state=_one_of(query.get("state", ""), "state", STATES) if query.get("state") else "",
        order=order,
    )


async def local_files(wanted: Wanted, *, is_local: bool = False) -> FilesAnswer:
    """Return this worker's part: the first *wanted* files, and the totals of all its files.

    *is_local*: another worker asks, and its query already includes the additional row.
    """
    found: list[tuple[_Place, rows.FileRow]] = []
    deliveries = Deliveries()
    totals = dict.fromkeys(TOTALS, 0)
    partitions, matching = tuple(sorted(held_here())), 0
    most = wanted.offset + wanted.limit + (not is_local)
    table = table_reader.gate(is_local=is_local).rows(files.items())
    async with contextlib.aclosing(table) as read:
        async for key, raw in read:
            row = readable(files, key, raw, rows.FileRow)
            if row is None:
                continue
            _count(row, totals)
            deliveries.note(row)
            if wanted.search in row.name.lower() and wanted.state in {"", row.state}:
                matching += 1
                file_id = key.decode()
                if (row.name, file_id) > wanted.after:
                    by = rows.order_key(
                        wanted.order, name=row.name, state=row.state, last_at=row.last_at
                    )
                    found.append(((by, file_id), row))
            if len(found) > 2 * most + MAX_PAGE_ROWS:
                found = _first(found, most)
    shown = table_reader.in_slices(_first(found, most))
    return FilesAnswer(
        partitions=partitions,
        totals=totals,
        deliveries=msgspec.convert(deliveries.newest, list[Delivery]),
        matching=matching,
        files=[file_json(file_id, row) async for (_, file_id), row in shown],
    )


def merged(answers: list[FilesAnswer], wanted: Wanted) -> dict[str, Any]:
    """Return the *wanted* page of all workers' parts, and where the next page begins."""

    def place(file: dict[str, Any]) -> _Place:
        by = rows.order_key(wanted.order, **{f: file[f] for f in ("name", "state", "last_at")})
        return by, file["file_id"]

    found = sorted((file for answer in answers for file in answer.files), key=place)
    end = wanted.offset + wanted.limit
    page = found[wanted.offset : end]
    is_followed = bool(page and found[end:] and wanted.order == BY_NAME)
    deliveries = Deliveries()
    for answer in answers:
        deliveries.merge(answer.deliveries)
    return {
        "totals": {name: sum(a.totals.get(name, 0) for a in answers) for name in TOTALS},
        "deliveries": deliveries.newest,
        "matching": sum(answer.matching for answer in answers),
        "offset": wanted.offset,
        "next": f"{page[-1]['file_id']}:{page[-1]['name']}" if is_followed else None,
        "files": page,
    }


def file_json(file_id: str, row: rows.FileRow) -> dict[str, Any]:
    """Return one file as the views show it. Sizes in bytes, rate in bytes per second."""
    return {
        "file_id": file_id,
        "name": row.name,
        "state": row.state,
        "reason": row.reason,
        "size": row.size,
        "persisted_bytes": row.persisted_bytes,
        "blocks": row.blocks,
        "persisted_blocks": row.persisted_blocks,
        "block_size": row.block_size,
        "percent": round(100 * row.persisted_blocks / row.blocks, 2) if row.blocks else 0.0,
        "rate": round(_rate(row), 1),
        "source": row.source,
        "superseded_by": row.superseded_by,
        "digest": row.digest,
        "failed_blocks": msgspec.to_builtins(row.failed_blocks),
        "first_at": row.first_at,
        "last_at": row.last_at,
    }


def _count(row: rows.FileRow, totals: dict[str, int]) -> None:
    if row.is_superseded:
        totals["superseded"] += 1
        return
    totals["files"] += 1
    totals["complete"] += row.is_complete
    totals["bytes"] += row.size
    totals["persisted_bytes"] += row.persisted_bytes


def _first(
    found: list[tuple[_Place, rows.FileRow]], most: int
) -> list[tuple[_Place, rows.FileRow]]:
    return sorted(found, key=lambda item: item[0])[:most]


def _rate(row: rows.FileRow) -> float:
    is_stalled = not row.is_complete and time.time() - row.last_at > rows.STALLED_SECONDS
    return 0.0 if is_stalled else row.rate


def _one_of(text: str, name: str, known: Collection[str]) -> str:
    if text not in known:
        message = f"{name} is {text[:20]!a}, expected one of {', '.join(known)}"
        raise ValueError(message)
    return text


def _number(text: str, name: str, most: int) -> int:
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(most))
    if not is_number or int(text) > most:
        message = f"{name} is {text[:20]!r}, expected a number from 0 to {most}"
        raise ValueError(message)
    return int(text)
