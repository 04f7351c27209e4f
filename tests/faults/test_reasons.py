"""Waiting has a true reason within seconds, in the worker's health, the views and the producer."""

import json
import re

import pytest

from streamapp.broker import Cluster
from tests import harness
from tests.conftest import FAILED
from tests.harness import MIB
from tests.waiting import wait_for


WITHIN = 30  # on a busy machine; how fast it was stands in the reason itself
SOON_SECONDS = 8.0
BLOCKS = 24
SILENT = "w2 is silent"


@pytest.fixture
def cluster(tmp_path_factory):
    """A broker of this test's own, which it takes away."""
    with Cluster(tmp_path_factory.mktemp("kafka")) as cluster:
        yield cluster


@pytest.fixture
def site(cluster, tmp_path, request):
    """What the test starts there."""
    with harness.Site(cluster.bootstrap, tmp_path) as site:
        yield site
        site.failed = request.node.stash[FAILED]


def events(producer, kind):
    """Return what the producer reported of *kind* up to now."""
    found = [json.loads(line) for line in producer.said().splitlines() if line.startswith("{")]
    return [event for event in found if event["kind"] == kind]


def reported(producer, text):
    """Return the seconds of the first reason with *text*, when the producer has reported it."""
    reasons = (event["reason"] for event in events(producer, "waiting"))
    found = [re.search(text + r" for ([\d.]+) s", reason) for reason in reasons]
    return next((float(match[1]) for match in found if match), None)


def test_true_reason(cluster, site):
    """A frozen machine and a dead broker are named, the wait has no time left, and it passes."""
    source = site.source({"a": BLOCKS * MIB}, harness.seeded())
    w1, w2 = site.ready_workers("w1", "w2", session_timeout=60, heartbeat=3)
    wait_for(
        lambda: "w2" in {beat["machine"] for beat in site.statuses()["machine"]},
        within=WITHIN,
        what="a heartbeat of w2 on the topic",
        every=0.3,
    )
    w2.pause()
    producer = site.producer(source, block_size="1MiB", json=True)

    silent = wait_for(lambda: reported(producer, SILENT), within=WITHIN, what="the silence of w2")
    assert silent < SOON_SECONDS
    last = wait_for(
        lambda: next((e for e in events(producer, "progress") if SILENT in e["waiting"]), None),
        within=WITHIN,
        what="the same in the producer's line",
    )
    assert "others take over within 60 s" in last["waiting"]
    assert last["eta"] is None
    wait_for(
        lambda: any(SILENT in reason for reason in w1.get("/machines/")["waiting"]),
        within=WITHIN,
        what="the same in the view of w1, also when w2 holds its own row",
    )
    assert w1.health["ready"]

    cluster.kill(1)

    def no_broker():
        health = w1.health
        found = re.search(r"no Kafka broker has answered for ([\d.]+) s", health["reason"])
        return found and (float(found[1]), health["ready"], health["state"])

    seconds, is_ready, state = wait_for(
        no_broker, within=WITHIN, what="the worker to miss the broker"
    )
    assert (False, "holding") == (is_ready, state)
    silent = wait_for(
        lambda: reported(producer, "no Kafka broker has answered"),
        within=WITHIN,
        what="the producer to miss the broker",
    )
    assert max(seconds, silent) < SOON_SECONDS
    (own,) = (m for m in w1.get("/machines/")["machines"] if m["machine"] == "w1")
    assert "no Kafka broker" in own["reason"]

    cluster.start_node(1)
    wait_for(lambda: w1.health["ready"], within=60, what="the worker to be ready again")
    wait_for(
        lambda: "no Kafka broker" not in events(producer, "progress")[-1]["waiting"],
        within=60,
        what="the producer to find the broker again",
    )
