"""The view of the group's machines: who is up, what each one does, and what keeps them from it.

A worker answers for itself first: its own heartbeat may be in a partition of the table that
another worker holds, or that nobody holds just now.
"""

from __future__ import annotations

import time

from typing import TYPE_CHECKING, Any

import msgspec

from streamapp import topics, watching
from streamapp.app import app
from streamapp.own_heartbeat import own_heartbeat
from streamapp.presence import AGREE_SECONDS, Presence, reasons_to_wait
from streamapp.records import Heartbeat
from tables.folds import machine_row
from tables.peers import LOCAL, ask_others, not_ready
from tables.state import machines


if TYPE_CHECKING:
    from collections.abc import Iterable

    from faust.types.web import Request, Response
    from faust.web import View


@app.page("/machines/")
async def all_machines(view: View, request: Request) -> Response:
    """Answer with every machine of the group: its last heartbeat, and whether it is up."""
    if LOCAL in request.query and not watching.is_ready(app):
        return not_ready(view)
    own = await local_machines()
    if LOCAL in request.query:
        now = time.time()
        return view.json([machine_json(machine, now=now) for machine in own])
    others, silent = await ask_others("/machines/", {})
    now = time.time()
    found = merged([own, *(_read(answer, now=now) for answer in others)], now=now)
    reasons = reasons_to_wait(found, partitions=topics.BLOCK_PARTITIONS, now=now)
    return view.json(
        {
            "machines": [machine_json(machine, now=now) for machine in found],
            "waiting": [reason.text for reason in reasons],
            "partial": bool(silent),
            "silent": silent,
        }
    )


async def local_machines() -> list[Presence]:
    """Return this worker, and the machines of its partitions of the table."""
    own = await own_heartbeat(app)
    found = {key.decode(): row for key in machines if (row := machine_row(key)) is not None}
    return list((found | {own.machine: Presence.first(own, now=time.time())}).values())


def machine_json(machine: Presence, *, now: float) -> dict[str, Any]:
    """Return what the view says of one machine: its last heartbeat, and what came of it since.

    One that is silent or stopped has no rate. Its clock is judged only while it is heard.
    """
    is_stopped = machine.heartbeat.state == "stopped"
    is_silent = not is_stopped and machine.is_silent(now)
    is_ahead = not (is_silent or is_stopped) and abs(machine.ahead) > AGREE_SECONDS
    said: dict[str, Any] = msgspec.to_builtins(machine.heartbeat)
    return said | {
        "rate": 0.0 if is_silent or is_stopped else said["rate"],
        "up": machine.is_up(now),
        "silent": is_silent,
        "silent_seconds": round(machine.silent_seconds(now), 1),
        "clock_ahead": round(machine.ahead, 1) if is_ahead else 0.0,
    }


def merged(answers: Iterable[Iterable[Presence]], *, now: float) -> list[Presence]:
    """Return all machines by name, each as the worker knows it that heard it last."""
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
