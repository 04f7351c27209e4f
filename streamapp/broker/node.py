"""One node of the embedded Apache Kafka: its folder and its process.

node-1/node.json           its ports, and its process while it is started
       server.properties   written anew at each start
       broker.log          its output since its start; of the start before: broker.log.1
       data/               Kafka's data; formatted once
"""

from __future__ import annotations

import contextlib
import os

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from streamapp.broker import locks, process
from streamapp.broker.config import DATA, HOST, Ports
from streamapp.errors import BrokerError


if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import psutil


LOG_LINES: Final = 3  # of a program's last words: enough for the reason and its cause
LINE_CHARACTERS: Final = 300


@dataclass(frozen=True)
class NodeStatus:
    """The status of one node, as it is shown to users."""

    number: int
    pid: int | None
    running: bool
    host: str
    port: int | None  # None: it was never started
    folder: Path
    since: datetime | None

    @property
    def address(self) -> str:
        """Return ``host:port``, as clients want it."""
        return f"{self.host}:{self.port}"


class NodeState(msgspec.Struct, frozen=True):
    """The content of `node.json`; the process is the last one that was started."""

    port: int
    controller_port: int
    pid: int | None = None
    created: float | None = None


class Node:
    """One node in its *folder*; *number* counts from 1."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = folder
        self.number = number
        self.log = folder / "broker.log"
        self._state_file = folder / "node.json"

    @property
    def ports(self) -> Ports | None:
        """Return its ports, or its last ones; None if it was never started."""
        state = self._read()
        return Ports(state.port, state.controller_port) if state else None

    @property
    def is_formatted(self) -> bool:
        """Return whether Kafka has prepared the data folder."""
        return self._meta.is_file()

    @property
    def cluster_id(self) -> str | None:
        """Return the id of the cluster that the data belong to; None before the first start."""
        if not self.is_formatted:
            return None
        lines = self._meta.read_text(encoding="utf-8").splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line).get("cluster.id")

    def process(self) -> psutil.Process | None:
        """Return its process; None if it does not run, or if another process has its id."""
        state = self._read()
        if state is None or state.pid is None or state.created is None:
            return None
        return process.find(process.Identity(state.pid, state.created))

    def running(self) -> psutil.Process:
        """Return its process.

        Raises:
            BrokerError: it does not run.
        """
        found = self.process()
        if found is None:
            raise BrokerError(f"node {self.number} in {self.folder} is not running: start it first")
        return found

    def status(self) -> NodeStatus:
        """Return its status."""
        state, found = self._read(), self.process()
        since = datetime.fromtimestamp(found.create_time(), tz=UTC) if found else None
        return NodeStatus(
            number=self.number,
            pid=found.pid if found else None,
            running=found is not None,
            host=HOST,
            port=state.port if state else None,
            folder=self.folder,
            since=since,
        )

    def check_unused(self) -> None:
        """Check that no broker uses the data, not even one that was started elsewhere.

        Raises:
            BrokerError: a broker uses the data; a second one would damage them.
        """
        data = self.folder / DATA
        if locks.is_locked(data / ".lock"):
            raise BrokerError(
                f"a Kafka that is not known here uses {data}: stop it (a java whose current "
                f"folder is {self.folder}), or name another folder"
            )

    def configure(self, ports: Ports, properties: str) -> None:
        """Write *ports* and *properties* for the next start; the node must not be running."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "server.properties").write_text(properties, encoding="ascii")
        self._write(NodeState(ports.broker, ports.controller))

    def launch(self, command: Sequence[str]) -> None:
        """Start its process, and return before it is ready."""
        ports = self.ports
        if ports is None:
            raise BrokerError(f"node {self.number} in {self.folder} was never configured")
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.1"))
        started = process.spawn(command, folder=self.folder, log=self.log)
        self._write(NodeState(ports.broker, ports.controller, started.pid, started.created))

    def forget_process(self) -> None:
        """Write that it was stopped."""
        if ports := self.ports:
            # On a full disk the entry of the ended process stays, which is harmless.
            with contextlib.suppress(OSError):
                self._write(NodeState(ports.broker, ports.controller))

    def last_words(self) -> str:
        """Return the end of its log in one line, without stack traces."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return "it left no log"
        return gist(text)

    @property
    def _meta(self) -> Path:
        return self.folder / DATA / "meta.properties"

    def _read(self) -> NodeState | None:
        try:
            return msgspec.json.decode(self._state_file.read_bytes(), type=NodeState)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise BrokerError(
                f"cannot read {self._state_file} ({error}): if no broker of this folder runs, "
                "delete that file (its data stay) and start again"
            ) from error

    def _write(self, state: NodeState) -> None:
        part = self._state_file.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(msgspec.json.encode(state))
        part.replace(self._state_file)


def gist(text: str) -> str:
    """Return the end of a Java program's output in one line, without stack traces."""
    lines = [line.strip() for line in text.splitlines() if not line.startswith(("\t", " "))]
    last = [line[:LINE_CHARACTERS] for line in lines if line][-LOG_LINES:]
    return " | ".join(last) or "it said nothing"
