"""The metrics, as Prometheus' own parser reads them."""

import time

import pytest

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from streamapp.app import app
from streamapp.receiver.stats import WorkerStats
from streamapp.tables.web.metrics import WorkerCollector
from streamapp.worker import readiness


@pytest.fixture
def stats(monkeypatch):
    """A worker that has just started, and is ready."""
    monkeypatch.setattr(app, "stats", WorkerStats())
    monkeypatch.setattr(readiness, "is_ready", lambda _: True)
    return app.stats


def samples():
    """Every sample there is: name and labels, and its number."""
    registry = CollectorRegistry()
    registry.register(WorkerCollector())
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_counters(stats):
    """The worker's counters are there, under the documented names."""
    stats.persisted(1000)
    stats.persisted(24)
    stats.repeated, stats.rejected, stats.corrupt = 3, 4, 5
    stats.quarantined, stats.deleted_unread, stats.open_blocks = 6, 7, 8
    found = samples()

    assert [2, 3, 4] == [
        found["streamapp_blocks_total", state] for state in ("persisted", "repeated", "rejected")
    ]
    assert 1024 == found["streamapp_block_bytes_total", "persisted"]
    assert 5 == found["streamapp_corrupt_blocks_total",]
    assert 6 == found["streamapp_quarantined_records_total",]
    assert 7 == found["streamapp_deleted_unread_records_total",]
    assert 8 == found["streamapp_blocks_in_flight",]


def test_holding(stats):
    """A worker that holds is not ready; one that holds no more is."""
    stats.hold("store", "disk full")
    assert (1, 0) == (samples()["streamapp_holding",], samples()["streamapp_ready",])
    stats.release("store")

    assert (0, 1) == (samples()["streamapp_holding",], samples()["streamapp_ready",])


def test_retention_left(stats):
    """How long Kafka still has the oldest record that is not done; nothing when all is."""
    assert ("streamapp_retention_left_seconds",) not in samples()

    stats.retention_seconds, stats.oldest_unread = 3600.0, time.time() - 600

    assert 2990 < samples()["streamapp_retention_left_seconds",] <= 3000
