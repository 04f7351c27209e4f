"""Whatever happens in any order, the committed offset never passes a block that is not persisted.

A log of frames is read by two machines in turn. Producers start, stall, stop and repeat;
machines crash, resume, lose the partition, cannot write, and crash between persisting a block and
publishing it. A third machine acknowledges blocks as well, and revokes them. After each step, the
records that Kafka has must suffice to persist every block.
"""

import asyncio
import dataclasses
import functools
import hashlib
import os
import types

import msgspec
import pytest

from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from streamapp.errors import BlockConflictError, StoreError, StoreFullError
from streamapp.protocol import frames
from streamapp.protocol.frames import Frame
from streamapp.protocol.messages import BlockAck
from streamapp.receiver import backpressure, endings, outcomes, pending_writer
from streamapp.receiver import partition as partition_module
from streamapp.receiver.attempts import Elsewhere
from streamapp.receiver.context import Claim, InboundRecord, WorkerContext
from streamapp.receiver.partition import PartitionReceiver
from streamapp.receiver.stats import WorkerStats
from tests.fakes import FakeClock
from tests.frames import frames_of, id_of, meta_of


TIMEOUT = 60.0
FILES = [meta_of(size, name=name) for name, size in [("a", 0), ("b", 5), ("c", 9)]]
FRAME_BYTES = 4


class Died(BaseException):
    """The process ended here."""


class MemoryStore:
    """A data folder that outlives its worker; what is open does not."""

    def __init__(self):
        self.kept = {}
        self.writes = []
        self.failing = []  # what the next calls raise

    def meet(self):
        """Fail, if it is time."""
        if self.failing:
            raise self.failing.pop()

    def stored(self, file_id, block):
        """As `BlockStore`."""
        self.meet()
        return self.kept.get((file_id, block))

    def begin(self, file_id, block, meta):
        """As `BlockStore`."""
        self.meet()
        return MemoryWriter(self, (file_id, block), meta.size)

    def is_healthy(self):
        """As `BlockStore`."""
        return not self.failing

    def set_aside(self, _where, _described, _value):
        """As `BlockStore`."""
        return "quarantine"


class MemoryWriter:
    """As `BlockWriter`."""

    folder = ""

    def __init__(self, store, key, size):
        self.store, self.key = store, key
        self.data = bytearray(size)
        self.is_open = True

    def write(self, data, *, offset):
        """As `BlockWriter`."""
        self.store.meet()
        self.data[offset : offset + len(data)] = data

    def commit(self, meta):
        """As `BlockWriter`."""
        self.store.meet()
        assert self.is_open
        assert meta.sha256 == hashlib.sha256(self.data).hexdigest()
        there = self.store.kept.get(self.key)
        if there is not None and there.sha256 != meta.sha256:
            raise BlockConflictError("another content")
        self.is_open = False
        if there is None:
            self.store.kept[self.key] = meta
            self.store.writes.append(self.key)

    def abort(self):
        """As `BlockWriter`."""
        self.is_open = False

    must_yield = False


class LateClaims:
    """What *machine* knows of the blocks of other machines: not the newest, until it asks."""

    def __init__(self, world, machine):
        self._world, self._machine = world, machine
        self._known = {}

    def of(self, file_id, block):
        """As `Recognition`."""
        return self._known.get((file_id, block))

    async def catch_up(self):
        """As `Recognition`; Kafka may be slow to answer."""
        if self._world.slow_answers:
            self._world.slow_answers -= 1
            return False
        self.read()
        return True

    def read(self):
        """Read all that is acknowledged by now."""
        newest = self._world.persisted.items()
        self._known = {key: claim for key, claim in newest if claim.machine != self._machine}


class Machine:
    """A worker of the group: what is on disk stays, `context` is new at each start."""

    def __init__(self, world, name):
        self.settings = types.SimpleNamespace(
            group_id="g", machine_id=name, block_timeout=TIMEOUT, max_blocks=None
        )
        self.world = world
        self.store = MemoryStore()
        self.start()

    def start(self):
        """Start, with what is on disk and nothing else."""
        self.context = WorkerContext(
            settings=self.settings,
            store=self.store,
            stats=WorkerStats(),
            claims=LateClaims(self.world, self.settings.machine_id),
            send=self._send,
            on_limit=lambda: None,
            clock=self.world.clock.clock,
        )

    async def _send(self, record):
        """Give *record* to Kafka, unless the process dies at this very moment."""
        if self.world.dies_telling:
            self.world.dies_telling = False
            raise Died
        if isinstance(record, BlockAck):
            if record.outcome == "persisted":
                stored = self.store.kept[record.file_id, record.block]
                assert stored.sha256 == record.sha256
                claim = Claim(record.machine, record.folder, record.sha256)
                self.world.persisted[record.file_id, record.block] = claim
            else:
                self.world.over.add(record.attempt)


@dataclasses.dataclass
class Sending:
    """One attempt at a block, by a producer that may stall."""

    attempt: int
    key: tuple
    records: list
    sent: int = 0
    first_offset: int | None = None

    @property
    def is_whole(self):
        """Whether all of it is in the log."""
        return self.sent == len(self.records)


class World(RuleBasedStateMachine):
    """The log, its producers, the group's committed offset, and the machine that reads."""

    def __init__(self):
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        for module in (endings, pending_writer):
            self.patch.setattr(module, "abort_in_thread", lambda writer: writer.abort())
        self.patch.setattr(backpressure, "PAUSE_SECONDS", 0)
        self.patch.setattr(asyncio, "to_thread", self._at_once)
        for module in (partition_module, endings, outcomes, backpressure):
            self.patch.setattr(module.logger, "disabled", True)
        self.log = []
        self.sendings = []
        self.persisted = {}  # what Kafka knows to be persisted, and where
        self.over = set()  # attempts that were rejected or revoked
        self.done = set()  # attempts that were done because their block was persisted just then
        self.dies_telling = False
        self.slow_answers = 0
        self.machines = [Machine(self, "m1"), Machine(self, "m2")]
        self.reader = self.machines[0]
        self.committed = 0
        self.generation = 0
        self._begin_life()

    @staticmethod
    async def _at_once(work, *args):
        return work(*args)

    def teardown(self):
        """Check that all ends well, then give all back."""
        try:
            self.end()
        finally:
            self.loop.close()
            self.patch.undo()

    def _begin_life(self):
        self._go_back()
        self.receiver = PartitionReceiver("data-blocks", 0, self.reader.context)
        settle = self.receiver._endings.settle_block

        def settle_if_persisted(block_id):
            assert block_id in self.persisted, "done, and no machine has it by the newest word"
            for sending in self.sendings:
                if sending.key == block_id and sending.first_offset < self.position:
                    self.done.add(sending.attempt)
            settle(block_id)

        self.patch.setattr(self.receiver._endings, "settle_block", settle_if_persisted)

    def _go_back(self):
        """Begin at the commit: what comes again is to be done again."""
        self.generation += 1
        self.position = self.acked = self.committed
        self.done -= {s.attempt for s in self.sendings if s.first_offset >= self.committed}

    def _is_done(self, sending):
        """Whether no byte of *sending* is needed any more, or its producer knows better."""
        return sending.key in self.persisted or sending.attempt in self.over | self.done

    def _run(self, work):
        try:
            self.loop.run_until_complete(work)
        except Died:
            self.commit()  # a commit may be on its way at any moment
            self.crash()

    def _ack(self, generation, offset):
        assert generation == self.generation, "acknowledged what is void"
        assert offset == self.acked, "acknowledged out of order"
        self.acked += 1

    # --- producers

    @rule(meta=st.sampled_from(FILES), forged=st.booleans())
    def send_block(self, meta, forged):
        """A producer begins to send a block; a forger's has another content."""
        data = (b"x" if forged else meta.name.encode()) * meta.size
        attempt = len(self.sendings) + 1
        sending = Sending(
            attempt,
            (id_of(meta), 0),
            frames_of(data, frame_size=FRAME_BYTES, meta=meta, attempt=attempt),
        )
        self.sendings.append(sending)
        self.send_frames(sending, 1)

    def send_frames(self, sending, count):
        """Append the next frames of *sending* to the log."""
        if sending.first_offset is None:
            sending.first_offset = len(self.log)
        self.log += sending.records[sending.sent : sending.sent + count]
        sending.sent = min(len(sending.records), sending.sent + count)

    @precondition(lambda self: self.sendings)
    @rule(data=st.data(), count=st.integers(1, 3))
    def send_more(self, data, count):
        """A producer sends more of a block."""
        self.send_frames(data.draw(st.sampled_from(self.sendings)), count)

    @precondition(lambda self: self.log)
    @rule(data=st.data(), damage=st.sampled_from(["", "", "", "value", "headers"]))
    def send_again(self, data, damage):
        """A frame comes once more, perhaps damaged, from wherever."""
        frame, value = data.draw(st.sampled_from(self.log))
        if damage == "value":
            value = value + b"?"
        elif damage == "headers":
            frame = None
        if frame is not None and damage:
            frame = msgspec.structs.replace(frame, attempt=(1 << 40) + frame.attempt)
        self.log.append((frame, value))

    @precondition(lambda self: any(not s.is_whole for s in self.sendings))
    @rule(data=st.data())
    def stop_sending(self, data):
        """A producer that stops takes its attempt back."""
        sending = data.draw(st.sampled_from([s for s in self.sendings if not s.is_whole]))
        abort = Frame(
            file_id=sending.key[0],
            block=sending.key[1],
            attempt=sending.attempt,
            frame=sending.sent,
            offset=FRAME_BYTES * sending.sent,
            length=0,
            abort=True,
        )
        self.log.append((abort, b""))
        self.over.add(sending.attempt)

    # --- the group

    @rule(count=st.integers(1, 12))
    def read(self, count):
        """The machine reads on."""
        for offset in range(self.position, min(len(self.log), self.position + count)):
            if offset != self.position:
                return  # it died meanwhile
            frame, value = self.log[offset]
            record = InboundRecord(
                offset=offset,
                generation=self.generation,
                headers=frames.encode(frame) if frame is not None else [],
                key=None,
                value=value,
                ack=functools.partial(self._ack, self.generation, offset),
            )
            self.position += 1
            self._run(self.receiver.take(record))

    @rule()
    def commit(self):
        """Acknowledged records are committed."""
        self.committed = self.acked

    @rule()
    def crash(self):
        """The machine dies, and comes back with what is on its disk."""
        self.reader.start()
        self._begin_life()

    @rule(number=st.integers(0, 1))
    def rebalance(self, number):
        """The partition goes to a machine, perhaps to the same."""

        async def drop():
            self.receiver.drop()

        self.commit()
        self.loop.run_until_complete(drop())
        assert 0 == self.reader.context.stats.open_blocks
        assert self.reader.context.begun == self.reader.context.persisted
        self.reader = self.machines[number]
        self._begin_life()

    @rule()
    def rewind(self):
        """The partition is read again from the last commit, by the same receiver."""
        self._go_back()

    @rule(seconds=st.sampled_from([1.0, TIMEOUT + 1]))
    def pass_time(self, seconds):
        """Time passes, and the receiver ends attempts that are late."""

        async def look():  # as the agent's timer
            await self.receiver.forget_older(self.generation)
            await self.receiver.expire(highwater=len(self.log))

        self.clock.now += seconds
        before = {s.attempt for s in self.sendings} - self.over - self.done
        self._run(look())
        for sending in self.sendings:  # attempts that are late and not open here expire
            if sending.attempt in before and sending.first_offset < self.committed:
                assert self._is_done(sending)

    @rule(error=st.sampled_from([StoreError("gone"), StoreFullError("full")]), count=st.just(2))
    def fail_for_a_while(self, error, count):
        """The disk of the machine fails for a few calls."""
        self.reader.store.failing = [error] * count

    @rule()
    def die_telling(self):
        """The machine will die before Kafka has its next word."""
        self.dies_telling = True

    # --- a machine that reads other partitions, or had this one

    @rule(meta=st.sampled_from(FILES), forged=st.booleans())
    def acknowledge_elsewhere(self, meta, forged):
        """A third machine acknowledges a block."""
        data = (b"x" if forged else meta.name.encode()) * meta.size
        claim = Claim("m3", "", hashlib.sha256(data).hexdigest())
        self.persisted[id_of(meta), 0] = claim

    @precondition(lambda self: any(c.machine == "m3" for c in self.persisted.values()))
    @rule(data=st.data())
    def revoke_elsewhere(self, data):
        """The third machine has lost a block, and publishes it."""
        keys = sorted(key for key, claim in self.persisted.items() if claim.machine == "m3")
        del self.persisted[data.draw(st.sampled_from(keys))]

    @rule(meta=st.sampled_from(FILES), forged=st.booleans())
    def send_what_is_elsewhere(self, meta, forged):
        """A block that the third machine has is sent again, and read as far as it is sent."""
        self.acknowledge_elsewhere(meta, forged)
        self.send_block(meta, forged)
        self.read(len(self.log))

    @precondition(lambda self: self._under_way())
    @rule(data=st.data(), is_finished=st.booleans())
    def revoke_what_is_under_way(self, data, is_finished):
        """The third machine loses a block of which frames wait; the rest of them may come."""
        sending = data.draw(st.sampled_from(self._under_way()))
        del self.persisted[sending.key]
        if is_finished:
            self.send_frames(sending, len(sending.records))
            self.read(len(self.log))

    def _under_way(self):
        """Return what is not sent whole and read as a block that the third machine has."""
        elsewhere = {a.id.attempt for a in self.receiver._attempts.within(Elsewhere)}
        return [
            s
            for s in self.sendings
            if s.attempt in elsewhere
            and s.key in self.persisted
            and self.persisted[s.key].machine == "m3"
        ]

    @rule()
    def read_claims(self):
        """The machine reads what others have, as it does all the time."""
        self.reader.context.claims.read()

    @rule(count=st.integers(1, 3))
    def answer_slowly(self, count):
        """Kafka does not answer the next questions in time."""
        self.slow_answers = count

    # --- what must hold

    @invariant()
    def nothing_is_passed(self):
        """The commit passes no block that is neither persisted nor over."""
        for sending in self.sendings:
            if sending.first_offset < self.acked:
                assert self._is_done(sending), sending

    @invariant()
    def nothing_is_stored_twice(self):
        """A machine writes a block once."""
        for machine in self.machines:
            assert len(machine.store.writes) == len(set(machine.store.writes))

    def end(self):
        """After all is read, every complete block is persisted, and all offsets are committed."""
        self.dies_telling = False
        self.slow_answers = 0
        self.reader.store.failing = []
        self.rewind()
        self.read(len(self.log))
        for sending in self.sendings:
            assert not sending.is_whole or self._is_done(sending)
        for _ in range(2):
            self.pass_time(TIMEOUT + 1)
        self.nothing_is_passed()
        assert len(self.log) == self.acked
        assert self.receiver.safe_offset is None
        assert 0 == self.reader.context.stats.open_blocks
        assert "running" == self.reader.context.stats.state


EXAMPLES = 2_000
SEEDS = [0, *(pytest.param(n, marks=pytest.mark.long) for n in range(1, 10))]


@pytest.mark.parametrize("number", SEEDS)
def test_world(number):
    """No order of events loses a block; a seed gives the same orders always."""
    examples = int(os.environ.get("STREAMAPP_TEST_EXAMPLES", EXAMPLES))
    world = seed(number)(type("World", (World,), {}))
    run_state_machine_as_test(
        world,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            derandomize=True,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
