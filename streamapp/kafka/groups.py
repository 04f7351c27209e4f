"""Asks Kafka for a group's commits and members, and for the bounds of logs; changes groups.

Offsets are by topic and partition (`Place`).
"""

from __future__ import annotations

import contextlib
import time

from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import ConsumerGroupState, KafkaException, TopicPartition
from confluent_kafka import KafkaError as Code
from confluent_kafka.admin import OffsetSpec

from streamapp.errors import BrokerUnreachableError
from streamapp.kafka import clients


if TYPE_CHECKING:
    from collections.abc import Iterable

    from confluent_kafka import Consumer
    from confluent_kafka.admin import AdminClient, ConsumerGroupListing

    from streamapp.protocol.topics import Place
    from streamapp.settings import Settings

COORDINATOR_SECONDS: Final = 30.0
"""How long a group's coordinator may load; on a new cluster it takes seconds."""

_COORDINATOR_MOVES: Final = frozenset(
    {
        Code.COORDINATOR_LOAD_IN_PROGRESS,
        Code.COORDINATOR_NOT_AVAILABLE,
        Code.NOT_COORDINATOR,
    }
)
_LEADER_MOVES: Final = frozenset(
    {
        Code.LEADER_NOT_AVAILABLE,
        Code.NOT_LEADER_FOR_PARTITION,
        Code.FENCED_LEADER_EPOCH,  # the leader is older than the client's metadata, or newer,
        Code.UNKNOWN_LEADER_EPOCH,  # or the topic was created again
        Code.UNKNOWN_TOPIC_OR_PART,  # a new topic that not every broker knows yet
        Code._UNKNOWN_PARTITION,  # noqa: SLF001 - librdkafka's own names for the same
        Code._NOENT,  # noqa: SLF001
    }
)
_DOWN: Final = frozenset({ConsumerGroupState.EMPTY, ConsumerGroupState.DEAD})
_POLL_SECONDS: Final = 0.2
_NO_ANSWER: Final = f"no answer from Kafka within {2 * clients.REQUEST_SECONDS:.0f} s"


def reader(settings: Settings, group: str) -> Consumer:
    """Return a client that reads and sets the commits of *group* without joining it.

    It is a consumer, because librdkafka's admin request for commits fails while a coordinator is
    loading (a new cluster, a broker that just started), and has crashed the process. A consumer's
    request waits instead.
    """
    return clients.consumer(settings, **{"group.id": group})


def committed(client: Consumer, places: Iterable[Place]) -> dict[Place, int]:
    """Return the group's committed offsets; partitions without one are left out.

    Raises:
        ClusterError: the broker does not answer, or refuses.
    """
    wanted = [TopicPartition(*place) for place in places]
    deadline = time.monotonic() + COORDINATOR_SECONDS
    while True:
        try:
            found = client.committed(wanted, timeout=COORDINATOR_SECONDS)
            break
        except KafkaException as error:
            if error.args[0].code() not in _COORDINATOR_MOVES or time.monotonic() > deadline:
                raise clients.translated(error, "cannot see the group's commits") from error
            time.sleep(_POLL_SECONDS)
    return {(p.topic, p.partition): p.offset for p in found if p.offset >= 0}


def names(admin: AdminClient) -> list[str]:
    """Return the names of all groups of the cluster.

    Raises:
        ClusterError: a broker does not answer, or refuses; its groups are unknown.
    """
    found, errors = _listed(admin, "cannot list groups", clients.REQUEST_SECONDS)
    if errors:
        raise clients.translated(errors[0], "cannot list all groups")
    return [group.group_id for group in found]


def rewind(client: Consumer, admin: AdminClient, places: Iterable[Place]) -> None:
    """Set the group's commits to the beginning of the partitions *places*.

    Raises:
        ClusterError: the broker does not answer, or members of the group are up.
    """
    wanted = [TopicPartition(*place, offset) for place, offset in starts(admin, places).items()]
    try:
        client.commit(offsets=wanted, asynchronous=False)
    except KafkaException as error:
        raise clients.translated(error, "cannot rewind the group") from error


def starts(admin: AdminClient, places: Iterable[Place]) -> dict[Place, int]:
    """Return the first offsets of the logs.

    Raises:
        ClusterError: the broker does not answer, or refuses.
    """
    return _bounds(admin, places, OffsetSpec.earliest())  # type: ignore[no-untyped-call]


def ends(admin: AdminClient, places: Iterable[Place]) -> dict[Place, int]:
    """Return the ends of the logs: the offsets of the next records.

    Raises:
        ClusterError: the broker does not answer, or refuses.
    """
    return _bounds(admin, places, OffsetSpec.latest())  # type: ignore[no-untyped-call]


def is_up(
    admin: AdminClient,
    group: str,
    *,
    timeout: float = clients.REQUEST_SECONDS,
    patience: float = COORDINATOR_SECONDS,
) -> bool:
    """Return whether members of *group* are up.

    All brokers are asked for their groups, instead of the group's coordinator for its state.
    While the coordinator is down or loading, librdkafka's requests to it have aborted the process
    (``Assertion `eonce->refcnt > 0' failed``).

    Raises:
        ClusterError: a broker that may lead the group does not answer, or refuses.
    """
    deadline = time.monotonic() + patience
    while True:
        found, errors = _listed(admin, f"cannot see group {group}", timeout)
        for one in found:
            if one.group_id == group:
                return one.state not in _DOWN
        if not errors:
            return False
        is_passing = errors[0].args[0].code() in _COORDINATOR_MOVES or clients.is_passing(errors[0])
        if not is_passing or time.monotonic() > deadline:
            raise clients.translated(errors[0], f"cannot see group {group}")
        time.sleep(_POLL_SECONDS)


def delete(admin: AdminClient, group: str) -> None:
    """Delete *group*; wait while Kafka still counts a killed member.

    Raises:
        ClusterError: the broker does not answer, or refuses, or members are still up.
    """
    deadline = time.monotonic() + COORDINATOR_SECONDS
    while True:
        futures = admin.delete_consumer_groups([group], request_timeout=clients.REQUEST_SECONDS)
        try:
            futures[group].result(timeout=2 * clients.REQUEST_SECONDS)
        except KafkaException as error:
            code = error.args[0].code()
            if code == Code.GROUP_ID_NOT_FOUND:
                return
            waits = code in _COORDINATOR_MOVES or code == Code.NON_EMPTY_GROUP
            if not waits or time.monotonic() > deadline:
                raise clients.translated(error, f"cannot delete group {group}") from error
            time.sleep(_POLL_SECONDS)
        else:
            return


def result(future: Any, doing: str) -> Any:  # noqa: ANN401 - confluent-kafka's futures have no type
    """Return the result of *future*.

    Raises:
        ClusterError: the request failed; *doing* says which.
    """
    try:
        return future.result(timeout=2 * clients.REQUEST_SECONDS)
    except KafkaException as error:
        raise clients.translated(error, doing) from error
    except TimeoutError as error:
        raise BrokerUnreachableError(f"{doing}: {_NO_ANSWER}") from error


def _listed(
    admin: AdminClient, doing: str, timeout: float
) -> tuple[list[ConsumerGroupListing], list[KafkaException]]:
    """Return the groups of the brokers that answer, and the errors of those that do not."""
    listed = result(admin.list_consumer_groups(request_timeout=timeout), doing)
    # The errors are no exceptions, unlike in confluent-kafka's documentation.
    return listed.valid, [KafkaException(code) for code in listed.errors]


def _bounds(admin: AdminClient, places: Iterable[Place], which: OffsetSpec) -> dict[Place, int]:
    asked = {TopicPartition(*place): which for place in places}
    deadline = time.monotonic() + COORDINATOR_SECONDS
    while True:
        futures = admin.list_offsets(asked, request_timeout=clients.REQUEST_SECONDS)
        try:
            return {
                (place.topic, place.partition): future.result(2 * clients.REQUEST_SECONDS).offset
                for place, future in futures.items()
            }
        except KafkaException as error:
            if error.args[0].code() not in _LEADER_MOVES or time.monotonic() > deadline:
                raise clients.translated(error, "cannot ask where logs begin and end") from error
            time.sleep(_POLL_SECONDS)
            # librdkafka does not look up a topic again that it once found unknown.
            with contextlib.suppress(KafkaException):
                admin.list_topics(timeout=clients.REQUEST_SECONDS)
        except TimeoutError as error:
            message = f"cannot ask where logs begin and end: {_NO_ANSWER}"
            raise BrokerUnreachableError(message) from error
