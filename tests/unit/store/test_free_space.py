"""The space of a data folder: a declared size reserves none, and the oldest block can finish."""

import contextlib
import dataclasses
import random

import pytest

from hypothesis import given
from hypothesis import strategies as st

from streamapp.errors import StoreFullError
from streamapp.store.free_space import (
    ADVANCE_BYTES,
    BESIDE_BYTES,
    FRESH_SECONDS,
    SHARE_BYTES,
    FreeSpace,
)
from streamapp.units import GIB, KIB, MIB


@dataclasses.dataclass
class Volume:
    """A volume, and the clock on the wall beside it."""

    free: int
    now: float = 0.0
    files: int = 1000

    def room(self, min_free=0):
        """Return its room."""
        return FreeSpace(
            "/d",
            min_free=min_free,
            free_bytes=lambda: self.free,
            spare_files=lambda: self.files,
            clock=lambda: self.now,
        )

    def write(self, room, claim, size):
        """Write *size* bytes more of the block."""
        end = claim.came + size
        room.take(claim, end)
        self.free -= size
        room.came(claim, end)

    def drop(self, room, claim):
        """Throw the block away."""
        room.release(claim)
        self.free += claim.came


def begins(room):
    """Return whether one more block of a mebibyte may begin."""
    try:
        room.release(room.begin(source="good", size=MIB))
    except StoreFullError:
        return False
    return True


@pytest.mark.parametrize("sources", [1, 100])
def test_flood_of_begun_blocks(sources):
    """However many blocks begin, of however many sources, half of what is free is left."""
    volume = Volume(GIB)
    room = volume.room()
    for number in range(384):
        claim = room.begin(source=f"evil-{number % sources}", size=GIB)
        volume.write(room, claim, 350)
    good = room.begin(source="good", size=400 * MIB)
    for _ in range(400):
        volume.write(room, good, MIB)

    assert good.missing == 0


def test_share_of_a_source():
    """The reservations of one source have a limit, so its own blocks do not wait for them."""
    volume = Volume(10 * GIB)
    room = volume.room()
    for _ in range(384):
        room.begin(source="good", size=4 * GIB)
    claim = room.begin(source="good", size=8 * GIB)
    with pytest.raises(StoreFullError, match=r"32.0 MiB are promised to blocks that began"):
        room.take(claim, 10 * GIB - SHARE_BYTES)
    room.take(claim, 9 * GIB)


def test_promise_ends():
    """A block of which nothing new comes is promised nothing; what it wrote stays."""
    volume = Volume(5 * MIB)
    room = volume.room()
    claim = room.begin(source="good", size=5 * MIB)
    volume.write(room, claim, MIB)
    assert not begins(room)

    volume.now = FRESH_SECONDS
    assert begins(room)
    volume.write(room, claim, MIB)  # it is promised its rest again, now that more came
    assert not begins(room)


def test_promise_grows_with_what_came():
    """A block is promised an advance and as much again as came, and never more than its rest."""
    volume = Volume(10 * GIB)
    room = volume.room()
    claim = room.begin(source="good", size=GIB)
    assert 10 * GIB - ADVANCE_BYTES == room.free

    volume.write(room, claim, 100 * MIB)
    assert volume.free - ADVANCE_BYTES - 100 * MIB == room.free
    volume.write(room, claim, 900 * MIB)
    assert volume.free - 24 * MIB == room.free
    room.release(claim)
    assert volume.free == room.free


def test_what_is_written_now_counts():
    """Two blocks that write at the same moment do not get the same bytes."""
    volume = Volume(14 * MIB)
    room = volume.room(min_free=MIB)
    first = room.begin(source="a", size=100 * MIB)
    second = room.begin(source="b", size=100 * MIB)
    room.take(second, 9 * MIB - 2 * BESIDE_BYTES)
    with pytest.raises(StoreFullError, match=r"needs 4.0 MiB and 1.0 MiB that stay free"):
        room.take(first, 4 * MIB + 1)


def test_younger_one_yields():
    """Of two blocks that both wait, the younger one yields, if the older one can finish then."""
    volume = Volume(40 * MIB + 4 * BESIDE_BYTES)
    room = volume.room()
    older = room.begin(source="a", size=30 * MIB)
    younger = room.begin(source="b", size=30 * MIB)
    for claim in (older, younger):
        volume.now += FRESH_SECONDS
        volume.write(room, claim, 20 * MIB)
    assert not room.must_yield(older)
    for claim in (older, younger):
        with pytest.raises(StoreFullError):
            room.take(claim, 30 * MIB)

    assert (False, True) == (room.must_yield(older), room.must_yield(younger))
    volume.drop(room, younger)
    volume.write(room, older, 10 * MIB)


def test_nobody_yields_in_vain():
    """If the older block could not finish either, both wait and keep their bytes."""
    volume = Volume(40 * MIB + 4 * BESIDE_BYTES)
    room = volume.room()
    claims = [room.begin(source=source, size=60 * MIB) for source in "ab"]
    for claim in claims:
        volume.now += FRESH_SECONDS
        volume.write(room, claim, 20 * MIB)
    for claim in claims:
        with pytest.raises(StoreFullError):
            room.take(claim, 60 * MIB)

    assert [False, False] == [room.must_yield(claim) for claim in claims]


@pytest.mark.parametrize("number", range(20))
def test_no_room_is_wasted(number):
    """In any order of writes, the oldest block continues while its rest fits."""
    rng = random.Random(number)  # noqa: S311 - no secret
    volume = Volume(rng.randrange(200, 2000) * MIB)
    room = volume.room(min_free=MIB)
    open_, done, yielded = [], 0, 0
    for _ in range(20_000):
        volume.now += rng.choice([0.1, 0.1, 0.1, 20.0])
        if len(open_) < 6 and rng.random() < 0.1:
            size = rng.randrange(1, 257) * MIB
            with contextlib.suppress(StoreFullError):
                open_.append(room.begin(source=rng.choice("aab"), size=size))
        if not open_:
            continue
        claim = rng.choice(open_)
        try:
            volume.write(room, claim, min(claim.missing, rng.choice([100 * KIB, MIB, 16 * MIB])))
        except StoreFullError:
            if room.must_yield(claim):
                yielded += 1
                volume.drop(room, claim)
                open_.remove(claim)
        if not claim.missing:
            done += 1
            room.release(claim)
            open_.remove(claim)
        assert volume.free >= MIB

    assert done > 0
    assert yielded <= done + 6  # each makes an older one finish
    oldest = open_[0]
    others = sum(claim.came for claim in open_[1:])
    assert oldest.missing > volume.free + others - MIB - len(open_) * BESIDE_BYTES - 16 * MIB


def test_producer_on_a_full_volume():
    """Six blocks of one producer at once, where five have room: the sixth waits, none yields."""
    volume = Volume(21 * MIB)
    room = volume.room()
    first = [room.begin(source="good", size=4 * MIB) for _ in range(5)]
    assert not begins(room)

    for claim in first:
        for _ in range(4):
            volume.write(room, claim, MIB)
        room.release(claim)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, GIB), st.integers(0, GIB))))
def test_others_never_have_more_than_half(blocks):
    """Whatever is open, a new source may use half of the free space, less the metadata's."""
    volume = Volume(GIB)
    room = volume.room()
    for source, size, came in blocks:
        claim = room.begin(source=source, size=size)
        if came <= size:
            claim.came = came
    free = GIB // 2 - (len(blocks) + 1) * BESIDE_BYTES
    room.check(free)

    assert room.free >= GIB // 2
