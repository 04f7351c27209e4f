"""Passing records to Kafka: full buffers, waits, and producers that break."""

import threading

import pytest

from confluent_kafka import KafkaError as Code
from confluent_kafka import KafkaException

from streamapp.errors import ClusterError
from streamapp.producer import kafka_writer
from streamapp.producer.kafka_writer import BoundedProducer


FATAL = Code(Code._GAPLESS_GUARANTEE, "too large", fatal=True)


class Full:
    """A producer whose buffer is full for a number of times."""

    def __init__(self, times=0, error=None):
        self.times = times
        self.error = error
        self.taken = []
        self.purged = False

    def produce(self, topic, value, **how):
        """As confluent-kafka's."""
        if self.error:
            raise KafkaException(self.error)
        self.times -= 1
        if self.times >= 0:
            raise BufferError
        self.taken.append((topic, value, how))

    def purge(self):
        """Remember it."""
        self.purged = True

    def poll(self, _):
        """Nothing is acknowledged."""

    def __len__(self):
        """How many records are not acknowledged."""
        return len(self.taken)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(kafka_writer, "FULL_SECONDS", 0.001)


def test_waits_for_room():
    """A record waits until there is room, and is then taken once."""
    full = Full(times=3)

    assert BoundedProducer(lambda: full).send(full, "t", b"v", is_wanted=lambda: True, key=b"k")
    assert [("t", b"v", {"key": b"k"})] == full.taken


def test_waits_in_vain():
    """A record that is not wanted any more is not taken when there is room again."""
    full = Full(times=10**9)
    answers = iter([True, True, False])

    assert not BoundedProducer(lambda: full).send(full, "t", b"v", is_wanted=lambda: next(answers))
    assert [] == full.taken


def test_post_does_not_wait():
    """A record that must not wait is refused at once if there is no room."""
    assert not BoundedProducer(lambda: Full(times=1)).post("t", b"v")


@pytest.mark.parametrize(
    ("error", "is_broken"),
    [(FATAL, True), (Code(Code._FATAL), True), (Code(Code.INVALID_RECORD), False)],
)
def test_refused(error, is_broken):
    """An error is a `ClusterError`; only a fatal one breaks the producer."""
    box = BoundedProducer(lambda: Full(error=error))

    with pytest.raises(ClusterError, match="cannot send to t"):
        box.post("t", b"v")
    assert is_broken == box.is_broken


def test_reason():
    """The reason is the error that broke the producer, not what it says ever after."""
    full = Full(error=Code(Code._FATAL))
    box = BoundedProducer(lambda: full)
    for error in (Code(Code._FATAL), FATAL, Code(Code._FATAL)):
        full.error = error
        with pytest.raises(ClusterError):
            box.post("t", b"v")

    assert "too large" == box.reason


def test_broken_in_the_background():
    """A fatal error that comes while polling breaks it too, and the thread continues."""
    stop = threading.Event()

    class Polled(Full):
        def poll(self, _):
            if self.error:
                error, self.error = self.error, None
                raise KafkaException(error)
            stop.set()

    box = BoundedProducer(lambda: Polled(error=FATAL))
    box.serve(stop)

    assert box.is_broken


def test_renewed():
    """A broken producer reports its records as failed, and is replaced."""
    first, second = Full(error=FATAL), Full()
    made = iter([first, second])
    box = BoundedProducer(lambda: next(made))
    with pytest.raises(ClusterError):
        box.post("t", b"v")
    box.renew()

    assert first.purged
    assert not box.is_broken
    assert box.post("t", b"v")
    assert not box.flush(0.0)  # the second one has a record that Kafka does not have


def test_frames_of_one_attempt():
    """An attempt does not continue with another producer: frames would be missing."""
    first, second = Full(times=1), Full()
    made = iter([first, second])
    box = BoundedProducer(lambda: next(made))

    def renew():
        first.error = Code(Code._FATAL)
        box.renew()
        return True

    with pytest.raises(ClusterError):
        box.send(box.producer, "t", b"v", is_wanted=renew)
    assert [] == second.taken


def test_late_news_of_the_old_one():
    """An error of a replaced producer does not break the new one."""
    made = iter([Full(), Full()])
    box = BoundedProducer(lambda: next(made))
    old = box._producer
    box.renew()
    box._note(KafkaException(FATAL), old)

    assert not box.is_broken


def test_serves_until_it_is_stopped():
    """The polling thread ends when it is stopped, or by an error in a callback."""
    stop = threading.Event()

    class Polled(Full):
        def poll(self, _):
            stop.set()

    BoundedProducer(Polled).serve(stop)

    assert stop.is_set()
