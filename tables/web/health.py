"""Health of this worker, for load balancers, process managers and `streamapp` itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from streamapp.app import app
from streamapp.worker import readiness


if TYPE_CHECKING:
    from faust.types.web import Request, Response
    from faust.web import View


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
    """Return how this worker is: *live* the worker runs, *ready* it can do its work.

    It can while it has its tables and partitions, a cluster, and nothing that it waits for.
    """
    recovered = readiness.is_ready(app)
    state = app.stats.state
    return {
        "live": True,
        "ready": readiness.can_work(app),
        "machine": app.settings.machine_id,
        "group": app.settings.group_id,
        "state": state if recovered or state == "stopping" else "recovering",
        "reason": app.stats.reason or ("" if recovered else readiness.RESTORING),
        "partitions": readiness.block_partitions(app),
    }
