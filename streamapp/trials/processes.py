"""Background processes of the demo and the self-test, each with its own log.

They get all their settings explicitly. They inherit neither the variables of this process nor
a config file in the current folder.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

from pathlib import Path
from typing import Any, Final

import streamapp

from streamapp.errors import StreamAppError
from streamapp.settings import ENV_PREFIX, as_environment


HOST: Final = "127.0.0.1"
READY_SECONDS: Final = 90.0
STOP_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.2
_STREAMAPP: Final = (sys.executable, "-m", "streamapp")
_FAUST_WORKER: Final = (
    *(sys.executable, "-m", "faust", "-A", "streamapp.app"),
    *("worker", "--loglevel", "info"),
)


def free_ports(count: int) -> list[int]:
    """Return *count* different unused ports of loopback."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for bound in sockets:
            bound.bind((HOST, 0))
        return [bound.getsockname()[1] for bound in sockets]
    finally:
        for bound in sockets:
            bound.close()


def environment(**settings: object) -> dict[str, str]:
    """Return this process's environment, with *settings* as its only settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ENV_PREFIX)}
    # Another copy of the program may be installed; this one is run.
    paths = [str(Path(streamapp.__file__).parents[1]), *filter(None, [kept.get("PYTHONPATH")])]
    return kept | {"PYTHONPATH": os.pathsep.join(paths)} | as_environment(settings)


class Process:
    """A `streamapp` command *mode* in the background, with *settings*."""

    def __init__(self, name: str, mode: str, *, folder: Path, **settings: object) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = [*_STREAMAPP, mode]
        self._environment = environment(**settings)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, with its output in its log."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                self._command,
                cwd=self.log.parent,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the demo, which then stops it
            )

    def stop(self) -> None:
        """Terminate it; kill it if it still runs after `STOP_SECONDS`."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kill it, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def code(self) -> int | None:
        """The exit code; None before its start and while it runs."""
        return None if self._process is None else self._process.poll()

    @property
    def last_line(self) -> str:
        """The last line of its log."""
        return "".join(self.log.read_text("utf-8", "replace").strip().splitlines()[-1:])


class Worker(Process):
    """A worker process with its own data folder."""

    def __init__(
        self, name: str, *, folder: Path, brokers: str, port: int, **settings: object
    ) -> None:
        super().__init__(
            name,
            "worker",
            folder=folder,
            machine_id=name,
            brokers=(brokers,),
            data_dir=(folder,),
            web_port=port,
            **settings,
        )
        self.url = f"http://{HOST}:{port}"
        self.data_root = folder / f"processed_data_{name}"

    def wait_until_ready(self) -> None:
        """Wait until it has its tables and an assignment.

        Raises:
            StreamAppError: it ended, or is not ready in time.
        """
        self._wait_until(lambda health: bool(health["ready"]), "is not ready")

    def wait_for_partitions(self) -> None:
        """Wait until it has at least one partition.

        Raises:
            StreamAppError: it ended, or has none in time.
        """
        self._wait_until(
            lambda health: bool(health["ready"] and health["partitions"]), "got no partitions"
        )

    def _wait_until(self, holds: Any, failure: str) -> None:  # noqa: ANN401 - a predicate
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self.code is not None:
                message = f"{self.name} ended with code {self.code}: {self.last_line}"
                raise StreamAppError(message)
            health = self.health()
            if health is not None and holds(health):
                return
            time.sleep(_POLL_SECONDS)
        message = f"{self.name} {failure} after {READY_SECONDS:.0f} s, see {self.log}"
        raise StreamAppError(message)

    def health(self) -> dict[str, Any] | None:
        """Return its health; None while it does not answer."""
        try:
            with urllib.request.urlopen(f"{self.url}/health/", timeout=2) as answer:  # noqa: S310
                found: dict[str, Any] = json.load(answer)
                return found
        except (OSError, ValueError):
            return None


class FaustWorker(Worker):
    """A worker that is started by Faust's own command."""

    def __init__(self, *args: Any, **settings: Any) -> None:  # noqa: ANN401 - arguments of `Worker`
        super().__init__(*args, **settings)
        self._command = list(_FAUST_WORKER)


def send(data: Path, *, brokers: str) -> int:
    """Run the producer in this terminal and return its exit code."""
    command = [*_STREAMAPP, "producer", "--machine-id", "demo", "--brokers", brokers]
    process = subprocess.run(  # noqa: S603 - our own command
        [*command, "--data-folder", str(data)], check=False, env=environment()
    )
    return process.returncode
