"""Read-only HTTP views of the files table. Each worker answers for the whole group.

A request for one file is forwarded to the worker that has its row. A list is merged from the
answers of all workers; a worker that does not answer, or recovers its tables, is named in
``silent``, and the list is marked as partial.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from streamapp.app import app
from streamapp.tables import rows
from streamapp.tables.folds import file_row
from streamapp.tables.state import block_map
from streamapp.tables.web import table_reader
from streamapp.tables.web.file_lists import FILE_ID, file_json, local_files, merged, wanted_by
from streamapp.tables.web.peer_answers import read_files
from streamapp.tables.web.peers import ask_holder, ask_others, held_here, not_ready
from streamapp.tables.web.table_reader import json_of
from streamapp.web.client import LOCAL
from streamapp.worker import readiness


if TYPE_CHECKING:
    from faust.types.web import Request, Response
    from faust.web import View

MAX_MISSING: Final = 1000


@app.page("/progress/")
async def all_files(view: View, request: Request) -> Response:
    """Answer with a page of files: ``?limit=&after=&offset=&search=&state=&order=``."""
    try:
        wanted = wanted_by(request.query)
    except ValueError as error:
        return view.json({"error": str(error)}, status=400)
    is_local = LOCAL in request.query
    if is_local and not readiness.is_ready(app):
        return not_ready(view)
    with table_reader.gate(is_local=is_local).enter():
        own = await local_files(wanted, is_local=is_local)
        if is_local:
            is_changed = set(own.partitions) != held_here() or not readiness.is_ready(app)
            return not_ready(view) if is_changed else json_of(view, own)
        asked = wanted.for_others()
        held = held_here().intersection(own.partitions)
        others, silent = await ask_others("/progress/", asked, read_files, own=held)
        completeness = {"partial": bool(silent), "silent": silent}
        return json_of(view, merged([own, *others], wanted) | completeness)


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
    """Answer with the persisted blocks of a file, as bits, and its first missing blocks."""
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
    """Return the answer if it does not come from this worker's tables; otherwise None."""
    if not FILE_ID.fullmatch(file_id):
        return _unknown(view, file_id)
    return await ask_holder(view, request, file_id)


def _unknown(view: View, file_id: str) -> Response:
    return view.json({"error": f"no file {file_id[:64]!r} is known"}, status=404)
