"""An Apache Kafka of one's own, without Docker and without a JDK installed by hand.

Real Apache Kafka, as plain processes on loopback: one KRaft node by default, three of them
for the tests. Nothing here ends a process that it did not start.
"""

from __future__ import annotations

from streamapp.broker.cluster import DEFAULT_PORT, Cluster, default_folder
from streamapp.broker.jars import java_command
from streamapp.broker.node import NodeStatus


__all__ = ["DEFAULT_PORT", "Cluster", "NodeStatus", "default_folder", "java_command"]
