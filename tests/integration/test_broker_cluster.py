"""Starting and stopping a broker, without Java: what goes wrong is said in one line."""

import json
import socket
import subprocess
import sys

import psutil
import pytest

from streamapp.broker import Cluster, cluster, format_storage, jars
from streamapp.broker.node import Node
from streamapp.errors import BrokerError


# Formats as Kafka does, and as a broker complains and ends.
FAKE_JAVA = """#!/bin/sh
case "$*" in
    *-version*) echo 'openjdk version "17.0.1"' >&2 ;;
    *StorageTool*) mkdir -p data && echo "cluster.id=abc" > data/meta.properties ;;
    *) echo "ERROR the disk is on fire"; echo "	at kafka.Kafka.main"; exit 1 ;;
esac
"""

HOLD_LOCK = """
import pathlib, sys
from streamapp.broker import locks
with locks.one_at_a_time(pathlib.Path(sys.argv[1]), within=0):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def fake_kafka(tmp_path, monkeypatch):
    """A Java that only pretends, and no jars."""
    if sys.platform == "win32":
        pytest.skip("the fake Java is a shell script")
    java = tmp_path / "java"
    java.write_text(FAKE_JAVA)
    java.chmod(0o755)
    monkeypatch.setenv("STREAMAPP_JAVA", str(java))
    monkeypatch.setattr(jars, "classpath", list)
    return java


@pytest.fixture
def folder(tmp_path):
    """A folder for a broker; it does not exist yet."""
    return tmp_path / "broker"


def leave_state(folder, **state):
    """Write what a broker that was started earlier left in its folder."""
    folder.mkdir(parents=True)
    (folder / "node.json").write_text(json.dumps({"port": 9092, "controller_port": 9093, **state}))


def message(error_info):
    """Return the error's message, which must be one line."""
    text = str(error_info.value)
    assert "\n" not in text
    return text


def test_never_started(folder):
    """A broker that was never started is not running, and stopping it changes nothing."""
    broker = Cluster(folder)

    broker.stop()

    assert [(1, False, None, None)] == [
        (n.number, n.running, n.pid, n.port) for n in broker.status()
    ]
    assert not folder.exists()
    with pytest.raises(BrokerError, match="never started"):
        _ = broker.bootstrap


def test_stranger_with_our_pid_lives_on(folder):
    """A process that has the id of our broker, but is another one, is neither shown nor ended."""
    leave_state(folder / "node-1", pid=psutil.Process().pid, created=1.0)
    broker = Cluster(folder)

    assert [False] == [node.running for node in broker.status()]
    with pytest.raises(BrokerError, match="not running"):
        broker.kill(1)
    broker.stop()  # would end this very test

    assert "pid" in json.loads((folder / "node-1" / "node.json").read_text())
    assert Node(folder / "node-1", 1).process() is None


@pytest.mark.usefixtures("fake_kafka")
def test_busy_port(folder):
    """A port that another program listens on is named, before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        with pytest.raises(BrokerError) as caught:
            Cluster(folder, port=port).start()

    assert f"port {port} of 127.0.0.1 is in use by another program" in message(caught)
    assert not (folder / "node-1" / "broker.log").exists()


@pytest.mark.usefixtures("fake_kafka")
def test_full_disk(folder):
    """Too little room is named with what is free and what is needed."""
    with pytest.raises(BrokerError, match=r"MiB are free.*make room") as caught:
        Cluster(folder, min_free_bytes=1 << 60).start()

    assert str(folder) in message(caught)


def test_other_number_of_nodes(folder):
    """A folder of three nodes is not started, nor stopped, as one."""
    for number in (1, 2, 3):
        leave_state(folder / f"node-{number}")

    for action in (Cluster(folder).start, Cluster(folder).stop):
        with pytest.raises(BrokerError, match="a broker of 3 nodes, not of 1"):
            action()


def test_runs_on_another_port(folder):
    """A broker that runs is not taken for one that was asked for on another port."""
    me = psutil.Process()
    leave_state(folder / "node-1", pid=me.pid, created=me.create_time())

    with pytest.raises(BrokerError, match="runs on port 9092 already, not on 9999"):
        Cluster(folder, port=9999).start()


def test_one_of_two_crashes(folder, fake_kafka):
    """When one node ends while the other still starts, that one is named, and both are gone."""
    first_node_hangs = "test ${PWD##*-} = 1 && exec sleep 60"
    fake_kafka.write_text(FAKE_JAVA.replace("*) echo", f"*) {first_node_hangs}; echo"))
    broker = Cluster(folder, nodes=2)

    with pytest.raises(BrokerError, match="node 2 ended while it was starting"):
        broker.start()

    assert [False, False] == [node.running for node in broker.status()]


@pytest.mark.usefixtures("fake_kafka")
def test_crash_at_start(folder):
    """A broker that ends at once is noticed, with its last words and its log."""
    broker = Cluster(folder, nodes=2)

    with pytest.raises(BrokerError, match="ended while it was starting") as caught:
        broker.start()

    assert "ERROR the disk is on fire;" in message(caught)
    assert str(folder / "node-1" / "broker.log") in message(caught)
    assert [False, False] == [node.running for node in broker.status()]


def test_unable_to_format(folder, fake_kafka):
    """When Kafka cannot prepare the folder its reason is given."""
    fake_kafka.write_text(FAKE_JAVA.replace("mkdir -p data", "echo 'not this folder' && false"))

    with pytest.raises(BrokerError, match=r"could not prepare .*node-1: not this folder"):
        Cluster(folder).start()


@pytest.mark.usefixtures("fake_kafka")
def test_ports_are_kept(folder):
    """A broker comes back on its ports, unless another program has taken them meanwhile."""
    broker = Cluster(folder)
    with pytest.raises(BrokerError, match="on fire"):
        broker.start()
    first = broker.bootstrap

    with pytest.raises(BrokerError, match="on fire"):
        broker.start()
    assert first == broker.bootstrap

    with socket.create_server(("127.0.0.1", broker.status()[0].port)):
        with pytest.raises(BrokerError, match="on fire"):
            broker.start()
        assert first != broker.bootstrap


def test_unreadable_state(folder):
    """A state file that is cut short is named, and what to do about it."""
    leave_state(folder / "node-1")
    (folder / "node-1" / "node.json").write_text('{"port":')

    with pytest.raises(BrokerError, match=r"node\.json .*delete that file"):
        Cluster(folder).status()


@pytest.fixture
def lock_elsewhere():
    """Let another process lock a file until the test ends."""
    others = []

    def hold(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        others.append(
            subprocess.Popen(
                [sys.executable, "-c", HOLD_LOCK, path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )
        assert b"held\n" == others[-1].stdout.readline()

    yield hold
    for other in others:
        other.communicate()


@pytest.mark.usefixtures("fake_kafka")
def test_data_in_use(folder, lock_elsewhere):
    """A folder whose data another Kafka uses is left alone, although no state names that one."""
    lock_elsewhere(folder / "node-1" / "data" / ".lock")

    with pytest.raises(BrokerError, match="a Kafka that is not known here uses") as caught:
        Cluster(folder).start()

    assert str(folder / "node-1" / "data") in message(caught)
    assert not (folder / "node-1" / "broker.log").exists()


@pytest.mark.usefixtures("fake_kafka")
def test_one_start_at_a_time(folder, lock_elsewhere, monkeypatch):
    """While another command starts this broker, nothing is started here."""
    lock_elsewhere(folder / "start.lock")
    monkeypatch.setattr(cluster, "READY_SECONDS", 0.1)

    with pytest.raises(BrokerError, match="another command is starting the broker"):
        Cluster(folder).start()

    assert not (folder / "node-1").exists()


@pytest.mark.usefixtures("fake_kafka")
def test_no_folder(folder):
    """A folder that cannot be made is named."""
    folder.write_text("a file, not a folder")

    with pytest.raises(BrokerError, match=r"cannot start a broker in .*name another folder"):
        Cluster(folder).start()


def test_no_such_node(folder):
    """Nodes are numbered from 1."""
    with pytest.raises(BrokerError, match="no node 0: they are numbered 1 to 3"):
        Cluster(folder, nodes=3).kill(0)


def test_cluster_ids():
    """A new cluster's id is 16 bytes as Kafka writes them, and never looks like a flag."""
    ids = {format_storage.new_cluster_id() for _ in range(500)}

    assert 500 == len(ids)
    assert {22} == {len(found) for found in ids}
    assert not any(found.startswith("-") for found in ids)
