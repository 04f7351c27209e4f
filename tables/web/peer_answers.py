"""Types of other workers' answers; an answer of any other shape is ignored.

An authenticated worker may be of another version, or broken. Unknown fields are passed on;
fields that are read here have types and limits.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from msgspec import Meta

from streamapp.protocol.messages import Count, Heartbeat, Partition, Seconds
from streamapp.tables.web.deliveries import MAX_DELIVERIES, Delivery


MAX_ROWS: Final = 20_000
"""Most files or machines in one answer."""

_Total = Annotated[int, Meta(ge=0)]
_Rows = Annotated[list[dict[str, Any]], Meta(max_length=MAX_ROWS)]
_Partitions = Annotated[tuple[Partition, ...], Meta(max_length=1000)]


class FilesAnswer(msgspec.Struct):
    """A worker's part of ``/progress/``: the files of *partitions* of the table."""

    partitions: _Partitions
    totals: dict[str, _Total]
    deliveries: Annotated[list[Delivery], Meta(max_length=MAX_DELIVERIES)]
    matching: Count
    files: _Rows


class MachinesAnswer(msgspec.Struct):
    """A worker's part of ``/machines/``: the machines of *partitions* of the table."""

    partitions: _Partitions
    machines: _Rows


class _File(msgspec.Struct):
    file_id: str
    name: str
    state: str
    reason: str
    size: Count
    persisted_bytes: Count
    blocks: Count
    persisted_blocks: Count
    block_size: Count
    percent: float
    rate: float
    source: str
    digest: str
    failed_blocks: list[dict[str, Any]]
    first_at: float
    last_at: float


class _Machine(msgspec.Struct):
    silent_seconds: Seconds
    clock_ahead: float


class _Blocks(msgspec.Struct):
    file_id: str
    blocks: Count
    runs: list[dict[str, Any]]
    missing: list[Count]


class _Error(msgspec.Struct):
    error: Annotated[str, Meta(max_length=2000)]


def read_files(body: bytes) -> FilesAnswer:
    """Decode a worker's part of the files.

    Raises:
        ValueError: *body* has another shape.
    """
    answer = msgspec.json.decode(body, type=FilesAnswer)
    for file in answer.files:
        msgspec.convert(file, _File)
    return answer


def read_machines(body: bytes) -> MachinesAnswer:
    """Decode a worker's part of the machines.

    Raises:
        ValueError: *body* has another shape.
    """
    answer = msgspec.json.decode(body, type=MachinesAnswer)
    for machine in answer.machines:
        msgspec.convert(machine, Heartbeat)
        msgspec.convert(machine, _Machine)
    return answer


def read_file(body: bytes) -> Any:  # noqa: ANN401 - it is JSON
    """Decode a worker's answer about one file, about its blocks, or an error.

    Raises:
        ValueError: *body* has another shape.
    """
    found = msgspec.json.decode(body)
    shapes: list[type[msgspec.Struct]] = [_Error, _Blocks, _File]
    for shape in shapes:
        try:
            msgspec.convert(found, shape)
        except msgspec.ValidationError:
            continue
        return found
    message = "an answer of another shape"
    raise ValueError(message)
