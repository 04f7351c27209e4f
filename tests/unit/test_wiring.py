"""Wiring: promises that no single module can keep."""

import asyncio
import importlib
import importlib.metadata
import json
import subprocess
import sys

import pytest

from aiokafka.partitioner import DefaultPartitioner

from streamapp.agents import faust_topics
from streamapp.kafka import topic_admin
from streamapp.protocol import topics
from streamapp.protocol.messages import Heartbeat
from streamapp.settings import Settings
from streamapp.tables import state
from streamapp.units import MIB
from streamapp.worker import logs, startup
from streamapp.worker.application import StreamApp, create_app
from streamapp.worker.changelog_table import ChangelogTable
from streamapp.worker.consumer import OrderedCommitConsumer
from streamapp.worker.partition_agent import PartitionAgent
from tests.frames import FILE_ID
from tests.unit.rows import ack_of


AGENTS = {
    "streamapp.agents.blocks.keep_blocks",
    "streamapp.agents.progress.fold_acks",
    "streamapp.agents.progress.fold_statuses",
}
HEAVY = {"faust", "mode", "aiokafka", "rocksdict", "streamapp.tables", "streamapp.agents"}


def test_every_agent_is_discovered(faust_app):
    """Faust only warns when an autodiscovered module fails to import; we fail."""
    assert set(faust_app.agents) == AGENTS
    assert set(topics.TABLES) == set(faust_app.tables)


def test_agents_read_what_they_should(faust_app):
    """Each agent reads its own topic, the blocks one actor for each partition."""
    names = topic_admin.names(faust_app.settings)
    assert {
        "streamapp.agents.blocks.keep_blocks": ({names.data_blocks}, True),
        "streamapp.agents.progress.fold_acks": ({names.acks}, False),
        "streamapp.agents.progress.fold_statuses": ({names.status}, False),
    } == {
        name: (set(agent.channel.topics), agent.isolated_partitions)
        for name, agent in faust_app.agents.items()
    }
    assert {1} == {agent.concurrency for agent in faust_app.agents.values()}


@pytest.mark.parametrize(
    ("record", "table", "key"),
    [
        (ack_of(7), state.files, FILE_ID),
        (Heartbeat(machine="m1", group="g", state="running", at=1.0), state.machines, "m1"),
        (
            Heartbeat(machine="x" * 200, group="g", state="running", at=1.0),
            state.machines,
            "x" * 200,
        ),
    ],
)
async def test_record_is_published_where_its_row_is(monkeypatch, record, table, key):
    """A record goes to the partition in which Faust looks for the row of its table key.

    Faust would write a key that is no bytes as JSON, and look in the partition of another key.
    """
    sent = []

    async def send(**record):
        sent.append(record["partition"])
        return asyncio.sleep(0)

    for topic in (faust_topics.acks, faust_topics.status):
        monkeypatch.setattr(topic, "send", send)
    await faust_topics.publish(record)

    partitions = list(range(table.partitions))
    for form in (key, key.encode()):
        raw, _ = table.changelog_topic.prepare_key(form, None)
        assert [DefaultPartitioner()(raw, partitions, partitions)] == sent


def test_partitions():
    """Tables have as many partitions as the topics that fill them; the blocks' topic has more."""
    small = (state.files, state.block_map, state.machines, faust_topics.acks, faust_topics.status)
    assert {topics.FILE_PARTITIONS} == {each.partitions for each in small}
    assert topics.BLOCK_PARTITIONS == faust_topics.data_blocks.partitions


def test_tables_are_bounded():
    """RocksDB's default is a cache of 2 GiB for each partition of each table."""
    tables = (state.files, state.block_map, state.machines)
    for table in tables:
        assert (bytes, bytes) == (table.key_type, table.value_type)
        options = table.options
        buffers = options["write_buffer_size"] * options["max_write_buffer_number"]
        assert options["block_cache_size"] + buffers <= 16 * MIB
        assert options["max_open_files"] <= 64
    # Faust's store takes keys out of the options: one object for all would lose them.
    assert len(tables) == len({id(table.options) for table in tables})


@pytest.mark.parametrize("session_timeout", [6.0, 30.0, 600.0])
def test_application(session_timeout):
    """What Faust does by itself would lose blocks or memory: it is set, all of it, on purpose."""
    settings = Settings.load(machine_id="m", session_timeout=session_timeout, web_host="::1")
    conf = create_app(settings).conf

    assert "rocksdb" == conf.store.scheme
    assert (True, False, False) == (
        conf.topic_disable_leader,
        conf.stream_wait_empty,
        conf.stream_publish_on_commit,
    )
    assert (0, -1, topics.FILE_PARTITIONS) == (
        conf.table_standby_replicas,
        conf.producer_acks,
        conf.topic_partitions,
    )
    assert conf.stream_buffer_maxsize * 1 << 20 <= 16 << 20
    assert (False, False, False) == (
        conf.web_tables_enabled,
        conf.web_router_enabled,
        conf.web_stats_enabled,
    )
    assert ("::1", "http://[::1]:6066") == (conf.web_bind, str(conf.canonical_url).rstrip("/"))
    assert f"http://{conf.web_host}:{conf.web_port}" == str(conf.canonical_url).rstrip("/")
    # Faust does not start otherwise.
    assert conf.broker_request_timeout > conf.broker_session_timeout == session_timeout
    assert conf.broker_heartbeat_interval < session_timeout / 3


def test_transport(faust_app):
    """Faust reads through the consumer that refuses acknowledgements of stale records."""
    assert faust_app.transport.Consumer is OrderedCommitConsumer


def test_worker_command():
    """Faust's command overrides what the application says of the web: both are given."""
    command = startup.command_line(loglevel="info", web_port=7, web_bind="127.0.0.1")

    assert ["-A", "streamapp.app", "worker", "--loglevel", "info"] == command[:5]
    assert ["--web-port", "7", "--web-bind", "127.0.0.1"] == command[5:]


def test_light_start():
    """The command line and the producer load neither Faust nor what only a worker needs."""
    code = (
        "import json, pkgutil, sys, streamapp.cli.main, streamapp.producer as p;"
        "[__import__(m.name) for m in pkgutil.walk_packages(p.__path__, p.__name__ + '.')];"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    loaded = set(json.loads(done.stdout))

    assert "confluent_kafka" in loaded
    assert set() == loaded & HEAVY


def test_one_name_is_installed(project):
    """`tables` and `agents` are names of other packages: ours are found under `streamapp` alone."""
    for name in ("streamapp.tables", "streamapp.agents"):
        module = importlib.import_module(name)
        expected = project / name.removeprefix("streamapp.") / "__init__.py"
        assert expected == type(project)(module.__file__).resolve()
    files = importlib.metadata.files("streamapp") or ()
    assert not [file for file in files if file.parts[0] in {"tables", "agents"}]


@pytest.mark.parametrize(
    "service", [StreamApp, ChangelogTable, OrderedCommitConsumer, PartitionAgent]
)
def test_log_of_services(service):
    """Starting and stopping of Faust's services is logged as Faust's, which is quiet."""
    assert service.logger.name.startswith(logs.CHATTY)
