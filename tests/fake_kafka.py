"""A Kafka and a group of machines in memory, for the tests of a whole run of the producer.

The group does what a worker must do: it joins the frames of each attempt, checks them, and
answers. `reject` makes it refuse the first attempts, `machines` is how many are up.
"""

import itertools
import threading
import time

from types import SimpleNamespace

from confluent_kafka import ConsumerGroupState, KafkaError, KafkaException

from streamapp.kafka import topic_admin
from streamapp.protocol import compression, frames, messages, topics
from streamapp.protocol.messages import BlockAck
from streamapp.receiver.assembly import Assembly
from streamapp.store import metadata


class Message:
    """A record as confluent-kafka shows it."""

    def __init__(self, topic, partition, offset, **fields):
        self._fields = {"topic": topic, "partition": partition, "offset": offset} | fields

    topic, partition, offset, key, value, headers, error = (
        (lambda self, name=name: self._fields.get(name))
        for name in ("topic", "partition", "offset", "key", "value", "headers", "error")
    )


class FakeKafka:
    """The logs of all partitions, and the group that reads one of the topics."""

    def __init__(self, *, group, machines=1, reject=0):
        self.group = group
        self.machines = machines
        self.is_stuck = False  # up, and does nothing
        self.reject = reject
        self.refuse = []  # errors for the next records, one each
        self.producers = 0
        self.logs = {}
        self.bytes = {}  # (file id, block) -> what the group stored
        self.aborted = 0
        self._open = {}
        self._lock = threading.RLock()

    def log(self, topic, partition=None):
        """The records of *topic*, or of one of its partitions."""
        if partition is not None:
            return self.logs.setdefault((topic, partition), [])
        return [m for (name, _), log in sorted(self.logs.items()) if name == topic for m in log]

    def statuses(self):
        """The newest status of each file, by name."""
        decoded = [messages.decode_status(m.value()) for m in self.log(topics.STATUS)]
        return {status.name: status for status in decoded}

    def append(self, topic, partition, value, headers=None):
        """Write one record, and let the group read it."""
        with self._lock:
            log = self.log(topic, partition)
            message = Message(topic, partition, len(log), value=value, headers=headers)
            log.append(message)
            if topic == topics.DATA_BLOCKS and self.machines and not self.is_stuck:
                self._keep(message)
            return message

    def start_machines(self):
        """Let the group come up, and read all that it missed."""
        with self._lock:
            self.machines, self.is_stuck = 1, False
            for message in self.log(topics.DATA_BLOCKS):
                self._keep(message)

    def _keep(self, message):
        frame = frames.parse(message.headers())
        key = (frame.file_id, frame.block, frame.attempt)
        if frame.abort:
            assert frame.frame > 0
            self._open.pop(key, None)
            self.aborted += 1
            return
        if frame.meta:
            self._open[key] = (Assembly(frame, frame.meta), [])
        if key not in self._open:
            return  # its first frame never came
        assembly, pieces = self._open[key]
        assembly.place(frame)
        pieces.append(compression.decode(message.value(), frame.codec, length=frame.length))
        assembly.add(frame, pieces[-1])
        if frame.seal:
            assembly.check(frame)
            self._answer(frame, assembly, b"".join(pieces))
            del self._open[key]

    def _answer(self, frame, assembly, data):
        self.reject -= 1
        is_kept = self.reject < 0
        if is_kept:
            self.bytes[frame.file_id, frame.block] = data
        meta = assembly.meta
        ack = BlockAck(
            file_id=frame.file_id,
            block=frame.block,
            blocks=meta.blocks,
            group=self.group,
            machine="w1",
            outcome="persisted" if is_kept else "rejected",
            attempt=frame.attempt,
            size=len(data),
            sha256=frame.seal.sha256.hex() if is_kept else "",
            name=meta.name,
            file_size=meta.file_size,
            block_size=meta.block_size,
            source=meta.source,
            mtime_ns=str(meta.mtime_ns),
            version=meta.version,
            version_of=metadata.file_of(frame.file_id, meta).version_of,
            proof=frame.seal.proof.hex(),
        )
        self.append(topics.ACKS, 0, messages.encode(ack))

    # --- what stands in for streamapp.kafka.clients

    def producer(self, *_args, **_config):
        """A producer."""
        self.producers += 1
        return FakeProducer(self)

    def consumer(self, *_args, **_config):
        """A consumer that reads by assignment."""
        return FakeConsumer(self)

    def admin(self, *_args):
        """An admin client."""
        return FakeAdmin(self)

    def ensure(self, *_args, **_kwargs):
        """What the topics are."""
        config = {"max.message.bytes": str(1 << 20)}
        return {
            topics.DATA_BLOCKS: topic_admin.TopicState(topics.DATA_BLOCKS, 6, 1, config),
        }


class FakeProducer:
    """Takes records at once, and reports on them when it is polled."""

    def __init__(self, kafka):
        self._kafka = kafka
        self._reports = []
        self._fatal = None
        self._is_told = False

    def produce(self, topic, value, *, partition=0, headers=None, on_delivery=None, **key):
        """As confluent-kafka's."""
        assert isinstance(key["key"], bytes)
        if self._fatal:
            raise KafkaException(KafkaError(KafkaError._FATAL))
        error = self._kafka.refuse.pop(0) if self._kafka.refuse else None
        if error is not None and error.fatal():
            self._fatal = error
        message = Message(topic, partition, -1001)
        if error is None:
            message = self._kafka.append(topic, partition, value, headers)
        if on_delivery:
            self._reports.append((on_delivery, error, message))

    def poll(self, timeout):
        """Call back, or raise once because it is broken."""
        if self._fatal and not self._is_told:
            self._is_told = True
            raise KafkaException(self._fatal)
        if not self._reports:
            time.sleep(min(timeout, 0.005))
        while self._reports:
            on_delivery, error, message = self._reports.pop(0)
            on_delivery(error, message)

    def __len__(self):
        """How many records have no delivery report yet."""
        return len(self._reports)

    def purge(self):
        """Everything was taken already."""


class FakeConsumer:
    """Reads what is there, partition after partition."""

    def __init__(self, kafka):
        self._kafka = kafka
        self._positions = {}

    def get_watermark_offsets(self, place, timeout):
        """As confluent-kafka's."""
        assert timeout
        return 0, len(self._kafka.log(place.topic, place.partition))

    def committed(self, places, timeout):
        """What the group has committed: everything, once a machine is up."""
        assert timeout
        return [
            SimpleNamespace(
                topic=p.topic,
                partition=p.partition,
                offset=len(self._kafka.log(p.topic, p.partition))
                if self._kafka.machines
                else -1001,
            )
            for p in places
        ]

    def assign(self, places):
        """Begin at the beginning."""
        self._positions = {(p.topic, p.partition): 0 for p in places}

    def poll(self, timeout):
        """Return the next record of any partition."""
        for place, position in self._positions.items():
            log = self._kafka.log(*place)
            if position < len(log):
                self._positions[place] += 1
                return log[position]
        time.sleep(min(timeout, 0.005))
        return None

    def consume(self, count, timeout):
        """Return what is there, *count* records at most."""
        assert timeout == 0
        return list(itertools.islice(iter(lambda: self.poll(0), None), count))

    def close(self):
        """Nothing is open."""


class FakeAdmin:
    """Answers what the lookout asks."""

    def __init__(self, kafka):
        self._kafka = kafka

    def list_offsets(self, asked, **_):
        """Where partitions begin and end."""
        return {
            place: _done(
                SimpleNamespace(
                    offset=len(self._kafka.log(place.topic, place.partition))
                    if which._value == -1
                    else 0
                )
            )
            for place, which in asked.items()
        }

    def list_consumer_groups(self, **_):
        """Who is up."""
        state = ConsumerGroupState.STABLE if self._kafka.machines else ConsumerGroupState.EMPTY
        group = SimpleNamespace(group_id=self._kafka.group, state=state)
        return _done(SimpleNamespace(valid=[group], errors=[]))


def _done(result):
    return SimpleNamespace(result=lambda *_, **__: result)
