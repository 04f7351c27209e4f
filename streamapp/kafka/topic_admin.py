"""Topics on the cluster: their settings, and how they are created and checked.

Topics are created explicitly, before any worker reads: a broker that creates one by itself
gives it another number of partitions, and Faust's tables need as many as the topics that fill
them. `streamapp.protocol.topics` has the names and the numbers of partitions.
"""

from __future__ import annotations

import time

from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from confluent_kafka import KafkaError as KafkaCode
from confluent_kafka import KafkaException
from confluent_kafka.admin import ConfigResource, NewTopic, ResourceType

from streamapp.errors import TopicError
from streamapp.kafka import clients
from streamapp.protocol.frames import MAX_FRAMES, OVERHEAD_BYTES
from streamapp.protocol.topics import (
    ACKS,
    BLOCK_PARTITIONS,
    DATA_BLOCKS,
    FILE_PARTITIONS,
    STATUS,
    TABLES,
    Names,
    Place,
)
from streamapp.units import MIB, counted


if TYPE_CHECKING:
    from collections.abc import Callable

    from streamapp.settings import Settings

_T = TypeVar("_T")

WANTED_REPLICAS: Final = 3
MAX_MESSAGE_BYTES: Final = 8 * MIB
"""Several 1 MiB frames fit into a produce batch: the brokers need a third less processor time."""

SEGMENT_BYTES: Final = 256 * MIB
_MIN_FRAME_BYTES: Final = 1024
SPREAD_SECONDS: Final = 10.0
"""How long a broker may not know a topic that another broker has just created."""

_HOUR_MS: Final = 3_600_000

_POLL_SECONDS: Final = 0.2
_UNREAD_COMPRESSION: Final = (
    "snappy",
    "lz4",
)  # `streamapp.worker.aiokafka_overrides.batches` would refuse every record


def names(settings: Settings) -> Names:
    """Return the names of the topics on the cluster: `topic_prefix`, then their own names."""
    prefix = settings.topic_prefix
    return Names(prefix + DATA_BLOCKS, prefix + STATUS, prefix + ACKS)


def file_places(topic: str) -> list[Place]:
    """Return the partitions of *topic*, which has as many as the tables."""
    return [(topic, number) for number in range(FILE_PARTITIONS)]


class TopicSpec(msgspec.Struct, frozen=True):
    """How a topic must be configured; *config* has Kafka's setting names."""

    name: str
    partitions: int
    config: dict[str, str]


def specs(settings: Settings) -> tuple[TopicSpec, ...]:
    """Return the specifications of all topics."""
    compacted = {"cleanup.policy": "compact", "compression.type": "producer"}
    retention = -1 if settings.retention_size is None else settings.retention_size
    called = names(settings)
    return (
        TopicSpec(
            called.data_blocks,
            BLOCK_PARTITIONS,
            {
                "cleanup.policy": "delete",
                "compression.type": "producer",
                "max.message.bytes": str(MAX_MESSAGE_BYTES),
                "retention.ms": str(int(settings.retention_hours * _HOUR_MS)),
                "retention.bytes": str(retention),
                "segment.bytes": str(SEGMENT_BYTES),
            },
        ),
        TopicSpec(called.status, FILE_PARTITIONS, compacted),
        TopicSpec(called.acks, FILE_PARTITIONS, compacted),
    )


def changelogs(settings: Settings) -> tuple[TopicSpec, ...]:
    """Return the changelog topics of the group's tables, under the names Faust gives them."""
    compacted = {"cleanup.policy": "compact", "compression.type": "producer"}
    return tuple(
        TopicSpec(f"{settings.group_id}-{table}-changelog", FILE_PARTITIONS, compacted)
        for table in TABLES
    )


class TopicState(msgspec.Struct, frozen=True):
    """How a topic is configured on the cluster."""

    name: str
    partitions: int
    replicas: int
    config: dict[str, str]

    @property
    def max_message_bytes(self) -> int:
        """The largest batch of records that the topic accepts, in bytes."""
        return int(self.config["max.message.bytes"])

    @property
    def retention_bytes(self) -> int | None:
        """The bytes that a partition retains, read or not; None without a limit."""
        size = int(self.config.get("retention.bytes", -1))
        return None if size < 0 else size

    @property
    def retention_seconds(self) -> float | None:
        """The time that a record is retained, read or not; None without a limit."""
        milliseconds = int(self.config.get("retention.ms", -1))
        return None if milliseconds < 0 else milliseconds / 1000


def ensure(settings: Settings, *, with_changelogs: bool = False) -> dict[str, TopicState]:
    """Create the missing topics, check all topics, and return their states by full name.

    A worker also needs the changelogs of its group's tables (*with_changelogs*).

    Raises:
        ClusterError: no broker answers, or the user has no right to create topics.
        TopicError: a topic has a wrong setting; the message has the command that corrects it.
    """
    admin = clients.admin(settings)
    brokers = clients.brokers(admin, settings)
    found = clients.topics(admin, settings)
    wanted = specs(settings) + (changelogs(settings) if with_changelogs else ())
    missing = [spec for spec in wanted if spec.name not in found]
    if missing:
        _create(admin, missing, replicas=settings.replication or min(WANTED_REPLICAS, brokers))
    # Existing topics may be new as well: another worker may have created them a moment ago, and
    # each request may go to another broker.
    return check(settings, patience=SPREAD_SECONDS)


def check(settings: Settings, *, patience: float = 0.0) -> dict[str, TopicState]:
    """Return the topics' states by full name; wait up to *patience* seconds for missing topics.

    Raises:
        ClusterError: no broker answers, or refuses.
        TopicError: a topic is missing, or has a wrong setting.
    """
    admin = clients.admin(settings)
    deadline = time.monotonic() + patience
    while True:
        found = clients.topics(admin, settings)
        missing = [spec.name for spec in specs(settings) if spec.name not in found]
        if not missing or time.monotonic() >= deadline:
            break
        time.sleep(_POLL_SECONDS)
    if missing:
        message = f"topics missing: {', '.join(missing)}. Create them: {_create_command(settings)}"
        raise TopicError(message)
    states = {
        spec.name: TopicState(
            name=spec.name,
            partitions=len(found[spec.name]),
            replicas=min(found[spec.name]),
            config=_config(admin, spec.name),
        )
        for spec in specs(settings)
    }
    problems = [p for spec in specs(settings) for p in _problems(spec, states[spec.name], settings)]
    if problems:
        raise TopicError("; ".join(problems))
    return states


def delete(settings: Settings, names: list[str]) -> None:
    """Delete the topics *names*; return when no broker lists them.

    Raises:
        ClusterError: no broker answers, or refuses.
        TopicError: the deletion takes too long.
    """
    admin = clients.admin(settings)
    doomed = [name for name in names if name in clients.topics(admin, settings)]
    if not doomed:
        return
    futures = admin.delete_topics(doomed, operation_timeout=clients.REQUEST_SECONDS)
    for name, future in futures.items():
        try:
            future.result()
        except KafkaException as error:
            raise clients.translated(error, f"cannot delete the topic {name}") from error
    deadline = time.monotonic() + clients.REQUEST_SECONDS
    while any(name in clients.topics(admin, settings) for name in doomed):
        if time.monotonic() > deadline:
            message = f"topics {', '.join(doomed)} are being deleted for too long: try again"
            raise TopicError(message)
        time.sleep(_POLL_SECONDS)


def frame_bytes(settings: Settings, data_blocks: TopicState) -> int:
    """Return how many bytes of a block fit into one record of *data_blocks*.

    Raises:
        TopicError: a block would have more frames than a worker accepts.
    """
    size = min(settings.frame_size, data_blocks.max_message_bytes - OVERHEAD_BYTES)
    if settings.block_size > MAX_FRAMES * size:
        message = (
            f"blocks of {settings.block_size} bytes in records of {size}, which topic "
            f"{data_blocks.name} takes, are more than {MAX_FRAMES}: give a smaller --block-size"
        )
        raise TopicError(message)
    return size


def _create(admin: clients.AdminClient, wanted: list[TopicSpec], *, replicas: int) -> None:
    config = {"min.insync.replicas": str(max(1, replicas - 1))}
    new = [
        NewTopic(
            spec.name,
            num_partitions=spec.partitions,
            replication_factor=replicas,
            config=config | spec.config,
        )
        for spec in wanted
    ]

    def create() -> None:
        futures = admin.create_topics(
            new, operation_timeout=clients.REQUEST_SECONDS, request_timeout=clients.REQUEST_SECONDS
        )
        for future in futures.values():
            try:
                future.result()
            except KafkaException as error:
                if not clients.is_already_there(error):  # another process was faster
                    raise

    _persistently(create, f"cannot create the topics {', '.join(spec.name for spec in wanted)}")


def _config(admin: clients.AdminClient, name: str) -> dict[str, str]:
    resource = ConfigResource(ResourceType.TOPIC, name)

    def describe() -> dict[str, str]:
        described = admin.describe_configs([resource], request_timeout=clients.REQUEST_SECONDS)
        return {k: entry.value or "" for k, entry in described[resource].result().items()}

    return _persistently(describe, f"cannot read the settings of topic {name}")


def _persistently(ask: Callable[[], _T], doing: str) -> _T:
    """Return the result of *ask*; retry while a topic is new or a broker fails over.

    Raises:
        ClusterError: *ask* fails; *doing* says which request failed.
    """
    began = time.monotonic()
    while True:
        try:
            return ask()
        except KafkaException as error:
            patience = 0.0
            if error.args[0].code() == KafkaCode.UNKNOWN_TOPIC_OR_PART:
                patience = SPREAD_SECONDS
            elif clients.is_passing(error):
                patience = clients.FAILOVER_SECONDS
            if time.monotonic() - began >= patience:
                raise clients.translated(error, doing) from error
            time.sleep(_POLL_SECONDS)


def _create_command(settings: Settings) -> str:
    """Return the command that creates the topics on these brokers and with this prefix."""
    prefix = f" --topic-prefix {settings.topic_prefix}" if settings.topic_prefix else ""
    return f"streamapp topics create --brokers {settings.brokers}{prefix}"


def _wrong_width(spec: TopicSpec, state: TopicState, settings: Settings) -> str:
    """Return the wrong number of partitions, and how to correct it without losing data."""
    at = f"--bootstrap-server {settings.brokers}"
    found = (
        f"topic {spec.name} has {counted(state.partitions, 'partition')}, "
        f"expected {spec.partitions}"
    )
    if state.partitions < spec.partitions:
        return (
            f"{found}: kafka-topics.sh {at} --alter --topic {spec.name} "
            f"--partitions {spec.partitions}"
        )
    called = names(settings)
    holds = {
        called.data_blocks: "the blocks that no machine has read yet",
        called.acks: "the record of what is delivered, so all of it would be sent again",
    }.get(spec.name, "the state of all files")
    return (
        f"{found}, and Kafka cannot take partitions away. Use other topics for all producers and "
        f"workers: --topic-prefix with another prefix than {settings.topic_prefix!r}. Deleting "
        f"this one would also delete what it holds, {holds}; only if you do not need that: "
        f"kafka-topics.sh {at} --delete --topic {spec.name}, then {_create_command(settings)}"
    )


def _problems(spec: TopicSpec, state: TopicState, settings: Settings) -> list[str]:
    """Return what is wrong with a topic, each with the command that corrects it."""

    def alter(config: str) -> str:
        return (
            f"kafka-configs.sh --bootstrap-server {settings.brokers} --alter --entity-type topics "
            f"--entity-name {spec.name} --add-config {config}"
        )

    problems = []
    if state.partitions != spec.partitions:
        problems.append(_wrong_width(spec, state, settings))
    is_blocks = spec.name == names(settings).data_blocks
    smallest = _MIN_FRAME_BYTES + OVERHEAD_BYTES
    if is_blocks and state.max_message_bytes < smallest:
        problems.append(
            f"topic {spec.name} takes records of {state.max_message_bytes} bytes, expected "
            f"{smallest} or more: {alter(f'max.message.bytes={MAX_MESSAGE_BYTES}')}"
        )
    # All frames of a block have one key: compaction would delete all but the last.
    must_compact = not is_blocks
    found = state.config["cleanup.policy"]
    if ("compact" in found) != must_compact:
        wanted = "compact" if must_compact else "delete"
        problems.append(
            f"topic {spec.name} has cleanup.policy={found}, expected {wanted}: "
            f"{alter(f'cleanup.policy={wanted}')}"
        )
    if (compression := state.config["compression.type"]) in _UNREAD_COMPRESSION:
        problems.append(
            f"topic {spec.name} has compression.type={compression}, which workers do not read, "
            f"expected producer: {alter('compression.type=producer')}"
        )
    return problems
