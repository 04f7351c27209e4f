"""Read-only HTTP views of the tables. Whichever worker is asked answers for the group.

One file is routed to the worker that holds it; lists ask every worker and merge. A worker
that does not answer, or is restoring its tables, is named in ``silent``: a short list is never
taken for whole.
"""

from __future__ import annotations

import re
import time

from typing import TYPE_CHECKING, Any, Final

import msgspec

from streamapp import watching
from streamapp.app import app
from tables import rows
from tables.deliveries import Deliveries, Delivery
from tables.folds import file_row, readable
from tables.peers import LOCAL, ask_holder, ask_others, not_ready
from tables.state import block_map, files


if TYPE_CHECKING:
    from collections.abc import Collection

    from faust.types.web import Request, Response
    from faust.web import View

PAGE_ROWS: Final = 100
MAX_PAGE_ROWS: Final = 1000
MAX_OFFSET: Final = 10_000_000
MAX_MISSING: Final = 1000
_FILE_ID: Final = re.compile(r"[0-9a-f]{32}")


@app.page("/progress/")
async def all_files(view: View, request: Request) -> Response:
    """Answer with a page of files: ``?offset=&limit=&search=&state=&order=``.

    *order* is ``name`` or ``activity``.
    """
    query = request.query
    try:
        offset = _number(query.get("offset", "0"), "offset", MAX_OFFSET)
        most = MAX_PAGE_ROWS + MAX_OFFSET if LOCAL in query else MAX_PAGE_ROWS
        limit = _number(query.get("limit", str(PAGE_ROWS)), "limit", most)
        order = _one_of(query.get("order", rows.ORDERS[0]), "order", rows.ORDERS)
    except ValueError as error:
        return view.json({"error": str(error)}, status=400)
    search, state = query.get("search", "").lower(), query.get("state", "")
    if LOCAL in query and not watching.is_ready(app):
        return not_ready(view)
    own = local_files(offset + limit, search=search, state=state, order=order)
    if LOCAL in query:
        return view.json(own)
    asked = {"limit": str(offset + limit), "search": search, "state": state, "order": order}
    others, silent = await ask_others("/progress/", asked)
    return view.json(_merged([own, *others], offset, limit, order) | _completeness(silent))


@app.page("/progress/{file_id}/")
async def one_file(view: View, request: Request, file_id: str) -> Response:
    """Answer with the progress of one file, from the worker that holds it."""
    answer = await _elsewhere(view, request, file_id)
    if answer is not None:
        return answer
    row = file_row(file_id.encode())
    return view.json(file_json(file_id, row)) if row else _unknown(view, file_id)


@app.page("/progress/{file_id}/blocks/")
async def file_blocks(view: View, request: Request, file_id: str) -> Response:
    """Answer with which blocks of a file are persisted, and the first that are missing."""
    answer = await _elsewhere(view, request, file_id)
    if answer is not None:
        return answer
    row = file_row(file_id.encode())
    if row is None:
        return _unknown(view, file_id)
    runs: list[dict[str, Any]] = []
    missing: list[int] = []
    for first in range(0, row.blocks, rows.RUN_BLOCKS):
        run = block_map.get(rows.run_key(file_id, first), b"")
        runs.append({"first": first, "persisted": rows.count_bits(run), "bits": run.hex()})
        missing += rows.missing_blocks(
            run, first=first, blocks=row.blocks, limit=MAX_MISSING - len(missing)
        )
    return view.json({"file_id": file_id, "blocks": row.blocks, "runs": runs, "missing": missing})


async def _elsewhere(view: View, request: Request, file_id: str) -> Response | None:
    """Return the answer where it is not this worker's to look into its tables."""
    if not _FILE_ID.fullmatch(file_id):
        return _unknown(view, file_id)
    return await ask_holder(view, request, file_id)


def _unknown(view: View, file_id: str) -> Response:
    return view.json({"error": f"no file {file_id[:64]!r} is known"}, status=404)


@app.page("/health/live/")
async def live(view: View, request: Request) -> Response:  # noqa: ARG001
    """Answer 200 as long as the worker answers at all: when it does not, restart it."""
    return view.json({"live": True})


@app.page("/health/ready/")
async def ready(view: View, request: Request) -> Response:  # noqa: ARG001
    """Answer 200 when the worker serves, 503 while it does not: send it no questions then."""
    answer = health_json()
    return view.json(answer, status=200 if answer["ready"] else 503)


@app.page("/health/")
async def health(view: View, request: Request) -> Response:  # noqa: ARG001
    """Answer 200 when the worker serves, 503 while it does not; the body says why."""
    answer = health_json()
    return view.json(answer, status=200 if answer["ready"] else 503)


def health_json() -> dict[str, Any]:
    """Return how this worker is: *live* it runs, *ready* it can do its work.

    It can while it has its tables and partitions, a cluster, and nothing that it waits for.
    """
    recovered = watching.is_ready(app)
    state = app.vitals.state
    return {
        "live": True,
        "ready": recovered and state == "running",
        "machine": app.settings.machine_id,
        "group": app.settings.group_id,
        "state": state if recovered or state == "stopping" else "recovering",
        "reason": app.vitals.reason or ("" if recovered else watching.RESTORING),
        "partitions": watching.block_partitions(app),
    }


def local_files(
    limit: int, *, search: str = "", state: str = "", order: str = "name"
) -> dict[str, Any]:
    """Return the first *limit* files of this worker's partitions, in *order*, and the totals."""
    found: list[tuple[tuple[int, float, str], str, rows.FileRow]] = []
    deliveries = Deliveries()
    totals = {"files": 0, "complete": 0, "bytes": 0, "persisted_bytes": 0}
    for key, raw in files.items():
        row = readable(files, key, raw, rows.FileRow)
        if row is None:
            continue
        totals["files"] += 1
        totals["complete"] += row.is_complete
        totals["bytes"] += row.size
        totals["persisted_bytes"] += row.persisted_bytes
        deliveries.note(row)
        if search in row.name.lower() and state in {"", row.state}:
            by = rows.order_key(order, name=row.name, state=row.state, last_at=row.last_at)
            found.append((by, key.decode(), row))
    found.sort(key=lambda item: item[:2])
    return {
        "totals": totals,
        "deliveries": deliveries.newest,
        "matching": len(found),
        "files": [file_json(file_id, row) for _, file_id, row in found[:limit]],
    }


def file_json(file_id: str, row: rows.FileRow) -> dict[str, Any]:
    """Return what the views say of one file. Sizes in bytes, rate in bytes per second."""
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
        "digest": row.digest,
        "failed_blocks": msgspec.to_builtins(row.failed_blocks),
        "first_at": row.first_at,
        "last_at": row.last_at,
    }


def _rate(row: rows.FileRow) -> float:
    is_stalled = not row.is_complete and time.time() - row.last_at > rows.STALLED_SECONDS
    return 0.0 if is_stalled else row.rate


def _merged(answers: list[dict[str, Any]], offset: int, limit: int, order: str) -> dict[str, Any]:
    def key(file: dict[str, Any]) -> tuple[tuple[int, float, str], str]:
        by = rows.order_key(order, **{f: file[f] for f in ("name", "state", "last_at")})
        return by, file["file_id"]

    found = sorted((file for answer in answers for file in answer["files"]), key=key)
    totals = {name: sum(a["totals"][name] for a in answers) for name in answers[0]["totals"]}
    deliveries = Deliveries()
    for answer in answers:
        deliveries.merge(msgspec.convert(answer["deliveries"], list[Delivery]))
    return {
        "totals": totals,
        "deliveries": deliveries.newest,
        "matching": sum(answer["matching"] for answer in answers),
        "offset": offset,
        "files": found[offset : offset + limit],
    }


def _completeness(silent: list[str]) -> dict[str, Any]:
    return {"partial": bool(silent), "silent": silent}


def _one_of(text: str, name: str, known: Collection[str]) -> str:
    if text not in known:
        message = f"{name} is {text[:20]!r}, expected {' or '.join(known)}"
        raise ValueError(message)
    return text


def _number(text: str, name: str, most: int) -> int:
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(most))
    if not is_number or int(text) > most:
        message = f"{name} is {text[:20]!r}, expected a number from 0 to {most}"
        raise ValueError(message)
    return int(text)
