"""The self-test on a real Kafka: a sound cluster holds every promise, and nothing stays behind."""

import json
import signal
import sys

import pytest

from confluent_kafka.admin import AdminClient

from tests.harness import QUIET
from tests.waiting import wait_for


FAULTS = 9


def topics_of_it(brokers):
    """Return the topics and groups of self-tests that are on the cluster."""
    admin = AdminClient({"bootstrap.servers": brokers, **QUIET})
    found = list(admin.list_topics(timeout=30).topics)
    found += [group.group_id for group in admin.list_consumer_groups().result(30).valid]
    return [name for name in found if name.startswith("selftest-")]


@pytest.fixture
def start(site, tmp_path, monkeypatch):
    """Starts the command; its temporary folder is below `tmp`."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))

    def run(*arguments):
        command = [sys.executable, "-m", "streamapp", "selftest", "--brokers", site.brokers]
        return site.process("selftest", [*command, *arguments])

    yield run
    assert [] == topics_of_it(site.brokers)
    assert [] == list((tmp_path / "tmp").iterdir())


def test_all_held(start):
    """Every fault is tried, every promise is held, and all is taken away again."""
    process = start("--json")

    assert 0 == process.wait(280), process.said()
    said = [json.loads(line) for line in process.said().splitlines()]
    assert ["held"] * FAULTS == [line["outcome"] for line in said if line["kind"] == "fault"]
    assert (FAULTS, True) == (said[-1]["held"], said[-1]["is_whole"])


def test_stopped(start, site):
    """Ctrl-C, and again while it tidies up: it ends with 130, and takes all away."""
    process = start()
    wait_for(lambda: topics_of_it(site.brokers), within=60, what="topics")

    process.send(signal.SIGINT)
    process.send(signal.SIGINT)

    assert 130 == process.wait(60)
    assert "Traceback" not in process.said()
