"""Told to stop, a worker stops, whatever state its brokers are in."""

from streamapp.broker import Cluster
from tests import harness


def test_stop_without_broker(tmp_path):
    """A worker whose only broker is dead ends within the time that was promised."""
    with Cluster(tmp_path / "kafka") as cluster, harness.Site(cluster.bootstrap, tmp_path) as site:
        worker = site.worker("w1").wait_until_ready()
        cluster.kill(1)

        assert 0 == worker.terminate(within=harness.STOP_SECONDS)
