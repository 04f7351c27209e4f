"""Acknowledgements of a block that is delivered again and found bad in between."""

import asyncio

import pytest

from streamapp.integrity import revoke, verify
from streamapp.integrity.verify import Pace
from streamapp.protocol import frames as frame_headers
from streamapp.protocol import messages
from streamapp.receiver.context import InboundRecord
from streamapp.receiver.partition import PartitionReceiver
from streamapp.settings import Settings
from streamapp.store import BlockStore
from tests.fakes import FakeContext
from tests.frames import frames_of, id_of, meta_of
from tests.integration.blocks import flip
from tests.waiting import eventually


DATA = b"0123456789" * 30
FILE_ID = id_of(meta_of(len(DATA)))


@pytest.fixture
def context(tmp_path):
    """A worker with an empty data folder."""
    store = BlockStore([tmp_path / "processed_data_m"], min_free=0)
    store.open()
    yield FakeContext(store, settings=Settings(machine_id="m", group_id="g"))
    store.close()


@pytest.fixture
def acked():
    """The offsets that were acknowledged to Kafka."""
    return []


@pytest.fixture
def send(context, acked):
    """Sends frames of an attempt at the one block, as they come from Kafka."""
    receiver = PartitionReceiver("data-blocks", 0, context)
    offset = -1

    async def send_(attempt, frames):
        nonlocal offset
        made = frames_of(DATA, frame_size=100, attempt=attempt)
        for number in frames:
            offset += 1
            frame, value = made[number]
            await receiver.take(
                InboundRecord(
                    offset=offset,
                    generation=1,
                    headers=frame_headers.encode(frame),
                    key=frame.key,
                    value=value,
                    ack=lambda offset=offset: acked.append(offset),
                )
            )

    return send_


def outcomes(context):
    """Return what was said: outcome and attempt."""
    return [(ack.outcome, ack.attempt) for ack in context.acks]


def take_back(context):
    """Find the bad block and move it away, as the scrub does."""
    (root,) = context.store.roots
    (found,) = [v for v in verify.blocks(root.path, Pace()) if not v.is_good]
    return revoke.revoke_block(context.store, root, found, group="g", machine="m")


async def test_found_bad_while_it_is_sent_again(context, send, acked):
    """Between the first frame and the last a stored block was found bad: it is not "persisted"."""
    await send(1, range(3))
    flip(context.store.roots[0].path / "a/b.csv/block_0000.bin", 9)
    await send(2, [0, 1])
    take_back(context)
    await send(2, [2])
    assert [("persisted", 1), ("rejected", 2)] == outcomes(context)
    assert "found bad" in context.acks[-1].reason

    await send(3, range(3))
    assert ("persisted", 3) == outcomes(context)[-1]
    assert context.store.stored(FILE_ID, 0)
    assert [*range(9)] == acked


async def test_sent_again_after_the_loss(context, send):
    """A block that was revoked is persisted anew when it is delivered again, and not before."""
    await send(1, range(3))
    path = context.store.roots[0].path / "a/b.csv/block_0000.bin"
    good = path.read_bytes()
    flip(path, 9)
    take_back(context)
    await send(2, range(3))

    assert [("persisted", 1), ("persisted", 2)] == outcomes(context)
    assert good == path.read_bytes()


@pytest.mark.parametrize("is_stored", [True, False])
async def test_answers_wait_for_their_turn(context, send, is_stored):
    """While the loss of a block is being published, the block is not published as persisted."""
    if is_stored:
        await send(1, range(3))
    said = len(context.acks)
    async with context.locks.of(FILE_ID, 0):
        answer = asyncio.ensure_future(send(2, range(3)))
        await eventually(lambda: context.locks._users[FILE_ID, 0] == 2)
        assert said == len(context.acks)
    await answer

    assert ("persisted", 2) == outcomes(context)[-1]
    assert all(isinstance(ack, messages.BlockAck) for ack in context.acks)
