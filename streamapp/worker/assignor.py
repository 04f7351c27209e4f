"""Assigns partitions only to members of the consumer group whose metadata is valid.

For faust-streaming 0.15.3. Any client that may join the group sends metadata to the leader, which
is one of the workers. Faust decodes the metadata of every member without validating it: malformed
metadata ends the leader, and the URL that a member gives is queried for its part of the tables.
Here a member with invalid metadata gets no partitions and a warning names it; the others are
assigned as before. The leader's assignment is validated as well: an invalid one counts as no
partitions until the next rebalance.

Kafka's ACLs on the group decide who may join: a member with valid metadata is a worker.

Delete when Faust survives malformed metadata (a test in `tests/unit/worker/test_assignor.py`
fails then) and limits what a member may declare.
"""

from __future__ import annotations

import logging
import zlib

from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import msgspec

from aiokafka.consumer import group_coordinator
from aiokafka.coordinator import protocol
from faust.assignor.partition_assignor import PartitionAssignor

from streamapp.errors import BlockMalformedError
from streamapp.kafka import topic_admin
from streamapp.protocol.filenames import printable
from streamapp.protocol.messages import WEB_URL
from streamapp.units import MIB


if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiokafka.cluster import ClusterMetadata

    from streamapp.settings import Settings
    from streamapp.worker.types import WorkerApp

logger = logging.getLogger(__name__)

MAX_METADATA_BYTES: Final = MIB
"""Maximum size of a member's or the leader's metadata; 100 workers need a tenth of it."""

MAX_MEMBERS: Final = 1000
"""Maximum number of URLs in a distribution."""

_Url: Any = Annotated[str, msgspec.Meta(pattern=rf"^{WEB_URL}\Z")]
_Number: Any = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
_Partitions: Any = dict[str, list[_Number]]
_Distribution: Any = Annotated[dict[_Url, _Partitions], msgspec.Meta(max_length=MAX_MEMBERS)]


class _Assignment(msgspec.Struct):
    actives: _Partitions
    standbys: _Partitions


class Metadata(msgspec.Struct):
    """The metadata of a member, and the leader's answer to each member, in Faust's format."""

    assignment: _Assignment
    url: _Url
    changelog_distribution: _Distribution
    external_topic_distribution: _Distribution = {}
    topic_groups: dict[str, int] | None = None


def decode(raw: bytes | None) -> Metadata:
    """Return the metadata in *raw*.

    Raises:
        BlockMalformedError: it is too large or invalid.
    """
    size = len(raw or b"")
    if not 0 < size <= MAX_METADATA_BYTES:
        message = f"{size} bytes of metadata, expected 1 to {MAX_METADATA_BYTES}"
        raise BlockMalformedError(message)
    try:
        return msgspec.json.decode(raw or b"", type=Metadata)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        message = f"metadata that is not a worker's: {error}"
        raise BlockMalformedError(message) from error


def widths(settings: Settings) -> dict[str, int]:
    """Return the topics that a worker subscribes to, with their numbers of partitions."""
    specs = (*topic_admin.specs(settings), *topic_admin.changelogs(settings))
    return {spec.name: spec.partitions for spec in specs}


class GroupAssignor(PartitionAssignor):
    """Faust's assignor, for the members whose metadata is valid."""

    def _perform_assignment(
        self, cluster: ClusterMetadata, member_metadata: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the partitions of every member: none for an invalid one."""
        known = widths(cast("WorkerApp", self.app).settings)
        workers = {}
        for member, metadata in member_metadata.items():
            try:
                workers[member] = _checked(metadata, known)
            except BlockMalformedError as error:
                logger.warning(
                    "a member of group %s gets no partitions, it is no worker (%s): %s",
                    self.app.conf.id,
                    printable(member[:200]),
                    error,
                )
        found = super()._perform_assignment(cluster, workers) if workers else {}
        nothing = protocol.ConsumerProtocolMemberAssignment(self.version, [], b"")
        return {member: found.get(member, nothing) for member in member_metadata}


class MemberMetadata:
    """Decodes what any member of the group sent."""

    def __init__(self, known: Mapping[str, int]) -> None:
        """*known*: the topics that a worker may subscribe to."""
        self._known = known

    def decode(self, raw: bytes) -> Any:  # noqa: ANN401 - aiokafka has no types
        """Return the member's metadata; one without topics if it cannot be decoded."""
        try:
            found = protocol.ConsumerProtocolMemberMetadata.decode(raw)
            subscribed = [topic for topic in found.subscription if topic in self._known]
        except Exception:  # noqa: BLE001 - aiokafka's decoder raises any exception
            return protocol.ConsumerProtocolMemberMetadata(0, [], b"")
        return protocol.ConsumerProtocolMemberMetadata(0, subscribed, found.user_data)


class MemberAssignment:
    """Decodes what the leader of the group assigned to this worker."""

    def __init__(self, known: Mapping[str, int], url: str) -> None:
        """*known*: topics and their partitions; *url*: this worker's address."""
        self._known = known
        self._url = url

    def decode(self, raw: bytes) -> Any:  # noqa: ANN401 - aiokafka has no types
        """Return the assignment; one without partitions if it is invalid."""
        try:
            found = protocol.ConsumerProtocolMemberAssignment.decode(raw)
            self._check(found)
        except Exception as error:  # noqa: BLE001 - aiokafka's decoder raises any exception
            logger.warning(
                "the leader of the group assigned nothing that can be read, so this worker has "
                "no partitions until the group changes: %s",
                printable(str(error)[:300]),
            )
            return self._nothing()
        return found

    def _check(self, found: Any) -> None:  # noqa: ANN401 - aiokafka has no types
        """Validate Kafka's part and Faust's part of the assignment, which must be equal.

        Raises:
            Exception: it is invalid.
        """
        plain = zlib.decompressobj().decompress(found.user_data, MAX_METADATA_BYTES + 1)
        metadata = decode(plain)
        actives = metadata.assignment.actives
        wrong = _unknown(actives, self._known) or _unknown(
            metadata.assignment.standbys, self._known
        )
        if wrong:
            message = f"it has no partition {wrong}"
            raise BlockMalformedError(message)
        if {topic: sorted(those) for topic, those in found.assignment} != {
            topic: sorted(those) for topic, those in actives.items()
        }:
            message = "its two lists of partitions differ"
            raise BlockMalformedError(message)
        if metadata.url != self._url:
            message = f"it is for {metadata.url}, expected {self._url}"
            raise BlockMalformedError(message)

    def _nothing(self) -> Any:  # noqa: ANN401 - aiokafka has no types
        empty = Metadata(
            assignment=_Assignment(actives={}, standbys={}),
            url=self._url,
            changelog_distribution={},
        )
        user_data = zlib.compress(msgspec.json.encode(empty))
        return protocol.ConsumerProtocolMemberAssignment(0, [], user_data)


def _checked(metadata: Any, known: Mapping[str, int]) -> Any:  # noqa: ANN401 - aiokafka's
    """Return a member's metadata without partitions that do not exist.

    Raises:
        BlockMalformedError: the metadata is invalid.
    """
    if not metadata.subscription:
        message = "it subscribes to no topic of the group"
        raise BlockMalformedError(message)
    found = decode(metadata.user_data)
    actives = {
        topic: sorted({p for p in partitions if p < known[topic]})
        for topic, partitions in found.assignment.actives.items()
        if topic in known
    }
    cleaned = Metadata(
        assignment=_Assignment(actives=actives, standbys={}),
        url=found.url,
        changelog_distribution={},
    )
    return protocol.ConsumerProtocolMemberMetadata(
        metadata.version, metadata.subscription, msgspec.json.encode(cleaned)
    )


def _unknown(assigned: Mapping[str, list[int]], known: Mapping[str, int]) -> str:
    """Return a partition that does not exist; empty when all exist."""
    for topic, partitions in assigned.items():
        for partition in partitions:
            if partition >= known.get(topic, 0):
                return f"{topic}-{partition}"
    return ""


def read_members_with_limits(settings: Settings, url: str) -> None:
    """Validate metadata and assignments in this process; for workers only.

    aiokafka has no hook: its coordinator looks the class up by this name in its own module.
    """
    known = widths(settings)

    class _Protocol(protocol.ConsumerProtocol):  # type: ignore[misc]
        METADATA = MemberMetadata(known)
        ASSIGNMENT = MemberAssignment(known, url)

    group_coordinator.ConsumerProtocol = _Protocol
