"""Makes a broker's `server.properties`. Pure code.

The values suit one machine and small heaps. Other properties keep Kafka's defaults; the limit
on the size of a message is raised by the topics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final


if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


HOST: Final = "127.0.0.1"
DATA: Final = "data"  # relative to the node's folder, so that any folder's name will do

_INTERNAL_PARTITIONS = 8  # Kafka's 50 cost start-up time, and serve clusters of many groups
_CLEANER_BUFFER = 16 << 20  # Kafka's 128 MiB of heap suits billions of keys


@dataclass(frozen=True)
class Ports:
    """The ports of one node: for clients, and for the controllers."""

    broker: int
    controller: int


def server_properties(number: int, ports: Sequence[Ports], extra: Mapping[str, str]) -> str:
    """Return the properties of node *number* (from 1) of the cluster that listens on *ports*.

    *extra* overrides the other properties.
    """
    own = ports[number - 1]
    voters = ",".join(f"{n}@{HOST}:{p.controller}" for n, p in enumerate(ports, start=1))
    chosen = {
        "process.roles": "broker,controller",
        "node.id": str(number),
        "controller.quorum.voters": voters,
        "listeners": f"PLAINTEXT://{HOST}:{own.broker},CONTROLLER://{HOST}:{own.controller}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{own.broker}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": DATA,
        "auto.create.topics.enable": "false",
        "group.initial.rebalance.delay.ms": "0",
        "log.cleaner.dedupe.buffer.size": str(_CLEANER_BUFFER),
        **_replication(len(ports)),
        **extra,
    }
    return "".join(f"{key}={value}\n" for key, value in chosen.items())


def _replication(nodes: int) -> dict[str, str]:
    """Return the replication factors: a cluster of three nodes survives the loss of one."""
    copies, in_sync = str(min(3, nodes)), str(min(2, nodes))
    return {
        "default.replication.factor": copies,
        "min.insync.replicas": in_sync,
        "offsets.topic.num.partitions": str(_INTERNAL_PARTITIONS),
        "offsets.topic.replication.factor": copies,
        "transaction.state.log.num.partitions": str(_INTERNAL_PARTITIONS),
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.num.partitions": str(_INTERNAL_PARTITIONS),
        "share.coordinator.state.topic.replication.factor": copies,
        "share.coordinator.state.topic.min.isr": in_sync,
    }
