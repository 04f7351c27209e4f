"""The demo: sends a folder through a real Apache Kafka to two workers.

At the end it reads the blocks of both machines, joins them and compares the files with the
source. It uses no counter of the producer or the workers. It stops what it started, unless it
is asked to leave it running.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time

from typing import TYPE_CHECKING, Final

from rich.console import Console

from streamapp.broker import Cluster
from streamapp.settings import Settings
from streamapp.trials import comparison
from streamapp.trials.demo import data as demo_data
from streamapp.trials.demo.workspace import Workspace
from streamapp.trials.processes import FaustWorker, Worker, free_ports, send
from streamapp.units import counted, format_duration, format_rate, format_size


if TYPE_CHECKING:
    from pathlib import Path

WORKERS: Final = (FaustWorker, Worker)
"""`faust worker` and `streamapp worker` start the same program; the demo runs both."""


def run(folder: Path, *, data: Path | None, keep: bool) -> int:
    """Run the demo in *folder*; return 0 only if every file has the SHA-256 of its source.

    *data* is the folder to send; None makes one. *keep* leaves broker and workers running.

    Raises:
        StreamAppError: the demo cannot run here; the message has the reason.
    """
    console = Console()
    began = time.monotonic()
    workspace = Workspace(folder)
    workspace.clear()
    if data is None:
        with console.status("Making 1 GiB of files"):
            data = demo_data.make(workspace.source)
    workspace.check_room(data)
    _end_on_signals()
    with contextlib.ExitStack() as stack:
        cluster = Cluster(workspace.broker)
        if not keep:
            stack.callback(cluster.stop)
        with console.status("Starting Apache Kafka"):
            cluster.start()
        console.print(f"Apache Kafka is up at {cluster.bootstrap}")
        workers = _start_workers(console, stack, workspace, cluster.bootstrap, keep=keep)
        started = time.monotonic()
        code = send(data, brokers=cluster.bootstrap)
        seconds = time.monotonic() - started
        console.print("Proving it: every block on both machines is read, joined and compared")
        outcome = comparison.compare(data, [worker.data_root for worker in workers])
        console.print(outcome.table())
        _print_rate(console, outcome, seconds=seconds, total=time.monotonic() - began)
        for worker in workers:
            console.print(f"{worker.name}: {worker.data_root}, log in {worker.log}")
        _print_views(console, workers[0].url, cluster, folder=workspace.broker, keep=keep)
    if code or not outcome.agrees:
        console.print(f"[red]NOT proven: producer exit code {code}, see above")
        return 1
    console.print(f"[green]Proven: {counted(len(outcome.files), 'file')} arrived whole")
    return 0


def _end_on_signals() -> None:
    """Have SIGTERM and SIGHUP stop the demo and what it started, as Ctrl-C does."""

    def on_signal(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), on_signal)


def _start_workers(
    console: Console,
    stack: contextlib.ExitStack,
    workspace: Workspace,
    brokers: str,
    *,
    keep: bool,
) -> list[Worker]:
    with console.status(f"Starting {len(WORKERS)} workers"):
        workers = [
            worker(f"worker-{number}", folder=workspace.machines, brokers=brokers, port=port)
            for number, (worker, port) in enumerate(
                zip(WORKERS, free_ports(len(WORKERS)), strict=True), start=1
            )
        ]
        for worker in workers:
            worker.start()
            if not keep:
                stack.callback(worker.stop)
        for worker in workers:
            worker.wait_until_ready()
        # A new member causes another rebalance: wait until both have partitions.
        for worker in workers:
            worker.wait_for_partitions()
    console.print(f"{len(WORKERS)} workers are up: {', '.join(worker.url for worker in workers)}")
    return workers


def _print_rate(
    console: Console, outcome: comparison.Outcome, *, seconds: float, total: float
) -> None:
    console.print(
        f"{format_size(outcome.bytes)} in {format_duration(seconds)}: "
        f"{format_rate(outcome.bytes / seconds)} from the first read to the last "
        f"acknowledgement; {format_duration(total)} in all"
    )


def _print_views(console: Console, url: str, cluster: Cluster, *, folder: Path, keep: bool) -> None:
    if not keep:
        console.print(f"Progress was at {url}/progress/ (streamapp demo --keep leaves it running)")
        return
    port = url.rpartition(":")[2]
    console.print(
        f"Still running. Progress: {url}/progress/, or: streamapp status --web-port {port}"
    )
    console.print(
        f"Brokers: {cluster.bootstrap} (group {Settings.model_fields['group_id'].default}). "
        f"Stop: Ctrl-C is not enough, end the workers' pids, "
        f"then streamapp broker stop --folder {folder}"
    )
