"""Two workers with a web token ask each other for their parts of the tables."""

import json
import urllib.request

from tests.waiting import wait_for


TOKEN = "canary-token"  # noqa: S105 - a canary, no secret
WITH_TOKEN = ("env", f"STREAMAPP_WEB_TOKEN={TOKEN}")


def ask(worker, path):
    """Return what a view answers to a request with the token; nothing while it does not answer."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    request = urllib.request.Request(f"{worker.url}{path}", headers=headers)  # noqa: S310 - loopback
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback
            return json.load(answer)
    except OSError:
        return {}


def test_workers_believe_each_other(site):
    """Each answers for both, names nobody as silent, and writes no token to its log."""
    workers = [site.worker(name, under=WITH_TOKEN) for name in ("w1", "w2")]

    def is_whole(worker):
        health, files = ask(worker, "/health/"), ask(worker, "/progress/")
        machines = ask(worker, "/machines/")
        shared = health.get("ready") and len(health["partitions"]) == 3
        names = [machine["machine"] for machine in machines.get("machines", ())]
        return shared and files.get("silent") == machines["silent"] == [] and names == ["w1", "w2"]

    for worker in workers:
        wait_for(lambda worker=worker: is_whole(worker), within=60, what=worker.name, every=0.5)
    assert not any(TOKEN in worker.said() for worker in workers)
