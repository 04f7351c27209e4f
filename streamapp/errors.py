"""Errors of the application. The class says who must act, the message which thing is concerned.

* StreamAppError                      exit 1
  - SettingsError                     exit 2   a setting is missing or impossible
    + MachineInUseError               exit 24  another running worker has this machine id
  - SourceError                       exit 3   the folder to send is missing, unreadable or empty
    + SourceChangedError              exit 3   a file is not what it was when it was found
  - DeliveryError                     exit 4   not every block is acknowledged as persisted
    + InterruptedDeliveryError        exit 130 the user stopped it; the same command resumes
  - BlockError                        exit 10  one block is unusable; the stream continues
    + BlockMalformedError             exit 10  the record violates the protocol
    + BlockCorruptError               exit 11  a block's bytes do not match its digest
    + BlockConflictError              exit 12  another content is stored under the same block
  - StoreError                        exit 20  the store is unusable; the stream must wait
    + StoreFullError                  exit 21  the volume has no space for the next block
    + StoreBusyError                  exit 22  another worker owns the data folder
    + VerificationError               exit 23  a stored block is not what was acknowledged
  - ClusterError                      exit 30  Kafka refused, or answers something impossible
    + BrokerUnreachableError          exit 31  no broker answers
    + BrokerDeniedError               exit 32  the broker does not allow it
    + TopicError                      exit 33  a topic is missing or not as it must be
    + RetentionError                  exit 35  Kafka would delete what is sent, unread
  - ViewError                         exit 34  no worker answers at the address of the views
    + PeerError                       exit 34  a worker does not prove that it is of the group
    + RequestRefusedError             exit 34  a request that the views do not answer
  - ListenError                       exit 36  the port of the web views is taken
  - BrokerError                       exit 40  the embedded Apache Kafka cannot do what was asked
    + JavaError                       exit 41  no Java 17 or newer
  - WatchdogError                     exit 75  the worker is stuck; its supervisor restarts it

No other class is raised on purpose. Exit code 0 means that everything is done.
"""

from __future__ import annotations

from typing import ClassVar


class StreamAppError(Exception):
    """Parent of every error that this application raises on purpose."""

    exit_code: ClassVar[int] = 1


class SettingsError(StreamAppError):
    """A setting is missing or impossible. The user must correct it."""

    exit_code: ClassVar[int] = 2


class MachineInUseError(SettingsError):
    """Another worker of the group that runs has this machine id, with another data folder."""

    exit_code: ClassVar[int] = 24


class SourceError(StreamAppError):
    """The folder to send cannot be read, or has nothing to send."""

    exit_code: ClassVar[int] = 3


class SourceChangedError(SourceError):
    """A file changed while it was sent. It is reported, and the other files are sent."""


class DeliveryError(StreamAppError):
    """Not every block is acknowledged as persisted. The same command resumes."""

    exit_code: ClassVar[int] = 4


class InterruptedDeliveryError(DeliveryError):
    """The user stopped the producer. The same command resumes."""

    exit_code: ClassVar[int] = 130


class BlockError(StreamAppError):
    """One block is unusable. The block is rejected and the stream continues."""

    exit_code: ClassVar[int] = 10


class BlockMalformedError(BlockError):
    """The record violates the protocol: no producer of this project writes such a record."""


class BlockCorruptError(BlockError):
    """A block's bytes do not match its digest or its length: they changed in transit."""

    exit_code: ClassVar[int] = 11


class BlockConflictError(BlockError):
    """Other content is already stored under the same file id and block number."""

    exit_code: ClassVar[int] = 12


class StoreError(StreamAppError):
    """The store is unusable. No block may be acknowledged until it recovers."""

    exit_code: ClassVar[int] = 20


class StoreFullError(StoreError):
    """The volume has no space for the next block. An operator must free some."""

    exit_code: ClassVar[int] = 21


class StoreBusyError(StoreError):
    """Another worker owns the data folder."""

    exit_code: ClassVar[int] = 22


class VerificationError(StoreError):
    """A stored block is not what was acknowledged."""

    exit_code: ClassVar[int] = 23


class ClusterError(StreamAppError):
    """Kafka refused a request, or answered something impossible."""

    exit_code: ClassVar[int] = 30


class BrokerUnreachableError(ClusterError):
    """No broker answers at the addresses that were given."""

    exit_code: ClassVar[int] = 31


class BrokerDeniedError(ClusterError):
    """The broker does not allow it: rights (ACLs) or credentials are missing."""

    exit_code: ClassVar[int] = 32


class TopicError(ClusterError):
    """A topic is missing, or its settings make the work impossible."""

    exit_code: ClassVar[int] = 33


class RetentionError(ClusterError):
    """Kafka's retention would delete records before a worker could read them."""

    exit_code: ClassVar[int] = 35


class ViewError(StreamAppError):
    """No worker answers at the address of the web views."""

    exit_code: ClassVar[int] = 34


class PeerError(ViewError):
    """A peer does not prove that it is a worker of the group."""


class RequestRefusedError(ViewError):
    """A request that the views refuse, with the HTTP *status* and the message."""

    def __init__(
        self, message: str, *, status: int = 400, retry_seconds: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_seconds = retry_seconds


class ListenError(StreamAppError):
    """The web views cannot listen where the settings say: another process has the port."""

    exit_code: ClassVar[int] = 36


class BrokerError(StreamAppError):
    """The embedded Apache Kafka cannot do what was asked."""

    exit_code: ClassVar[int] = 40


class JavaError(BrokerError):
    """There is no Java 17 or newer to run the embedded Apache Kafka with."""

    exit_code: ClassVar[int] = 41


class WatchdogError(StreamAppError):
    """The worker makes no progress and must be restarted by its supervisor."""

    exit_code: ClassVar[int] = 75
