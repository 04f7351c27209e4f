"""Starts, watches and stops the nodes of an embedded Apache Kafka.

Data and ports stay the same from one start to the next. Before a start, this module checks what
the user can fix: a used port, a full disk, a missing Java, a folder with another number of
nodes. Nodes that do not become ready are stopped again.
"""

from __future__ import annotations

import logging
import shutil

from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import platformdirs

from streamapp.broker import locks, ports, process
from streamapp.broker.config import Ports, server_properties
from streamapp.broker.format_storage import format_folders, new_cluster_id
from streamapp.broker.jars import java_command
from streamapp.broker.node import Node, NodeStatus
from streamapp.broker.readiness import wait_until_ready
from streamapp.errors import BrokerError


if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType


logger = logging.getLogger(__name__)

DEFAULT_PORT: Final = 9092
READY_SECONDS: Final = 60.0  # 4 s alone on two cores, 12 s for three nodes at once
STOP_SECONDS: Final = 30.0
MIN_FREE_BYTES: Final = 1 << 30  # one log segment of Kafka's default size
_BROKER_FLAGS = ("-XX:+ExitOnOutOfMemoryError",)


def default_folder() -> Path:
    """Return where the user's own broker keeps its data."""
    return Path(platformdirs.user_data_dir("streamapp", appauthor=False)) / "broker"


class Cluster:
    """The nodes of one Apache Kafka, in one folder; also a context manager."""

    def __init__(  # noqa: PLR0913 - all but the folder have a default that fits
        self,
        folder: Path,
        *,
        nodes: int = 1,
        port: int | None = None,
        heap_mib: int = 512,
        extra: Mapping[str, str] | None = None,
        min_free_bytes: int = MIN_FREE_BYTES,
    ) -> None:
        """Describe the cluster; nothing is started and nothing is written.

        Args:
            folder: Folder of the nodes' folders `node-1` and so on.
            nodes: Number of nodes; fixed by the first start.
            port: First node's port, the others follow; None: the last ports, or free ones.
            heap_mib: Maximum Java heap of a node, in MiB.
            extra: Further broker properties; they override the default ones.
            min_free_bytes: Free space that a start needs.
        """
        self.folder = folder
        self._nodes = [Node(folder / f"node-{n}", n) for n in range(1, nodes + 1)]
        self._port = port
        self._heap_mib = heap_mib
        self._extra = dict(extra or {})
        self._min_free_bytes = min_free_bytes

    @property
    def bootstrap(self) -> str:
        """Return the addresses for clients: ``127.0.0.1:9092,127.0.0.1:9093``.

        Raises:
            BrokerError: the cluster was never started.
        """
        status = self.status()
        if any(node.port is None for node in status):
            raise BrokerError(f"the broker in {self.folder} was never started: start it first")
        return ",".join(node.address for node in status)

    def status(self) -> list[NodeStatus]:
        """Return the status of each node."""
        return [node.status() for node in self._nodes]

    def start(self) -> None:
        """Start every node that does not run, and wait until all nodes answer.

        Raises:
            JavaError: there is no Java that is new enough.
            BrokerError: the start failed; the nodes started by this call are stopped.
        """
        self._check_folder()
        self._check_port()
        self._start(self._nodes, wait_for=self._nodes)

    def stop(self) -> None:
        """Terminate every running node, and kill it after 30 s."""
        self._check_folder()
        self._stop(self._nodes)

    def start_node(self, number: int, *, wait: bool = True) -> None:
        """Start one node of a cluster that was started before.

        *wait* until it answers; it cannot answer while most other nodes are down.
        """
        node = self._node(number)
        self._start([node], wait_for=[node] if wait else [])

    def stop_node(self, number: int) -> None:
        """Terminate one node, and kill it after 30 s."""
        self._stop([self._node(number)])

    def kill(self, number: int) -> None:
        """Kill one node, as a crash would; its process id stays in `node.json`."""
        process.kill([self._node(number).running()])

    def pause(self, number: int) -> None:
        """Suspend one node; its connections stay open."""
        process.signal(self._node(number).running().suspend)

    def resume(self, number: int) -> None:
        """Resume a paused node."""
        process.signal(self._node(number).running().resume)

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it."""
        self.stop()

    def _node(self, number: int) -> Node:
        if not 1 <= number <= len(self._nodes):
            raise BrokerError(
                f"there is no node {number}: they are numbered 1 to {len(self._nodes)}"
            )
        return self._nodes[number - 1]

    def _check_folder(self) -> None:
        there = len(list(self.folder.glob("node-*/node.json")))
        if there not in (0, len(self._nodes)):
            raise BrokerError(
                f"{self.folder} holds a broker of {there} nodes, not of {len(self._nodes)}: "
                "name another folder"
            )

    def _check_port(self) -> None:
        """Check that no node runs on another port than the requested one."""
        if self._port is None:
            return
        for status in self.status():
            wanted = self._port + status.number - 1
            if status.running and status.port != wanted:
                raise BrokerError(
                    f"the broker in {self.folder} runs on port {status.port} already, not on "
                    f"{wanted}: use that, or stop it first"
                )

    def _start(self, nodes: Sequence[Node], *, wait_for: Sequence[Node]) -> None:
        """Start those of *nodes* that do not run; if that fails, stop them again."""
        started: list[Node] = []
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with locks.one_at_a_time(self.folder / "start.lock", within=2 * READY_SECONDS):
                stopped = [node for node in nodes if node.process() is None]
                if stopped:
                    self._prepare(stopped)
                    started = stopped
                    self._launch(stopped)
                wait_until_ready(wait_for, within=READY_SECONDS)
        except BaseException as error:
            process.kill([found for node in started if (found := node.process())])
            if isinstance(error, OSError):
                raise BrokerError(
                    f"cannot start a broker in {self.folder}: {error}; mend that, or name "
                    "another folder"
                ) from error
            raise

    def _prepare(self, nodes: Sequence[Node]) -> None:
        """Check that *nodes* can be started, and prepare their folders."""
        self._check_disk()
        for node in nodes:
            node.check_unused()
        self._configure()
        for node in nodes:
            if node.ports:
                ports.check_free(node.ports.broker)
                ports.check_free(node.ports.controller)
        format_folders([node for node in nodes if not node.is_formatted], self._cluster_id())

    def _launch(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            node.launch(
                java_command(
                    "kafka.Kafka", "server.properties", heap_mib=self._heap_mib, flags=_BROKER_FLAGS
                )
            )

    def _stop(self, nodes: Iterable[Node]) -> None:
        running = {found.pid: (found, node) for node in nodes if (found := node.process())}
        for pid in process.end([found for found, _ in running.values()], within=STOP_SECONDS):
            logger.warning(
                "node %d did not stop within %.0f s and was killed; it checks its data at the "
                "next start",
                running[pid][1].number,
                STOP_SECONDS,
            )
        for node in nodes:
            node.forget_process()

    def _check_disk(self) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < self._min_free_bytes:
            raise BrokerError(
                f"{self.folder}: {free >> 20} MiB are free, {self._min_free_bytes >> 20} MiB are "
                "needed to start a broker: make room, or name a folder on another volume"
            )

    def _configure(self) -> None:
        """Choose all ports, and write the configuration of every node that does not run."""
        stopped = [node for node in self._nodes if node.process() is None]
        # A running node expects the others at their last ports.
        fixed = len(stopped) < len(self._nodes)
        unused = ports.free_ports(2 * len(self._nodes))
        chosen = []
        for node in self._nodes:
            last = node.ports or Ports(0, 0)
            asked = self._port + node.number - 1 if self._port is not None else None
            broker = asked or _keep(last.broker, unused.pop(), fixed=fixed)
            chosen.append(Ports(broker, _keep(last.controller, unused.pop(), fixed=fixed)))
        for node in stopped:
            node.configure(
                chosen[node.number - 1], server_properties(node.number, chosen, self._extra)
            )

    def _cluster_id(self) -> str:
        known = [found for node in self._nodes if (found := node.cluster_id)]
        return known[0] if known else new_cluster_id()


def _keep(last: int, unused: int, *, fixed: bool) -> int:
    """Return the *last* port if it is *fixed* or still free, otherwise the *unused* one."""
    return last if last and (fixed or ports.is_free(last)) else unused
