"""Makes the Kafka clients outside of Faust, and translates their errors.

confluent-kafka (librdkafka) needs a third of aiokafka's processor time to send, retries and
orders records by itself, and bounds its memory. Only Faust uses aiokafka.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka import KafkaError as Code
from confluent_kafka import admin as _admin

from streamapp.errors import BrokerDeniedError, BrokerUnreachableError, ClusterError
from streamapp.kafka.connection_errors import ConnectionErrors, LibraryLog
from streamapp.units import KIB, MIB


if TYPE_CHECKING:
    from streamapp.settings import Settings

__all__ = [
    "FAILOVER_SECONDS",
    "REQUEST_SECONDS",
    "AdminClient",
    "admin",
    "brokers",
    "consumer",
    "is_already_there",
    "is_passing",
    "producer",
    "topics",
    "translated",
]

REQUEST_SECONDS: Final = 10.0
"""How long one request may take before an error says that no broker answers (promise: 15 s)."""

FAILOVER_SECONDS: Final = 60.0
"""How long a cluster that has answered may be silent while another broker takes over."""

BATCH_BYTES: Final = 4 * MIB + 64 * KIB
"""Four frames of 1 MiB with their headers: fewer and larger requests save broker time."""

LINGER_MS: Final = 200
"""How long frames wait for a full batch. librdkafka's threads spin while a frame that has waited
longer cannot be sent: with 20 ms that was a third of the producer's processor time."""

DELIVERY_SECONDS: Final = 24 * 3600
"""How long librdkafka retries a record: longer than any outage that users wait for."""

_DENIED: Final = frozenset(
    {
        Code.TOPIC_AUTHORIZATION_FAILED,
        Code.GROUP_AUTHORIZATION_FAILED,
        Code.CLUSTER_AUTHORIZATION_FAILED,
        Code.SASL_AUTHENTICATION_FAILED,
        Code._AUTHENTICATION,  # noqa: SLF001 - librdkafka's own name for a local error
    }
)
_UNREACHABLE: Final = frozenset(
    {
        Code._TRANSPORT,  # noqa: SLF001 - librdkafka's own names for local errors
        Code._ALL_BROKERS_DOWN,  # noqa: SLF001
        Code._TIMED_OUT,  # noqa: SLF001
        Code._RESOLVE,  # noqa: SLF001
    }
)


def common(settings: Settings) -> dict[str, Any]:
    """Return the configuration that all clients share."""
    return {
        "bootstrap.servers": settings.brokers,
        "client.id": f"streamapp-{settings.machine_id}",
        "socket.keepalive.enable": True,
        "reconnect.backoff.max.ms": 2000,
        "topic.metadata.refresh.interval.ms": 30_000,
        "logger": LibraryLog(),
        "error_cb": ConnectionErrors().note,
    }


class AdminClient(_admin.AdminClient):
    """An admin client that knows why it cannot use its brokers."""

    def __init__(self, settings: Settings) -> None:
        self._trouble = ConnectionErrors()
        super().__init__(common(settings) | {"error_cb": self._trouble.note})

    @property
    def trouble(self) -> str:
        """Why no broker can be used; empty if that is unknown."""
        self.poll(0)
        return self._trouble.reason


def admin(settings: Settings) -> AdminClient:
    """Return an admin client."""
    return AdminClient(settings)


def producer(
    settings: Settings,
    *,
    max_message_bytes: int = MIB,
    **extra: Any,  # noqa: ANN401 - librdkafka's settings
) -> Producer:
    """Return a producer that waits for all in-sync replicas, is idempotent and bounds its memory.

    *max_message_bytes* is the topic's limit for a produce batch.
    """
    return Producer(
        common(settings)
        | {
            "acks": "all",
            "enable.idempotence": True,
            "delivery.timeout.ms": DELIVERY_SECONDS * 1000,
            "message.max.bytes": max_message_bytes,
            "batch.size": min(BATCH_BYTES, max_message_bytes - 64 * KIB),
            "linger.ms": LINGER_MS,
            "queue.buffering.max.kbytes": settings.send_buffer // KIB,
            "queue.buffering.max.messages": 100_000,
            "compression.type": "none",
            "partitioner": "murmur2_random",  # as Faust and Java do; tables rely on it
            "max.in.flight.requests.per.connection": 5,
        }
        | extra
    )


def consumer(settings: Settings, **extra: Any) -> Consumer:  # noqa: ANN401 - librdkafka's settings
    """Return a consumer that reads by assignment and commits nothing."""
    return Consumer(
        common(settings)
        | {
            "group.id": f"streamapp-{settings.machine_id}-reader",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "queued.max.messages.kbytes": 16 * KIB,
        }
        | extra
    )


def brokers(client: AdminClient, settings: Settings) -> int:
    """Return how many brokers the cluster has.

    Raises:
        ClusterError: no broker answers.
    """
    return len(_metadata(client, settings).brokers)


def topics(client: AdminClient, settings: Settings) -> dict[str, list[int]]:
    """Return by topic of the cluster the number of replicas of each partition.

    Raises:
        ClusterError: no broker answers.
    """
    return {
        name: [len(partition.replicas) for partition in topic.partitions.values()]
        for name, topic in _metadata(client, settings).topics.items()
    }


def is_already_there(error: KafkaException) -> bool:
    """Return whether *error* says that a topic exists already."""
    return bool(error.args[0].code() == Code.TOPIC_ALREADY_EXISTS)


def is_passing(error: KafkaException) -> bool:
    """Return whether *error* may end when another broker has taken over."""
    return error.args[0].code() in _UNREACHABLE


def translated(
    error: KafkaException, doing: str, settings: Settings | None = None, *, trouble: str = ""
) -> ClusterError:
    """Return *error* as a `ClusterError`; *doing* says what failed, *trouble* why."""
    cause = error.args[0]
    code = cause.code()
    if code in _DENIED:
        return BrokerDeniedError(f"{doing}: {cause.str()}. Ask for the right, or mend the login")
    if code in _UNREACHABLE:
        where = f" at {settings.brokers}" if settings else ""
        return BrokerUnreachableError(
            f"{doing}: no Kafka broker answers{where}{trouble and f' ({trouble})'}. "
            "Is it running, is --brokers right?"
        )
    return ClusterError(f"{doing}: {cause.str()} ({cause.name()})")


def _metadata(client: AdminClient, settings: Settings) -> Any:  # noqa: ANN401 - has no public type
    try:
        return client.list_topics(timeout=REQUEST_SECONDS)
    except KafkaException as error:
        raise translated(error, "cannot reach Kafka", settings, trouble=client.trouble) from error
