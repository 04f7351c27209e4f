"""Sends blocks: reads, hashes, compresses and publishes their frames, in one pass.

Each reader thread has a sender. Reading, hashing and compressing release the GIL. The last frame,
which completes a block, is published only if the file is unchanged since the scan. Otherwise, or
if the rest of the block is not needed any more, an abort frame ends the attempt at the worker.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from streamapp.errors import ClusterError, SourceChangedError
from streamapp.producer.sources import reader
from streamapp.protocol import compression, fileplan, frames, topics


if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from confluent_kafka import KafkaError as Code
    from confluent_kafka import Message, Producer

    from streamapp.producer.block_proofs import Prover
    from streamapp.producer.kafka_writer import BoundedProducer
    from streamapp.producer.model import Block, File
    from streamapp.producer.shared_delivery import SharedDelivery
    from streamapp.protocol.compression import Compression


@dataclass(frozen=True, kw_only=True)
class SendContext:
    """What all senders share; *on_refused* receives Kafka's error for a frame."""

    topic: str = topics.DATA_BLOCKS
    folder: Path
    machine: str
    block_size: int
    frame_bytes: int
    compression: Compression
    shared: SharedDelivery
    writer: BoundedProducer
    is_stopped: Callable[[], bool]
    on_refused: Callable[[Block, int, Code], None]
    now_ns: Callable[[], int]
    prover: Prover


class Attempt:
    """One attempt to send one block, with the number of bytes and frames published so far."""

    def __init__(self, block: Block, block_size: int, producer: Producer) -> None:
        source = block.file.source
        self.block = block
        self.producer = producer
        self.number = block.attempt
        self.plan = fileplan.FilePlan(file_size=source.size, block_size=block_size)
        self.start, self.size = self.plan.span(block.number)
        self.file_id = block.version.file_id
        self.key = f"{self.file_id}:{block.number}".encode()
        self.digest = hashlib.sha256()
        self.codec: frames.Codec | None = None
        self.bytes = 0
        self.frames = 0
        self.first_offset = -1

    def frame(self, length: int, codec: frames.Codec, context: SendContext) -> frames.Frame:
        """Return the header of the next frame, of *length* bytes."""
        return self._frame(
            length=length,
            codec=codec,
            meta=None if self.frames else self._meta(context.now_ns(), context.machine),
            seal=self._seal(context.prover) if self.bytes + length == self.size else None,
        )

    def abort_frame(self) -> frames.Frame:
        """Return the header of the abort frame; at least one frame must have been published."""
        return self._frame(length=0, abort=True)

    def _frame(self, **fields: Any) -> frames.Frame:  # noqa: ANN401 - the other fields of `Frame`
        return frames.Frame(
            file_id=self.file_id,
            block=self.block.number,
            attempt=self.number,
            frame=self.frames,
            offset=self.bytes,
            **fields,
        )

    def _seal(self, prover: Prover) -> frames.Seal:
        sha256, block = self.digest.digest(), self.block
        proof = prover.of_block(self.file_id, block.number, block.file.source, sha256)
        return frames.Seal(sha256, self.frames + 1, proof)

    def _meta(self, now_ns: int, machine: str) -> frames.BlockMeta:
        source = self.block.file.source
        return frames.BlockMeta(
            name=source.name,
            file_size=source.size,
            blocks=self.plan.blocks,
            block_size=self.plan.block_size,
            start=self.start,
            size=self.size,
            mtime_ns=source.mtime_ns,
            source=machine,
            sent_ns=now_ns,
            raw_name=source.raw_name,
            ctime_ns=source.ctime_ns,
            version=self.block.version.mark,
        )


class Sender:
    """Sends or checks blocks one by one, and counts their bytes.

    *bytes_sent* is of first attempts, *bytes_resent* of later ones, *bytes_checked* of blocks that
    were only read and compared.
    """

    def __init__(self, context: SendContext) -> None:
        self._context = context
        self.bytes_sent = 0
        self.bytes_resent = 0
        self.bytes_checked = 0

    def send(self, block: Block) -> None:
        """Send or check *block*; report a failure to the shared delivery."""
        attempt = Attempt(block, self._context.block_size, self._context.writer.producer)
        try:
            if block.is_check:
                self._check(attempt)
            else:
                self._send_frames(attempt)
        except SourceChangedError as error:
            self._abort(block.file, "changed", str(error))
        except OSError as error:
            self._abort(block.file, "unreadable", (error.strerror or str(error)).lower())
        except ClusterError as error:
            with self._context.shared.locked() as (delivery, now):
                delivery.retry(block, attempt.number, str(error), now)
        if attempt.frames and attempt.bytes < attempt.size:
            with contextlib.suppress(ClusterError):  # then the worker expires the attempt
                self._context.writer.post(
                    self._context.topic,
                    b"",
                    key=attempt.key,
                    partition=block.partition,
                    headers=frames.encode(attempt.abort_frame()),
                )

    def _abort(self, file: File, state: Literal["changed", "unreadable"], reason: str) -> None:
        with self._context.shared.locked() as (delivery, _):
            delivery.abort(file, state, reason)

    def _check(self, attempt: Attempt) -> None:
        """Hash the source's block to compare it with the acknowledged one; send nothing."""
        context, block = self._context, attempt.block
        span = (attempt.start, attempt.size)
        for chunk in reader.chunks(context.folder, block.file.source, span, context.frame_bytes):
            if context.is_stopped() or not block.is_wanted(attempt.number):
                return
            attempt.digest.update(chunk)
            self.bytes_checked += len(chunk)
        with context.shared.locked() as (delivery, now):
            delivery.checked(block, attempt.number, attempt.digest.digest(), now)

    def _send_frames(self, attempt: Attempt) -> None:
        context, source = self._context, attempt.block.file.source
        span = (attempt.start, attempt.size)
        for chunk in reader.chunks(context.folder, source, span, context.frame_bytes):
            if not self._send_frame(attempt, chunk):
                return
            if attempt.block.tries == 1:
                self.bytes_sent += len(chunk)
            else:
                self.bytes_resent += len(chunk)

    def _send_frame(self, attempt: Attempt, chunk: bytes) -> bool:
        """Publish *chunk* as the next frame; return False if the block is not wanted any more."""
        context = self._context
        attempt.digest.update(chunk)
        if attempt.codec is None:
            attempt.codec = compression.choose(context.compression, chunk)
        value, frame_codec = bytes(compression.encode(chunk, attempt.codec)), attempt.codec
        if len(value) >= len(chunk):
            value, frame_codec = chunk, frames.Codec.NONE
        frame = attempt.frame(len(chunk), frame_codec, context)
        if frame.seal is not None:  # `Delivery` needs it before the acknowledgement arrives
            attempt.block.sha256 = frame.seal.sha256
        was_sent = context.writer.send(
            attempt.producer,
            context.topic,
            value,
            is_wanted=lambda: attempt.block.is_wanted(attempt.number) and not context.is_stopped(),
            key=attempt.key,
            partition=attempt.block.partition,
            headers=frames.encode(frame),
            on_delivery=self._report_for(attempt, frame),
        )
        if was_sent:
            attempt.frames += 1
            attempt.bytes += len(chunk)
        return was_sent

    def _report_for(
        self, attempt: Attempt, frame: frames.Frame
    ) -> Callable[[Code | None, Message], None] | None:
        """Return the callback for *frame*: the first and the last frame have one."""
        if frame.seal is not None:
            return functools.partial(self._note, attempt, frame.seal.sha256)
        return functools.partial(self._note, attempt, b"") if frame.meta is not None else None

    def _note(self, attempt: Attempt, sha256: bytes, error: Code | None, message: Message) -> None:
        if error is not None:
            self._context.on_refused(attempt.block, attempt.number, error)
            return
        offset = message.offset()
        offset = -1 if offset is None else offset
        if attempt.first_offset < 0:
            attempt.first_offset = offset
        if sha256:
            offsets = (attempt.first_offset, offset)
            with self._context.shared.locked() as (delivery, _):
                delivery.sent(attempt.block, attempt.number, offsets, sha256)
