"""The embedded Apache Kafka: runs without Docker, and without a JDK installed by hand.

It is real Apache Kafka in plain processes on loopback: one KRaft node by default, three for
the tests. No process is ended that was not started here.
"""

from __future__ import annotations

from streamapp.broker.cluster import DEFAULT_PORT, Cluster, default_folder
from streamapp.broker.jars import java_command
from streamapp.broker.node import NodeStatus


__all__ = ["DEFAULT_PORT", "Cluster", "NodeStatus", "default_folder", "java_command"]
