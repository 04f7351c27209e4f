"""Fakes that several suites share: a worker around the receivers of its partitions."""

import asyncio
import types

from streamapp.protocol.messages import BlockAck, Quarantined
from streamapp.receiver.context import Clock, WorkerContext
from streamapp.receiver.stats import WorkerStats
from tests.claims import FakeClaims


BLOCK_TIMEOUT = 60.0


class FakeClock:
    """A clock that stands still until a test moves it."""

    def __init__(self):
        self.now = 1000.0
        self.clock = Clock(monotonic=lambda: self.now, wall=lambda: 1.0)


class FakeContext(WorkerContext):
    """A worker whose Kafka is a list: `seen` has all that was published, in order.

    A test that gives `InboundRecord.ack` the list's ``append`` sees also when each offset was
    acknowledged. Nothing is published while `gate` is closed.
    """

    def __init__(self, store, *, clock=None, settings=None):
        super().__init__(
            settings=settings
            or types.SimpleNamespace(
                group_id="g", machine_id="m", block_timeout=BLOCK_TIMEOUT, max_blocks=None
            ),
            store=store,
            stats=WorkerStats(),
            claims=FakeClaims(),
            send=self._send,
            on_limit=lambda: None,
            clock=clock.clock if clock else Clock(),
        )
        self.seen = []
        self.asked = asyncio.Event()  # whether anything was to be published yet
        self.gate = asyncio.Event()
        self.gate.set()

    async def _send(self, record):
        self.asked.set()
        await self.gate.wait()
        self.seen.append(record)

    @property
    def acks(self):
        """What was published about blocks."""
        return [r for r in self.seen if isinstance(r, BlockAck)]

    @property
    def outcomes(self):
        """The outcomes of all that was published about blocks."""
        return [ack.outcome for ack in self.acks]

    @property
    def quarantined(self):
        """What was published about bad records."""
        return [r for r in self.seen if isinstance(r, Quarantined)]

    @property
    def done(self):
        """The offsets that were acknowledged to Kafka."""
        return [r for r in self.seen if isinstance(r, int)]
