"""One run of the producer: starts the threads, and steers until all is done.

Threads: the readers (read, hash, send), one that polls the Kafka producer, one that reads
acknowledgements, one that looks at the group. The caller's own steers: it reports, sends
status records and replaces a broken Kafka producer.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
import secrets
import time

from typing import TYPE_CHECKING, Final

from confluent_kafka import KafkaException

from streamapp.errors import BrokerDeniedError, ClusterError, RetentionError
from streamapp.kafka import clients, groups, history, topic_admin
from streamapp.kafka.broker_contact import STATISTICS_SECONDS, BrokerContact
from streamapp.kafka.connection_errors import ConnectionErrors
from streamapp.producer import retention_check, waiting
from streamapp.producer.ack_reader import AckReader
from streamapp.producer.block_proofs import KEY_BYTES, Prover, default_folder, own_key
from streamapp.producer.delivery import Delivery, Policy
from streamapp.producer.events import FileEvent, Notice, Progress, Summary, Waiting
from streamapp.producer.group_monitor import GroupMonitor
from streamapp.producer.kafka_writer import BoundedProducer
from streamapp.producer.purge import RecordPurger
from streamapp.producer.rate import RateMeter, time_left
from streamapp.producer.sender import SendContext, Sender
from streamapp.producer.shared_delivery import SharedDelivery
from streamapp.producer.status_updates import StatusUpdates
from streamapp.producer.threads import ThreadGroup
from streamapp.protocol import messages
from streamapp.protocol.presence import Roster


if TYPE_CHECKING:
    import threading

    from collections.abc import Iterable
    from pathlib import Path

    from confluent_kafka import KafkaError as Code
    from confluent_kafka import Message

    from streamapp.producer.delivery import View
    from streamapp.producer.events import Reporter
    from streamapp.producer.model import Block, File
    from streamapp.producer.sources.scan import SourceFile
    from streamapp.protocol.messages import FileStatus, Heartbeat
    from streamapp.protocol.presence import Reason
    from streamapp.settings import Settings

TICK_SECONDS: Final = 0.2
PROGRESS_SECONDS: Final = 1.0
CLOSE_SECONDS: Final = 1.0
FLUSH_SECONDS: Final = 5.0
"""What Kafka has, after Ctrl-C or at the end, to take what was handed to it."""

ANNOUNCE_AHEAD: Final = 1000
"""Files that are announced before their turn: enough to be seen, too few to flood."""

_CHANCE_BITS: Final = 21

MAX_RENEWALS: Final = 5
"""Kafka producers that may fail one after the other without one block getting through."""


class Run:
    """A delivery of *sources* from *folder*, from its first acknowledgement to its summary."""

    def __init__(  # noqa: PLR0913 - all of it is needed, and has a name
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
        """*data_blocks* is the topic as it is on the cluster; the rest as for `run`."""
        self._settings = settings
        self._names = topic_admin.names(settings)
        self._wait = wait
        self._only_failed = only_failed
        self._report = report
        self._stop = stop
        self._started = time.monotonic()
        self._ended: float | None = None
        self._threads = ThreadGroup()
        self._prover = self._make_prover()
        self.delivery = Delivery(
            sources,
            Policy(
                machine=settings.machine_id,
                block_size=settings.block_size,
                partitions=data_blocks.partitions,
                max_attempts=settings.max_attempts,
                retry_base=settings.retry_base,
                ack_grace=settings.ack_grace,
                wait=wait,
                window=settings.window if wait else None,
                verify=verify,
            ),
            first_attempt=first_attempt(),
            chance=random.random,
            prover=self._prover,
            new_mark=lambda: secrets.token_hex(8),
        )
        self._shared = SharedDelivery(self.delivery, time.monotonic)
        self._writer = BoundedProducer.for_topic(
            settings, max_message_bytes=data_blocks.max_message_bytes
        )
        self._senders = self._make_senders(folder, topic_admin.frame_bytes(settings, data_blocks))
        self._contact = BrokerContact(settings.brokers, time.monotonic)
        self._trouble = ConnectionErrors()
        self._roster = Roster(settings.group_id)
        self._acks = self._make_reader()
        self._monitor = GroupMonitor(
            clients.admin(settings),
            groups.reader(settings, settings.group_id),
            group=settings.group_id,
            partitions=data_blocks.partitions,
            has_read=self._acks.wait_until,
            on_view=self._note_view,
            names=self._names,
        )
        self._data_blocks = data_blocks
        self._purger = RecordPurger(
            settings, [(data_blocks.name, number) for number in range(data_blocks.partitions)]
        )
        self._status_updates = StatusUpdates(
            machine=settings.machine_id,
            block_size=settings.block_size,
            run_at=time.time(),
            prover=self._prover,
            earlier=self.delivery.earlier,
        )
        self._over = {"complete", "failed", "changed", "unreadable"}
        if not wait:
            self._over.add("sent")
        self._unannounced = iter(self.delivery.files.values())
        self._open_files = 0
        self._bytes_meter, self._files_meter = RateMeter(), RateMeter()
        self._view: View | None = None
        self._sent = self._persisted = (self._started, 0)  # since when so many bytes are
        self._reminder = waiting.Reminder()
        self._next_progress = 0.0
        self._renewals = self._blocks_at_renewal = 0

    def carry_out(self) -> None:
        """Send what is missing and, unless nobody waits, wait until the group has it.

        Raises:
            ClusterError: Kafka refuses, for good.
        """
        try:
            self._acks.catch_up(self._stop)
            with self._shared.lock:
                self.delivery.begin(only_failed=self._only_failed)
            self._look_at_retention()
            self._look_at_history()
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
        """Return what came of it; *problems* lie among the files and cannot be sent.

        *special* lie there as well, and are not meant to be sent.
        """
        states = [file.state for file in self.delivery.files.values()]
        # Until the last answer was there; what threads and clients take to end is no transfer.
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

    def _make_prover(self) -> Prover:
        """Return what knows our own work again; without a key of ours, it is read once more."""
        folder = self._settings.state_dir or default_folder()
        try:
            return Prover(own_key(folder))
        except OSError as error:
            self._report(
                Notice(
                    text=f"no key can be kept in {folder} ({error}): later runs read what is "
                    "delivered once more, to compare it; --state-dir names another folder"
                )
            )
            return Prover(secrets.token_bytes(KEY_BYTES))

    def _make_senders(self, folder: Path, frame_bytes: int) -> list[Sender]:
        context = SendContext(
            topic=self._names.data_blocks,
            folder=folder,
            machine=self._settings.machine_id,
            block_size=self._settings.block_size,
            frame_bytes=frame_bytes,
            compression=self._settings.compression,
            shared=self._shared,
            writer=self._writer,
            is_stopped=self._is_over,
            on_refused=self._note_refusal,
            now_ns=time.time_ns,
            prover=self._prover,
        )
        return [Sender(context) for _ in range(self._settings.readers)]

    def _make_reader(self) -> AckReader:
        consumer = clients.consumer(
            self._settings,
            **{
                "statistics.interval.ms": round(STATISTICS_SECONDS * 1000),
                "stats_cb": self._contact.note_statistics,
                "error_cb": self._trouble.note,
            },
        )
        return AckReader(
            consumer,
            group=self._settings.group_id,
            on_acks=self._shared.acknowledged,
            on_status=self._note_status,
            names=self._names,
        )

    def _look_at_retention(self) -> None:
        """Say, or refuse, what Kafka would delete before it is read.

        Raises:
            RetentionError: it would, and nobody said that it does not matter.
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

    def _look_at_history(self) -> None:
        """Say what a group without a position reads before anything of this delivery."""
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
            if self._writer.is_broken:  # soon there is another
                self._threads.closing.wait(TICK_SECONDS)
            elif (block := self._shared.take(TICK_SECONDS)) is not None:
                try:
                    sender.send(block)
                finally:
                    self._shared.release(block.partition)

    def _tick(self) -> None:
        self._announce()
        self._pass_on(TICK_SECONDS)
        now = time.monotonic()
        self._post_statuses(now)
        if self._writer.is_broken:
            self._renew()
        if now >= self._next_progress:
            self._next_progress = now + PROGRESS_SECONDS
            self._show_progress(now)
        found = self._why_waiting(now)
        if found is not None and self._reminder.is_due(found, now):
            self._report(Waiting(reason=f"{found.text}. Ctrl-C is safe, the same command resumes"))

    def _why_waiting(self, now: float) -> Reason | None:
        view = self._view
        return waiting.reason(
            waiting.GroupSnapshot(
                no_broker=self._why_no_broker() if self._wait else "",
                group=self._settings.group_id,
                is_group_up=view.is_group_up if view is not None else None,
                unread=view.unread if view is not None else None,
                machines=self._roster.machines if self._wait else (),
                topic=self._data_blocks.name,
                partitions=self._data_blocks.partitions,
                unsent=now - self._sent[0],
                unpersisted=now - self._persisted[0],
                waits=self._wait,
                now=time.time(),
            )
        )

    def _why_no_broker(self) -> str:
        """Return that no broker answers, and why if that is known; empty while one does."""
        silence, why = self._contact.reason, self._trouble.reason
        return f"{silence} ({why})" if silence and why else silence

    def _announce(self) -> None:
        """Announce the next files, so that people see what is to come."""
        with self._shared.lock:
            room = max(0, ANNOUNCE_AHEAD - self._open_files)
            for file in itertools.islice(self._unannounced, room):
                self.delivery.announce(file)

    def _pass_on(self, within: float) -> None:
        """Report what happened, and note which files' status has to be sent."""
        events, touched = self._shared.drain(within)
        self._status_updates.touch(touched, time.monotonic())
        for event in events:
            if isinstance(event, FileEvent):
                self._open_files += (event.state == "announced") - (event.state in self._over)
            self._report(event)

    def _post_statuses(self, now: float) -> None:
        """Send status records as far as there is room: they never hold up the blocks."""
        with self._shared.lock:
            due = self._status_updates.take_due(now, time.time())
        for file, status in due:
            try:
                is_posted = self._post_status(file, status)
            except ClusterError:
                is_posted = False
            if not is_posted:
                self._status_updates.touch([file], now)

    def _post_status(self, file: File, status: FileStatus) -> bool:
        def note(error: Code | None, _: Message) -> None:
            if error is not None:
                with self._shared.lock:
                    self.delivery.touched[file.file_id] = file

        return self._writer.post(
            self._names.status, messages.encode(status), key=status.key, on_delivery=note
        )

    def _show_progress(self, now: float) -> None:
        delivery = self.delivery
        sent = min(delivery.bytes_wanted, sum(sender.bytes_sent for sender in self._senders))
        done = delivery.bytes_persisted if self._wait else sent
        done_states = self._over | {"skipped", "passed"}
        files_done = sum(file.state in done_states for file in delivery.files.values())
        self._bytes_meter.note(now, done)
        self._files_meter.note(now, files_done)
        checked = sum(sender.bytes_checked for sender in self._senders)  # nothing waits meanwhile
        self._sent = _since(self._sent, now, sent + checked)
        self._persisted = _since(self._persisted, now, done + checked)
        found = self._why_waiting(now)
        self._report(
            Progress(
                files=len(delivery.files),
                files_done=files_done,
                bytes=delivery.bytes_wanted,
                bytes_sent=sent,
                bytes_persisted=delivery.bytes_persisted,
                rate=self._bytes_meter.rate,
                waits=self._wait,
                waiting=found.text if found is not None else "",
                eta=None if found is not None else self._time_left(done, files_done),
            )
        )

    def _time_left(self, done: int, files_done: int) -> float | None:
        return time_left(
            self._bytes_meter,
            self._files_meter,
            missing_bytes=max(0, self.delivery.bytes_wanted - done),
            missing_files=len(self.delivery.files) - files_done,
        )

    def _renew(self) -> None:
        if self.delivery.blocks_sent > self._blocks_at_renewal:
            self._renewals = 0
        self._blocks_at_renewal = self.delivery.blocks_sent
        self._renewals += 1
        if self._renewals > MAX_RENEWALS:
            self._threads.fail(ClusterError(f"Kafka refuses what is sent: {self._writer.reason}"))
        else:
            self._writer.renew()

    def _end(self) -> None:
        """End the threads; let Kafka take the last records, but do not wait long."""
        self._threads.close(CLOSE_SECONDS)
        self._pass_on(0)
        self._post_statuses(math.inf)
        self._writer.flush(FLUSH_SECONDS)
        self._acks.close()
        self._show_progress(time.monotonic())

    def _note_status(self, status: FileStatus | Heartbeat) -> None:
        if isinstance(status, messages.Heartbeat):
            self._roster.receive(status, now=time.time())
            return
        self.delivery.recorded(status)

    def _note_view(self, view: View) -> None:
        self._view = view
        self._shared.look(view)

    def _note_refusal(self, block: Block, attempt: int, error: Code) -> None:
        """A frame was refused: for want of rights by all attempts, otherwise by this one."""
        translated = clients.translated(
            KafkaException(error), f"cannot send to topic {self._names.data_blocks}", self._settings
        )
        if isinstance(translated, BrokerDeniedError):
            self._threads.fail(translated)
        else:
            self._shared.retry(block, attempt, str(translated))


def _since(before: tuple[float, int], now: float, value: int) -> tuple[float, int]:
    """Return since when there is *value*, *before* being since when there was another."""
    return before if before[1] == value else (now, value)


def first_attempt() -> int:
    """Return a number that no other run has, with room below 2^53 until the year 2106."""
    return (int(time.time()) << _CHANCE_BITS) | secrets.randbits(_CHANCE_BITS)
