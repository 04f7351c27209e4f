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
    """Answer 200 as long as the process answers; if it does not answer, restart it."""
    return view.json({"live": True})


@app.page("/health/ready/")
async def ready(view: View, request: Request) -> Response:  # noqa: ARG001
    """Answer 200 if the worker can do its work, otherwise 503: send it no requests then."""
    answer = health_json()
    return view.json(answer, status=200 if answer["ready"] else 503)


@app.page("/health/")
async def health(view: View, request: Request) -> Response:  # noqa: ARG001
    """Answer 200 if the worker can do its work, otherwise 503; the body has the reason."""
    answer = health_json()
    return view.json(answer, status=200 if answer["ready"] else 503)


def health_json() -> dict[str, Any]:
    """Return the health of this worker: *live* (it runs) and *ready* (it can do its work).

    It is ready if it has its tables and partitions, reaches Kafka, and waits for nothing.
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
