"""Fakes that several suites share: clocks, claims, and the worker around its receivers."""

import asyncio
import types

from streamapp.protocol.messages import BlockAck, Quarantined
from streamapp.receiver.context import Claim, Clock, WorkerContext
from streamapp.receiver.stats import WorkerStats


BLOCK_TIMEOUT = 60.0


class FakeClock:
    """A clock that stands still until a test moves it."""

    def __init__(self):
        self.now = 1000.0
        self.clock = Clock(monotonic=lambda: self.now, wall=lambda: 1.0)


class ManualClock:
    """Returns the time that the test has set, in seconds."""

    def __init__(self, now=0.0):
        self.now = now

    def __call__(self):
        """Return the time."""
        return self.now


class FakeClaims:
    """Claims that a test sets; `catch_ups` counts how often they were to be the newest."""

    def __init__(self):
        self.known = {}
        self.revoked = set()  # revoked, and not known here before it catches up
        self.catch_ups = 0
        self.is_reachable = True

    def claim(self, file_id, block, sha256, *, machine="other"):
        """Let another machine have a block."""
        self.known[file_id, block] = Claim(machine, "f" * 32, sha256)

    def of(self, file_id, block):
        """As `Recognition`."""
        return self.known.get((file_id, block))

    async def catch_up(self):
        """As `Recognition`."""
        self.catch_ups += 1
        if self.is_reachable:
            for key in self.revoked:
                self.known.pop(key, None)
        return self.is_reachable


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
