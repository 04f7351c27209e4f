"""Processes of the demo and the self-test: in the background, each with a log of its own.

They are told all their settings: what this process was given for itself, by variables or by a
config file in the current folder, is not theirs.
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
    """Return *count* ports of loopback that nobody uses now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for bound in sockets:
            bound.bind((HOST, 0))
        return [bound.getsockname()[1] for bound in sockets]
    finally:
        for bound in sockets:
            bound.close()


def environment(**settings: object) -> dict[str, str]:
    """Return this process's environment, with *settings* and no others."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ENV_PREFIX)}
    # This copy of the program, whichever one is installed.
    paths = [str(Path(streamapp.__file__).parents[1]), *filter(None, [kept.get("PYTHONPATH")])]
    return kept | {"PYTHONPATH": os.pathsep.join(paths)} | as_environment(settings)


class Process:
    """One `streamapp` command in the background: *mode* says which, *settings* how."""

    def __init__(self, name: str, mode: str, *, folder: Path, **settings: object) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = [*_STREAMAPP, mode]
        self._environment = environment(**settings)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; what it says goes to its log."""
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
        """Stop it as its user would; if it does not listen, for good."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs, or before it was started."""
        return None if self._process is None else self._process.poll()

    @property
    def last_line(self) -> str:
        """What it said last."""
        return "".join(self.log.read_text("utf-8", "replace").strip().splitlines()[-1:])


class Worker(Process):
    """One worker process with a data folder of its own."""

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
        """Wait until it has its tables and partitions.

        Raises:
            StreamAppError: it ended, or is not ready in time.
        """
        self._wait_until(lambda health: bool(health["ready"]), "is not ready")

    def wait_for_partitions(self) -> None:
        """Wait until it reads some partitions.

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
        """Return what it says of itself; None while it says nothing."""
        try:
            with urllib.request.urlopen(f"{self.url}/health/", timeout=2) as answer:  # noqa: S310
                found: dict[str, Any] = json.load(answer)
                return found
        except (OSError, ValueError):
            return None


class FaustWorker(Worker):
    """The same worker, started by Faust's own command and not by ours."""

    def __init__(self, *args: Any, **settings: Any) -> None:  # noqa: ANN401 - as `Worker` has them
        super().__init__(*args, **settings)
        self._command = list(_FAUST_WORKER)


def send(data: Path, *, brokers: str) -> int:
    """Run the producer in this terminal and return its exit code."""
    command = [*_STREAMAPP, "producer", "--machine-id", "demo", "--brokers", brokers]
    process = subprocess.run(  # noqa: S603 - our own command
        [*command, "--data-folder", str(data)], check=False, env=environment()
    )
    return process.returncode
