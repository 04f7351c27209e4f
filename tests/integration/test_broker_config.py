"""The text of `server.properties`."""

import pytest

from streamapp.broker.config import Ports, server_properties


PORTS = [Ports(9092, 19092), Ports(9093, 19093), Ports(9094, 19094)]


def properties(number, ports, extra=None):
    """Return the properties as a mapping, as Kafka reads them."""
    text = server_properties(number, ports, extra or {})
    return dict(line.split("=", 1) for line in text.splitlines())


def test_loopback_only():
    """A node listens on loopback alone, for clients and for its peers."""
    own = properties(2, PORTS)

    assert "PLAINTEXT://127.0.0.1:9093,CONTROLLER://127.0.0.1:19093" == own["listeners"]
    assert "PLAINTEXT://127.0.0.1:9093" == own["advertised.listeners"]


def test_all_vote():
    """Every node names the same quorum: all nodes."""
    quorum = "1@127.0.0.1:19092,2@127.0.0.1:19093,3@127.0.0.1:19094"

    assert [quorum] * 3 == [properties(n, PORTS)["controller.quorum.voters"] for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("nodes", "copies", "in_sync"), [(1, "1", "1"), (2, "2", "2"), (3, "3", "2")]
)
def test_replication(nodes, copies, in_sync):
    """As many copies as nodes, three at most; of three, one may be lost."""
    own = properties(1, PORTS[:nodes])

    assert copies == own["offsets.topic.replication.factor"] == own["default.replication.factor"]
    assert in_sync == own["min.insync.replicas"] == own["transaction.state.log.min.isr"]


def test_extra_wins():
    """What a test asks for replaces what is chosen here, and the rest stays."""
    own = properties(1, PORTS, {"group.initial.rebalance.delay.ms": "3000", "log.roll.ms": "1"})

    assert "3000" == own["group.initial.rebalance.delay.ms"]
    assert "1" == own["log.roll.ms"]
    assert "false" == own["auto.create.topics.enable"]


def test_message_size_is_the_topics_affair():
    """The broker's own limit on messages stays Kafka's default."""
    assert "message.max.bytes" not in properties(1, PORTS)
