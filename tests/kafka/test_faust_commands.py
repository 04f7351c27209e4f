"""Faust's own commands: `faust worker` is the worker, and no other command disturbs it."""

import pytest

from tests import harness
from tests.harness import FAUST, MIB
from tests.waiting import wait_for


APP = (FAUST, "-A", "streamapp.app")
BESIDE = {
    "agents": "@streamapp.agents.blocks.keep_blocks",
    "tables": "block_map",
    "models": "ModelReqRepRequest",
    "model faust.agents.models.ModelReqRepRequest": "correlation_id",
    "send --key m9 processing-status {}": "processing-status",
    "completion": "_FAUST_COMPLETE",
    "clean-versions": "v0",
}
REFUSED = {
    "reset": (22, "belongs to another worker"),
    "worker": (22, "belongs to another worker"),
    "livecheck": (2, "not associated with LiveCheck"),
    "model nonsense": (2, "No model 'nonsense'"),
    "send nonsense {}": (33, "there is no topic 'nonsense'"),
    "send @nonsense {}": (2, "there is no agent '@nonsense'"),
}


@pytest.fixture
def run(site):
    """Return a function that starts a command of Faust's with the settings of a worker."""

    def start(worker, command):
        name = f"faust-{command.replace(' ', '-').replace('/', '-')}"
        own_port = {"STREAMAPP_WEB_PORT": str(harness.free_port())}
        return site.process(name, [*APP, *command.split()], worker.settings | own_port)

    return start


def test_commands(site, run):
    """A folder arrives at a worker that Faust started, and commands beside it do their work."""
    source = site.source({"a": 3 * MIB, "b/c": 10}, harness.seeded())
    worker = site.worker("w1", by_faust=True).wait_until_ready()
    old = worker.root / ".streamapp" / "v0"
    old.mkdir()

    processes = {command: run(worker, command) for command in BESIDE | REFUSED}
    assert 0 == site.producer(source, block_size="1MiB").wait()
    for command, found in BESIDE.items():
        assert 0 == processes[command].wait(60), (command, processes[command].said())
        assert found in processes[command].said()
    for command, (code, reason) in REFUSED.items():
        assert code == processes[command].wait(60), (command, processes[command].said())
        assert reason in processes[command].said()
        assert "Traceback" not in processes[command].said()
    assert not old.exists()
    hostile = harness.RawBlock(harness.seeded(), size=9, name="a\x1b[2J\nb")
    harness.RawSender(site).send(hostile.records(), partition=0)
    wait_for(lambda: r"is complete: a\x1b[2J\nb" in worker.said(), within=30, what="the file")
    assert "\x1b" not in worker.said()
    assert [] == site.verdict({"source": source}).problems

    assert 0 == worker.terminate()
    databases = [*worker.root.glob(".streamapp/v1/tables/*.db")]
    assert databases
    assert 0 == run(worker, "reset").wait(60)
    assert not any(database.exists() for database in databases)
    worker.start()
    worker.wait_until_ready()
    wait_for(lambda: not site.verdict({"source": source}).problems, within=30, what="the tables")
