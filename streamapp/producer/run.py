"""One run of the producer: starts the threads, and steers them until the delivery is done.

Threads of a run:

* ``reader-N``: read, hash, compress and send blocks (`Sender`);
* ``poll``: serves the delivery reports of the Kafka producer (`BoundedProducer`);
* ``acks``: reads acknowledgements and heartbeats (`AckReader`);
* ``lookout``: observes the group's commits and the bounds of the log (`GroupMonitor`);
* ``release``: with ``--release``, deletes records that every group committed (`RecordPurger`).

The calling thread steers: it reports events, publishes status records and replaces a broken Kafka
producer.
"""

from __future__ import annotations

import functools
import math
import random
import secrets
import time

from typing import TYPE_CHECKING, Final

from confluent_kafka import KafkaException

from streamapp.errors import BrokerDeniedError, ClusterError, RetentionError
from streamapp.kafka import clients, groups, history, topic_admin
from streamapp.producer import block_proofs, retention_check, waiting
from streamapp.producer.ack_reader import AckReader
from streamapp.producer.cluster_observer import ClusterObserver
from streamapp.producer.delivery import Delivery, Policy
from streamapp.producer.events import Notice, Summary, Waiting
from streamapp.producer.group_monitor import GroupMonitor
from streamapp.producer.kafka_writer import BoundedProducer
from streamapp.producer.model import final_states
from streamapp.producer.progress import ProgressTracker
from streamapp.producer.purge import RecordPurger
from streamapp.producer.sender import SendContext, Sender
from streamapp.producer.shared_delivery import SharedDelivery
from streamapp.producer.status_publisher import StatusPublisher
from streamapp.producer.status_updates import StatusUpdates
from streamapp.producer.threads import ThreadGroup
from streamapp.protocol.messages import Heartbeat


if TYPE_CHECKING:
    import threading

    from collections.abc import Iterable
    from pathlib import Path

    from confluent_kafka import KafkaError as Code

    from streamapp.producer.block_proofs import Prover
    from streamapp.producer.events import Reporter
    from streamapp.producer.model import Block, FileState
    from streamapp.producer.sources.scan import SourceFile
    from streamapp.producer.view import View
    from streamapp.protocol.messages import BlockAck, FileStatus
    from streamapp.settings import Settings

TICK_SECONDS: Final = 0.2
"""Longest wait of the steering thread, and of a reader, for something to do."""

PROGRESS_SECONDS: Final = 1.0
CLOSE_SECONDS: Final = 1.0
"""How long the threads may take to end."""

FLUSH_SECONDS: Final = 5.0
"""How long Kafka may take, after Ctrl-C or at the end, to accept the records in the buffer."""

_RANDOM_BITS: Final = 21

MAX_RENEWALS: Final = 5
"""Kafka producers that may fail one after the other before a block is sent."""


class Run:
    """A delivery of *sources* from *folder*, from the old acknowledgements to the summary."""

    def __init__(  # noqa: PLR0913 - these are the arguments of `deliver_folder`
        self,
        settings: Settings,
        folder: Path,
        sources: Iterable[SourceFile],
        *,
        data_blocks: topic_admin.TopicState,
        wait: bool,
        only_failed: bool,
        verify: bool,
        report: Reporter,
        stop: threading.Event,
    ) -> None:
        """*data_blocks* is the topic as it is on the cluster; see `deliver_folder` for the rest."""
        self._settings = settings
        self._names = topic_admin.names(settings)
        self._data_blocks = data_blocks
        self._wait = wait
        self._only_failed = only_failed
        self._report = report
        self._stop = stop
        self._started = time.monotonic()
        self._ended: float | None = None
        self._threads = ThreadGroup()
        prover, warning = block_proofs.load_prover(settings.state_dir)
        if warning:
            report(Notice(text=warning))
        self.delivery = self._plan(sources, prover, verify=verify)
        self._shared = SharedDelivery(self.delivery, time.monotonic)
        self._writer = BoundedProducer.for_topic(
            settings, max_message_bytes=data_blocks.max_message_bytes
        )
        context = self._send_context(folder, prover)
        self._senders = [Sender(context) for _ in range(settings.readers)]
        self._observer = ClusterObserver(settings, data_blocks, waits=wait)
        self._acks = self._make_ack_reader()
        self._monitor = self._make_monitor()
        self._purger = RecordPurger(
            settings, [(data_blocks.name, number) for number in range(data_blocks.partitions)]
        )
        final = final_states(waits=wait)
        self._status = self._make_status_publisher(prover, final)
        self._progress = ProgressTracker(
            self.delivery, self._senders, waits=wait, final_states=final, now=self._started
        )
        self._reminder = waiting.Reminder()
        self._next_progress = 0.0
        self._renewals = 0
        self._blocks_at_renewal = 0

    def carry_out(self) -> None:
        """Send the missing blocks and, if the run waits, wait until the group persisted them.

        Raises:
            ClusterError: Kafka refuses, for good.
            RetentionError: Kafka would delete blocks before they are read.
        """
        try:
            self._acks.catch_up(self._stop)
            with self._shared.locked() as (delivery, _):
                delivery.begin(only_failed=self._only_failed)
            self._check_retention()
            self._report_history()
            self._start_threads()
            while not (self.delivery.is_done or self._is_over()):
                self._tick()
            self._ended = time.monotonic()
            if self._wait and self._settings.release and self.delivery.is_done:
                self._purger.finish(self._stop)
        finally:
            self._end()
        if self._threads.failure is not None:
            raise self._threads.failure

    def summary(self, problems: int, special: int = 0) -> Summary:
        """Return the result of the run.

        *problems* are entries of the folder that cannot be sent. *special* are entries that the
        settings exclude.
        """
        states = [file.state for file in self.delivery.files.values()]
        # The time that threads and clients take to end is not part of the transfer.
        seconds = (self._ended or time.monotonic()) - self._started
        sent = sum(sender.bytes_sent + sender.bytes_resent for sender in self._senders)
        moved = self.delivery.bytes_persisted if self._wait else sent
        return Summary(
            files=len(states) - states.count("passed") + problems,
            delivered=states.count("complete"),
            sent=states.count("sent"),
            skipped=states.count("skipped"),
            changed=states.count("changed"),
            unreadable=states.count("unreadable") + problems,
            failed=states.count("failed"),
            blocks_sent=self.delivery.blocks_sent,
            blocks_resent=self.delivery.blocks_resent,
            bytes_sent=sent,
            bytes_persisted=self.delivery.bytes_persisted,
            seconds=seconds,
            rate=moved / max(seconds, 0.001),
            special=special,
        )

    def _plan(self, sources: Iterable[SourceFile], prover: Prover, *, verify: bool) -> Delivery:
        settings = self._settings
        policy = Policy(
            machine=settings.machine_id,
            block_size=settings.block_size,
            partitions=self._data_blocks.partitions,
            max_attempts=settings.max_attempts,
            retry_base=settings.retry_base,
            ack_grace=settings.ack_grace,
            wait=self._wait,
            window=settings.window if self._wait else None,
            verify=verify,
        )
        return Delivery(
            sources,
            policy,
            first_attempt=first_attempt(),
            chance=random.random,
            prover=prover,
            new_mark=lambda: secrets.token_hex(8),
        )

    def _send_context(self, folder: Path, prover: Prover) -> SendContext:
        return SendContext(
            topic=self._names.data_blocks,
            folder=folder,
            machine=self._settings.machine_id,
            block_size=self._settings.block_size,
            frame_bytes=topic_admin.frame_bytes(self._settings, self._data_blocks),
            compression=self._settings.compression,
            shared=self._shared,
            writer=self._writer,
            is_stopped=self._is_over,
            on_refused=self._note_refusal,
            now_ns=time.time_ns,
            prover=prover,
        )

    def _make_ack_reader(self) -> AckReader:
        return AckReader(
            clients.consumer(self._settings, **self._observer.consumer_settings()),
            group=self._settings.group_id,
            on_acks=self._note_acks,
            on_status=self._note_status,
            names=self._names,
        )

    def _make_monitor(self) -> GroupMonitor:
        return GroupMonitor(
            clients.admin(self._settings),
            groups.reader(self._settings, self._settings.group_id),
            group=self._settings.group_id,
            partitions=self._data_blocks.partitions,
            has_read=self._acks.wait_until,
            on_view=self._note_view,
            names=self._names,
        )

    def _make_status_publisher(
        self, prover: Prover, final: frozenset[FileState]
    ) -> StatusPublisher:
        updates = StatusUpdates(
            machine=self._settings.machine_id,
            block_size=self._settings.block_size,
            run_at=time.time(),
            prover=prover,
            earlier=self.delivery.earlier,
        )
        return StatusPublisher(
            self._shared,
            updates,
            self._writer,
            topic=self._names.status,
            report=self._report,
            final_states=final,
        )

    def _check_retention(self) -> None:
        """Warn of blocks that Kafka's retention may delete before they are read.

        Raises:
            RetentionError: it would delete them, and --ignore-retention is not set.
        """
        try:
            warning = retention_check.check(
                self.delivery.bytes_missing,
                self._data_blocks,
                block_size=self._settings.block_size,
                window=self._settings.window if self._wait else None,
            )
        except RetentionError as error:
            if not self._settings.ignore_retention:
                raise
            warning = str(error)
        if warning:
            self._report(Notice(text=warning))

    def _report_history(self) -> None:
        """Report which older records a group without commits reads before this delivery."""
        if self.delivery.is_done:
            return
        if text := history.ahead_of(self._settings, self._data_blocks):
            self._report(Notice(text=text))

    def _is_over(self) -> bool:
        return (
            self._stop.is_set()
            or self._threads.closing.is_set()
            or self._threads.failure is not None
        )

    def _start_threads(self) -> None:
        closing = self._threads.closing
        self._threads.start("poll", functools.partial(self._writer.serve, closing))
        if self._wait:
            self._threads.start("acks", functools.partial(self._acks.follow, closing))
            self._threads.start("lookout", functools.partial(self._monitor.watch, closing))
            if self._settings.release:
                self._threads.start("release", functools.partial(self._purger.watch, closing))
        for number, sender in enumerate(self._senders):
            self._threads.start(f"reader-{number}", functools.partial(self._read, sender))

    def _read(self, sender: Sender) -> None:
        while not self._is_over():
            if self._writer.is_broken:  # the steering thread replaces it within a tick
                self._threads.closing.wait(TICK_SECONDS)
            elif (block := self._shared.take(TICK_SECONDS)) is not None:
                try:
                    sender.send(block)
                finally:
                    self._shared.release(block.partition)

    def _tick(self) -> None:
        self._status.announce()
        self._status.report_events(TICK_SECONDS)
        now = time.monotonic()
        self._status.publish_due(now)
        if self._writer.is_broken:
            self._renew()
        if now >= self._next_progress:
            self._next_progress = now + PROGRESS_SECONDS
            self._report_progress(now)
        found = self._observer.reason_to_wait(self._progress, now)
        if found is not None and self._reminder.is_due(found, now):
            self._report(Waiting(reason=f"{found.text}. Ctrl-C is safe, the same command resumes"))

    def _report_progress(self, now: float) -> None:
        self._progress.measure(now)
        self._report(self._progress.event(self._observer.reason_to_wait(self._progress, now)))

    def _renew(self) -> None:
        """Replace the broken Kafka producer, or fail the run after `MAX_RENEWALS`."""
        if self.delivery.blocks_sent > self._blocks_at_renewal:
            self._renewals = 0
        self._blocks_at_renewal = self.delivery.blocks_sent
        self._renewals += 1
        if self._renewals > MAX_RENEWALS:
            self._threads.fail(ClusterError(f"Kafka refuses what is sent: {self._writer.reason}"))
        else:
            self._writer.renew()

    def _end(self) -> None:
        """End the threads, and flush the last records for at most `FLUSH_SECONDS`."""
        self._threads.close(CLOSE_SECONDS)
        self._status.report_events(0)
        self._status.publish_due(math.inf)
        self._writer.flush(FLUSH_SECONDS)
        self._acks.close()
        self._report_progress(time.monotonic())

    def _note_acks(self, acks: list[BlockAck]) -> None:
        with self._shared.locked() as (delivery, now):
            for ack in acks:
                delivery.acknowledged(ack, now)

    def _note_status(self, status: FileStatus | Heartbeat) -> None:
        if isinstance(status, Heartbeat):
            self._observer.note_heartbeat(status)
        else:
            self.delivery.recorded(status)

    def _note_view(self, view: View) -> None:
        self._observer.view = view
        with self._shared.locked() as (delivery, now):
            delivery.look(view, now)

    def _note_refusal(self, block: Block, attempt: int, error: Code) -> None:
        """Handle a refused frame: a missing right fails the run, any other error this attempt."""
        translated = clients.translated(
            KafkaException(error), f"cannot send to topic {self._names.data_blocks}", self._settings
        )
        if isinstance(translated, BrokerDeniedError):
            self._threads.fail(translated)
            return
        with self._shared.locked() as (delivery, now):
            delivery.retry(block, attempt, str(translated), now)


def first_attempt() -> int:
    """Return an attempt number that no other run has, below 2^53 until the year 2106."""
    return (int(time.time()) << _RANDOM_BITS) | secrets.randbits(_RANDOM_BITS)
