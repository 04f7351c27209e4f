"""A worker or producer that is asked to stop does so, whatever its shell or brokers do."""

import os
import shutil
import signal
import sys
import time

import pytest

from streamapp.broker import Cluster
from streamapp.worker import shutdown
from tests import harness
from tests.faults import surroundings as around
from tests.harness import MIB
from tests.waiting import wait_for


PLACES = [
    around.Terminal,
    around.ClosedTerminal,
    around.DeadPipe,
    around.StalledPipe,
    around.NoOutputs,
    around.Service,
]
PROMISED_SECONDS = 30


@pytest.fixture
def places():
    """What processes run in; the last one needs root."""
    can_unshare = sys.platform.startswith("linux") and os.geteuid() == 0 and shutil.which("unshare")
    if not can_unshare:
        print("not proven: the first process of a container; needs Linux, root and unshare")  # noqa: T201
    return [place() for place in [*PLACES, *([around.Container] if can_unshare else [])]]


def codes_after_stop(places, processes):
    """Stop all *processes*, each as one does in its place; return their exit codes by place."""
    for place, process in zip(places, processes, strict=True):
        place.stop(process)
    return {
        type(place).__name__: process.wait(PROMISED_SECONDS)
        for place, process in zip(places, processes, strict=True)
    }


def test_workers(site, places):
    """A worker that is stopped ends with 0, and leaves its data folder to the next."""
    workers = [
        site.worker(f"w{number}", under=place.under, popen=place.popen)
        for number, place in enumerate(places)
    ]
    for worker in workers:
        wait_for(lambda w=worker: w.health.get("ready"), within=90, what=f"{worker.name}", every=1)

    codes = codes_after_stop(places, workers)

    assert dict.fromkeys(codes, 0) == codes
    assert len(places) == len(codes)


def test_producers(site, places):
    """A producer that is stopped ends with 130; what it did is in Kafka."""
    source = site.source({"a": MIB}, harness.seeded())
    producers = [
        site.producer(source, f"p{number}", under=place.under, popen=place.popen)
        for number, place in enumerate(places)
    ]
    wait_for(lambda: site.records() >= len(places), within=90, what="all to send", every=0.5)

    codes = codes_after_stop(places, producers)

    assert dict.fromkeys(codes, 130) == codes
    assert len(places) == len(codes)


def test_stop_without_broker(tmp_path):
    """With the only broker dead, a process ends in time on one signal, and at once on a second."""
    with Cluster(tmp_path / "kafka") as cluster, harness.Site(cluster.bootstrap, tmp_path) as site:
        patient, hurried = site.ready_workers("w1", "w2")
        source = site.source({"a": MIB}, harness.seeded())
        producer = site.producer(source, group_id="nobody")
        wait_for(site.records, within=60, what="the producer to send")
        cluster.kill(1)

        began = time.monotonic()
        patient.send(signal.SIGTERM)
        hurried.send(signal.SIGINT)
        producer.send(signal.SIGINT)
        wait_for(lambda: "SIGINT: stopping" in hurried.said(), within=5, what="w2 to hear it")
        wait_for(
            lambda: time.monotonic() - began > shutdown.AGAIN_SECONDS, within=5, what="a second"
        )
        hurried.send(signal.SIGINT)
        assert 130 == hurried.wait(5)
        assert 0 == patient.wait(harness.STOP_SECONDS)
        assert 130 == producer.wait(harness.STOP_SECONDS)
