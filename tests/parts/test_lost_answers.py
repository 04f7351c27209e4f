"""What a worker answers when a block that it is sent again is found bad in between."""

import asyncio

import pytest

from streamapp import records, repair, verify, wire
from streamapp.desk import Record
from streamapp.intake import Intake
from streamapp.settings import Settings
from streamapp.store import BlockStore
from streamapp.turns import Turns
from streamapp.verify import Pace
from streamapp.vitals import Vitals
from tests.claims import FakeClaims
from tests.parts.keeping import flip
from tests.unit.frames import frames_of, id_of, meta_of
from tests.waiting import eventually


DATA = b"0123456789" * 30
FILE_ID = id_of(meta_of(len(DATA)))


class Desk:
    """A worker around an intake; what it tells is in `said`."""

    def __init__(self, store):
        self.settings = Settings(machine_id="m", group_id="g")
        self.store = store
        self.vitals = Vitals()
        self.turns = Turns()
        self.claims = FakeClaims()
        self.said = []

    async def tell(self, record):
        """Remember what was told."""
        self.said.append(record)

    async def may_begin(self):
        """As many as there are."""

    def begun_in_vain(self):
        """Counts nothing."""

    def kept(self):
        """Counts nothing."""


@pytest.fixture
def desk(tmp_path):
    """A worker with an empty data folder."""
    store = BlockStore([tmp_path / "processed_data_m"], min_free=0)
    store.open()
    yield Desk(store)
    store.close()


@pytest.fixture
def acked():
    """The offsets that were acknowledged to Kafka."""
    return []


@pytest.fixture
def send(desk, acked):
    """Sends frames of an attempt at the one block, as they come from Kafka."""
    intake = Intake("data-blocks", 0, desk)
    offset = -1

    async def send_(attempt, frames):
        nonlocal offset
        made = frames_of(DATA, frame_size=100, attempt=attempt)
        for number in frames:
            offset += 1
            frame, value = made[number]
            await intake.take(
                Record(
                    offset=offset,
                    generation=1,
                    headers=wire.encode(frame),
                    key=frame.key,
                    value=value,
                    ack=lambda offset=offset: acked.append(offset),
                )
            )

    return send_


def outcomes(desk):
    """Return what was said: outcome and attempt."""
    return [(ack.outcome, ack.attempt) for ack in desk.said]


def take_back(desk):
    """Find the bad block and move it away, as the scrub does."""
    (root,) = desk.store.roots
    (found,) = [v for v in verify.blocks(root.path, Pace()) if not v.is_good]
    return repair.take_back(desk.store, root, found, group="g", machine="m")


async def test_found_bad_while_it_is_sent_again(desk, send, acked):
    """Between the first frame and the last a stored block was found bad: it is not "persisted"."""
    await send(1, range(3))
    flip(desk.store.roots[0].path / "a/b.csv/block_0000.bin", 9)
    await send(2, [0, 1])
    take_back(desk)
    await send(2, [2])
    assert [("persisted", 1), ("rejected", 2)] == outcomes(desk)
    assert "found bad" in desk.said[-1].reason

    await send(3, range(3))
    assert ("persisted", 3) == outcomes(desk)[-1]
    assert desk.store.stored(FILE_ID, 0)
    assert [*range(9)] == acked


async def test_sent_again_after_the_loss(desk, send):
    """A block that was taken back is kept anew when it comes again, and only then persisted."""
    await send(1, range(3))
    path = desk.store.roots[0].path / "a/b.csv/block_0000.bin"
    good = path.read_bytes()
    flip(path, 9)
    take_back(desk)
    await send(2, range(3))

    assert [("persisted", 1), ("persisted", 2)] == outcomes(desk)
    assert good == path.read_bytes()


@pytest.mark.parametrize("is_stored", [True, False])
async def test_answers_wait_for_their_turn(desk, send, is_stored):
    """While the loss of a block is being told, nobody calls it persisted."""
    if is_stored:
        await send(1, range(3))
    said = len(desk.said)
    async with desk.turns.of(FILE_ID, 0):
        answer = asyncio.ensure_future(send(2, range(3)))
        await eventually(lambda: desk.turns._wanted[FILE_ID, 0] == 2)
        assert said == len(desk.said)
    await answer

    assert ("persisted", 2) == outcomes(desk)[-1]
    assert all(isinstance(ack, records.BlockAck) for ack in desk.said)
