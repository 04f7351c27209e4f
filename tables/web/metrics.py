"""This worker's metrics for Prometheus, at ``/metrics``.

File names and ids are no labels, because there may be millions; the progress view has them.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

import streamapp

from streamapp.app import app
from streamapp.errors import StoreError
from streamapp.worker import readiness


if TYPE_CHECKING:
    from collections.abc import Iterator

    from faust.types.web import Request, Response
    from faust.web import View
    from prometheus_client.core import Metric

_LIBRARIES: Final = {
    "faust": "faust-streaming",
    "aiokafka": "aiokafka",
    "rocksdict": "rocksdict",
}


class WorkerCollector:
    """Reads the worker's counters at each request."""

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        yield from _counters()
        yield from _gauges()
        info = GaugeMetricFamily(
            "streamapp_build_info", "Versions.", labels=["version", *_LIBRARIES]
        )
        info.add_metric([streamapp.__version__, *map(version, _LIBRARIES.values())], 1)
        yield info


def _counters() -> Iterator[Metric]:
    stats = app.stats
    blocks = CounterMetricFamily("streamapp_blocks", "Blocks, by outcome.", labels=["state"])
    blocks.add_metric(["persisted"], stats.blocks)
    blocks.add_metric(["repeated"], stats.repeated)
    blocks.add_metric(["rejected"], stats.rejected)
    yield blocks
    persisted = CounterMetricFamily(
        "streamapp_block_bytes", "Bytes of blocks.", labels=["direction"]
    )
    persisted.add_metric(["persisted"], stats.bytes)
    yield persisted
    yield CounterMetricFamily(
        "streamapp_quarantined_records", "Records set aside.", value=stats.quarantined
    )
    yield CounterMetricFamily(
        "streamapp_corrupt_blocks", "Stored blocks that were found bad.", value=stats.corrupt
    )
    yield CounterMetricFamily(
        "streamapp_deleted_unread_records",
        "Records that Kafka's retention deleted before they were read.",
        value=stats.deleted_unread,
    )


def _gauges() -> Iterator[Metric]:
    stats = app.stats
    yield GaugeMetricFamily("streamapp_blocks_in_flight", "Open blocks.", value=stats.open_blocks)
    yield GaugeMetricFamily(
        "streamapp_holding",
        "1 while it waits for a disk or Kafka.",
        value=stats.state == "holding",
    )
    yield GaugeMetricFamily(
        "streamapp_ready", "1 while it can do its work.", value=readiness.can_work(app)
    )
    free = GaugeMetricFamily("streamapp_disk_free_bytes", "Free room.", labels=["volume"])
    for root in app.block_store.roots:
        try:
            free.add_metric([str(root.path)], max(0, root.free))
        except StoreError:
            free.add_metric([str(root.path)], 0)
    yield free
    left = stats.retention_left
    if left is not None:
        yield GaugeMetricFamily(
            "streamapp_retention_left_seconds",
            "Until Kafka deletes the oldest record that this worker has not finished.",
            value=left,
        )


_registry: Final = CollectorRegistry()
_registry.register(WorkerCollector())


@app.page("/metrics")
async def metrics(view: View, request: Request) -> Response:  # noqa: ARG001
    """Answer with this worker's metrics in Prometheus' text format."""
    return view.bytes(
        generate_latest(_registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4}
    )
