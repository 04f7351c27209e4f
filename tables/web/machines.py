"""The view of the group's machines: which are up, and what each one does or waits for.

The answer has this worker's own state, the machines whose heartbeats it received, and the rows
of the table. A row may be missing: its partition may belong to a silent worker, or to none.
"""

from __future__ import annotations

import contextlib
import time

from typing import TYPE_CHECKING, Any

import msgspec

from streamapp.app import app
from streamapp.protocol import topics
from streamapp.protocol.messages import Heartbeat
from streamapp.protocol.presence import AGREE_SECONDS, Presence, reasons_to_wait
from streamapp.tables.folds import machine_row
from streamapp.tables.state import machines
from streamapp.tables.web import table_reader
from streamapp.tables.web.peer_answers import MachinesAnswer, read_machines
from streamapp.tables.web.peers import ask_others, held_here, not_ready
from streamapp.tables.web.table_reader import json_of
from streamapp.web.client import LOCAL
from streamapp.worker import readiness
from streamapp.worker.own_heartbeat import own_heartbeat


if TYPE_CHECKING:
    from collections.abc import Iterable

    from faust.types.web import Request, Response
    from faust.web import View


@app.page("/machines/")
async def all_machines(view: View, request: Request) -> Response:
    """Answer with every machine of the group: its last heartbeat, and whether it is up."""
    is_local = LOCAL in request.query
    if is_local and not readiness.is_ready(app):
        return not_ready(view)
    with table_reader.gate(is_local=is_local).enter():
        held = held_here()
        own = await local_machines(is_local=is_local)
        now = time.time()
        if is_local:
            part = [machine_json(machine, now=now) for machine in own]
            answer = MachinesAnswer(partitions=tuple(sorted(held)), machines=part)
            return not_ready(view) if held != held_here() else json_of(view, answer)
        others, silent = await ask_others(
            "/machines/", {}, read_machines, own=held & held_here(), everyone=True
        )
    now = time.time()
    found = merged(
        [own, app.roster.machines, *(_read(answer.machines, now=now) for answer in others)], now=now
    )
    reasons = reasons_to_wait(found, partitions=topics.BLOCK_PARTITIONS, now=now)
    return json_of(
        view,
        {
            "machines": [machine_json(machine, now=now) for machine in found],
            "waiting": [reason.text for reason in reasons],
            "partial": bool(silent),
            "silent": silent,
        },
    )


async def local_machines(*, is_local: bool = False) -> list[Presence]:
    """Return this worker and the machines in its partitions of the table."""
    own = await own_heartbeat(app)
    keys = table_reader.gate(is_local=is_local).rows(machines)
    async with contextlib.aclosing(keys) as read:
        found = {key.decode(): row async for key in read if (row := machine_row(key)) is not None}
    return list((found | {own.machine: Presence.first(own, now=time.time())}).values())


def machine_json(machine: Presence, *, now: float) -> dict[str, Any]:
    """Return one machine as the view shows it: its last heartbeat and what follows from its age.

    A silent or stopped machine has rate 0 and no difference of clocks.
    """
    is_stopped = machine.heartbeat.state == "stopped"
    is_silent = not is_stopped and machine.is_silent(now)
    is_ahead = not (is_silent or is_stopped) and abs(machine.ahead) > AGREE_SECONDS
    heartbeat: dict[str, Any] = msgspec.to_builtins(machine.heartbeat)
    return heartbeat | {
        "rate": 0.0 if is_silent or is_stopped else heartbeat["rate"],
        "up": machine.is_up(now),
        "silent": is_silent,
        "silent_seconds": round(machine.silent_seconds(now), 1),
        "clock_ahead": round(machine.ahead, 1) if is_ahead else 0.0,
    }


def merged(answers: Iterable[Iterable[Presence]], *, now: float) -> list[Presence]:
    """Return all machines by name, each from the answer with its newest heartbeat."""
    found: dict[str, Presence] = {}
    for machine in (machine for answer in answers for machine in answer):
        name = machine.heartbeat.machine
        known = found.get(name)
        if known is None or machine.silent_seconds(now) < known.silent_seconds(now):
            found[name] = machine
    return [found[name] for name in sorted(found)]


def _read(answer: Iterable[dict[str, Any]], *, now: float) -> list[Presence]:
    return [
        Presence(
            heartbeat=msgspec.convert(machine, Heartbeat),
            received_at=now - machine["silent_seconds"],
            ahead=machine["clock_ahead"],
        )
        for machine in answer
    ]
