"""What Kafka says of a group and its topics: commits, where logs begin and end, who is up.

Offsets are by place: a topic and a partition.
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
"""How long a group's coordinator may take to load; on a new cluster it takes seconds."""

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
        Code.FENCED_LEADER_EPOCH,  # asked with what was known of a topic before it moved,
        Code.UNKNOWN_LEADER_EPOCH,  # or before it was made anew
        Code.UNKNOWN_TOPIC_OR_PART,  # made a moment ago, and not known to every broker yet
        Code._UNKNOWN_PARTITION,  # noqa: SLF001 - librdkafka's own names for the same
        Code._NOENT,  # noqa: SLF001
    }
)
_DOWN: Final = frozenset({ConsumerGroupState.EMPTY, ConsumerGroupState.DEAD})
_POLL_SECONDS: Final = 0.2
_NO_ANSWER: Final = f"no answer from Kafka within {2 * clients.REQUEST_SECONDS:.0f} s"


def reader(settings: Settings, group: str) -> Consumer:
    """Return a client that asks and tells Kafka about *group* without being in it.

    A consumer, and not the admin client: while a coordinator is still loading (a new cluster,
    a broker that just came up) librdkafka's admin request for commits fails, and has crashed
    the process; a consumer's own request waits and goes on.
    """
    return clients.consumer(settings, **{"group.id": group})


def committed(client: Consumer, places: Iterable[Place]) -> dict[Place, int]:
    """Return the group's committed offsets; places without one are left out.

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
        ClusterError: a broker does not answer, or refuses: the groups that it leads are unknown.
    """
    found, errors = _listed(admin, "cannot list groups", clients.REQUEST_SECONDS)
    if errors:
        raise clients.translated(errors[0], "cannot list all groups")
    return [group.group_id for group in found]


def rewind(client: Consumer, admin: AdminClient, places: Iterable[Place]) -> None:
    """Have the group read the *places* from their beginning.

    Raises:
        ClusterError: the broker does not answer, or members of the group are up.
    """
    wanted = [TopicPartition(*place, offset) for place, offset in starts(admin, places).items()]
    try:
        client.commit(offsets=wanted, asynchronous=False)
    except KafkaException as error:
        raise clients.translated(error, "cannot rewind the group") from error


def starts(admin: AdminClient, places: Iterable[Place]) -> dict[Place, int]:
    """Return where the logs begin.

    Raises:
        ClusterError: the broker does not answer, or refuses.
    """
    return _bounds(admin, places, OffsetSpec.earliest())  # type: ignore[no-untyped-call]


def ends(admin: AdminClient, places: Iterable[Place]) -> dict[Place, int]:
    """Return where the logs end: the offset of the next record.

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

    All brokers are asked which groups they lead, and not the group's coordinator how it is:
    while that one is gone or loading, librdkafka's requests to it have aborted the process
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
    """Delete *group*, whose members were stopped: Kafka may wait for one that was killed.

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
    """Return what *future* brings.

    Raises:
        ClusterError: it failed; *doing* says what.
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
    # They are no exceptions, other than confluent-kafka's documentation says.
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
            # A topic that it once found unknown librdkafka does not ask for again by itself.
            with contextlib.suppress(KafkaException):
                admin.list_topics(timeout=clients.REQUEST_SECONDS)
        except TimeoutError as error:
            message = f"cannot ask where logs begin and end: {_NO_ANSWER}"
            raise BrokerUnreachableError(message) from error
