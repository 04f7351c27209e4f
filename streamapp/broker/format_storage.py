"""Formats the data folders of new nodes with Kafka's own tool, once for each cluster."""

from __future__ import annotations

import base64
import subprocess
import uuid

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from streamapp.broker import process
from streamapp.broker.jars import java_command
from streamapp.broker.node import Node, gist
from streamapp.errors import BrokerError


if TYPE_CHECKING:
    from collections.abc import Sequence


_HEAP_MIB = 128
_FLAGS = ("-XX:TieredStopAtLevel=1",)  # it runs for a second


def format_folders(nodes: Sequence[Node], cluster_id: str) -> None:
    """Format the data folders of *nodes*, all at the same time.

    Raises:
        BrokerError: a folder could not be formatted.
    """
    if not nodes:
        return
    command = java_command(
        "kafka.tools.StorageTool",
        *("format", "--cluster-id", cluster_id, "--config", "server.properties"),
        heap_mib=_HEAP_MIB,
        flags=_FLAGS,
    )
    with ThreadPoolExecutor(len(nodes)) as pool:
        for node, answer in zip(nodes, pool.map(lambda n: _run(command, n), nodes), strict=True):
            if not node.is_formatted:
                raise BrokerError(
                    f"Kafka could not prepare {node.folder}: {answer}; mend that, or name "
                    "another folder"
                )


def _run(command: Sequence[str], node: Node) -> str:
    """Run *command* in the folder of *node*, and return the end of its output."""
    done = subprocess.run(  # noqa: S603 - the command is our own
        command,
        cwd=node.folder,
        env=process.environment(),
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    return gist(done.stdout)


def new_cluster_id() -> str:
    """Return a random id in Kafka's format, without a leading ``-``, which its tools misread."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A", 1)
