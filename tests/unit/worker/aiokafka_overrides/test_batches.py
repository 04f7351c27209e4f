"""Record batches: valid ones are decoded as aiokafka does, and bad ones stop no partition."""

import functools
import itertools
import struct
import subprocess
import sys
import tracemalloc
import zlib

import pytest

from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record import memory_records
from aiokafka.structs import TopicPartition
from hypothesis import example, given
from hypothesis import strategies as st

from streamapp.errors import BlockMalformedError
from streamapp.protocol import frames
from streamapp.worker import consumer
from streamapp.worker.aiokafka_overrides import batches
from streamapp.worker.aiokafka_overrides.batches import KEPT_HEADERS, MAX_PLAIN_BYTES, MemoryRecords
from tests.batches import CODECS, HEADER, bomb, built, compressed, fields_of, record_before, sealed
from tests.frames import frames_of


BASE = 1000
ABC = [(b"k", value, [("x", b"1")]) for value in (b"first", b"second", b"third")]
GOOD = built(ABC, base_offset=BASE)
FRAME, VALUE = frames_of(b"abc", frame_size=3)[0]
REFUSED = (b"", None)
TEXT_BYTES = st.none() | st.binary(max_size=40)
RECORDS = st.lists(
    st.tuples(
        TEXT_BYTES,
        TEXT_BYTES,
        st.lists(st.tuples(st.text(max_size=9), TEXT_BYTES), max_size=KEPT_HEADERS),
    ),
    min_size=1,
    max_size=9,
)


def fetched(data, *, reader=MemoryRecords, start=0):
    """Return the records that aiokafka's own fetcher takes from *data*, and its next offset."""
    place = TopicPartition("t", 0)
    arguments = {"check_crcs": True, "isolation_level": fetcher.READ_UNCOMMITTED}
    partition = fetcher.PartitionRecords(place, reader(data), None, start, None, None, **arguments)
    return list(partition), partition.next_fetch_offset


def values(data):
    """Return the offset, key and value of each record that the fetcher takes from *data*."""
    return [(r.offset, r.key, r.value) for r in fetched(data)[0]]


def whole(data):
    """Return whether *data* gave all its offsets in order, and the fetcher continues after it."""
    records, end = fetched(data)
    return [r.offset for r in records] == list(range(records[0].offset, end))


def reason(record):
    """Return why `frames.parse` refuses *record*."""
    with pytest.raises(BlockMalformedError) as caught:
        frames.parse(record.headers)
    return str(caught.value)


@given(RECORDS, st.sampled_from([0, 8, 16]), st.sampled_from([0, -1, 1 << 40]))
def test_same_as_aiokafka(records, attributes, stamp):
    """What aiokafka can decode is decoded as it does, to the last field."""
    fields = {"attributes": attributes, "first_timestamp": stamp, "max_timestamp": 5}
    data = built(records, base_offset=BASE, **fields) + built(ABC, base_offset=BASE + 50)

    assert fetched(data, reader=memory_records.MemoryRecords) == fetched(data)


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_compressed(codec):
    """A batch that Kafka or a producer compressed has the records that it had before."""
    records = [(b"k", bytes(100_000), [("x", b"1"), ("y", None)]) for _ in range(9)]
    plain = built(records, base_offset=BASE)
    packed = compressed(plain, codec)

    assert len(packed) < len(plain) / 100
    assert fetched(plain) == fetched(packed)


def test_from_the_middle():
    """A fetch that begins in the middle of a batch gets the records from there on."""
    assert [BASE + 2] == [r.offset for r in fetched(GOOD, start=BASE + 2)[0]]


def test_compacted():
    """Offsets that compaction removed are skipped, between the records and after them."""
    body = bytearray(GOOD[HEADER.size :])
    places = [at + 3 for at in record_starts(GOOD)]
    for place, delta in zip(places, (1, 4, 6), strict=True):
        body[place] = 2 * delta
    records, end = fetched(sealed(GOOD, bytes(body), last_offset_delta=9))

    assert [BASE + 1, BASE + 4, BASE + 6] == [r.offset for r in records]
    assert BASE + 10 == end


def record_starts(batch):
    """Return where each record begins in the body of an uncompressed *batch* of short records."""
    body, at, starts = batch[HEADER.size :], 0, []
    while at < len(body):
        starts.append(at)
        at += 1 + body[at] // 2
    return starts


def test_control_batch():
    """Kafka's control batches of transactions are skipped, even if they cannot be decoded."""
    control = sealed(GOOD, b"???", attributes=0x20 | 0x10 | 3)
    later = built(ABC, base_offset=BASE + 3)

    assert fetched(later) == fetched(control + later)
    assert ([], BASE + 3) == fetched(control)


def test_fault_of_aiokafka():
    """Aiokafka's own reader raises on a header that is not UTF-8; if not, delete the override."""
    data = built([(b"k", b"v", [("name", b"1")])]).replace(b"name", b"\xff\xfe\xfd\xfc")
    with pytest.raises(UnicodeDecodeError):
        fetched(sealed(data), reader=memory_records.MemoryRecords)


@pytest.mark.parametrize("codec", [None, "gzip", "zstd"])
@pytest.mark.parametrize("name", [b"\xff\xfe\xfd\xfc", b"\xed\xa0\x80.", b"sal\xe9"])
def test_header_name(codec, name):
    """A header whose name is not UTF-8 is ignored, and the frame is valid."""
    data = built([(FRAME.key, VALUE, [*frames.encode(FRAME), ("NAME", b"1")]), *ABC])
    data = sealed(data, data[HEADER.size :].replace(b"NAME", name))
    records, end = fetched(compressed(data, codec) if codec else data)

    assert 4 == len(records) == end
    assert (name.decode("utf-8", "backslashreplace"), b"1") == records[0].headers[-1]
    assert (FRAME, VALUE) == (frames.parse(records[0].headers), records[0].value)


def test_many_headers():
    """Of 200,000 headers only so many are decoded that the record is malformed."""
    headers = [(f"{n}", b"") for n in range(200_000)]
    data = built([(FRAME.key, VALUE, frames.encode(FRAME) + headers), *ABC])
    tracemalloc.start()
    try:
        records, end = fetched(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert 4 == len(records) == end
    assert "more than 8 headers" in reason(records[0])
    assert b"first" == records[1].value
    assert peak < 100_000


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (compressed(GOOD, "snappy"), "compressed with snappy, which is not read"),
        (compressed(GOOD, "lz4"), "compressed with lz4, which is not read"),
        (sealed(GOOD, attributes=5), "compressed with codec 5"),
        (sealed(GOOD, attributes=7), "compressed with codec 7"),
        (sealed(GOOD, attributes=1), "no gzip: "),
        (sealed(GOOD, attributes=4), "no zstd: "),
        (sealed(GOOD, b"", attributes=1), "a record whose fields do not fit into it"),
        (sealed(GOOD, b"", attributes=4), "a record whose fields do not fit into it"),
        (sealed(GOOD, b""), "a record whose fields do not fit into it"),
        (sealed(GOOD, b"\xff" * 60), "a record whose fields do not fit into it"),
        (sealed(GOOD, b"\x01" * 60), "a record of -1 bytes"),
        (sealed(GOOD, b"\x7e" * 60), "a record of 63 bytes, 59 are left"),
        (sealed(GOOD, b"\x0c\0\0\0\x7e" + bytes(99)), "a field of 63 bytes in a record that has"),
        (sealed(GOOD, b"\x10\0\0\0\1\1\0" + bytes(99)), "a record that ends -2 bytes"),
        (sealed(GOOD, count=0), "bytes behind its 0 records"),
        (sealed(GOOD, count=-1), "bytes behind its -1 records"),
    ],
)
def test_refused(batch, said):
    """For each offset of a batch that cannot be decoded there is a record with the reason."""
    later = built(ABC, base_offset=BASE + 3)
    records, end = fetched(batch + later)

    assert [REFUSED] * 3 == [(r.key, r.value) for r in records[:3]]
    for record in records[:3]:
        assert "a record batch that cannot be read" in reason(record)
        assert said in reason(record)
    assert values(later) == [(r.offset, r.key, r.value) for r in records[3:]]
    assert (whole(batch), BASE + 6) == (True, end)


@pytest.mark.parametrize("codec", [None, "gzip", "zstd"])
@pytest.mark.parametrize("wrong", ["cut", "too few", "offset"])
def test_rest_refused(codec, wrong):
    """Records before the damage are decoded; all records after it are refused."""
    second = record_starts(GOOD)[1]
    body = bytearray(GOOD[HEADER.size :])
    changes = {}
    if wrong == "cut":
        body = body[: second + 9]
    elif wrong == "too few":
        changes["count"] = 1
    else:
        body[second + 3] = 2 * 3  # an offset behind the batch
    batch = sealed(GOOD, bytes(body), **changes)
    if codec:
        batch = compressed(batch, codec)

    assert [(BASE, b"k", b"first"), *((BASE + n, *REFUSED) for n in (1, 2))] == values(batch)


@pytest.mark.parametrize("delta", [-1000, -1, 0, 3, 1 << 30, -(1 << 60), 1 << 60])
def test_forged_offset(delta):
    """No record has an offset that is not its batch's, or not above the one before it.

    Kafka believes producers in this, when nothing is compressed. A commit would follow it, and
    pass all that was never read.
    """
    good = GOOD[HEADER.size :][: record_starts(GOOD)[1]]
    batch = sealed(GOOD, good + record_before(1, offset=delta) + b"x\0", count=2)

    assert [(BASE, b"k", b"first"), *((BASE + n, *REFUSED) for n in (1, 2))] == values(batch)
    assert "expected 1001 to 1002" in reason(fetched(batch)[0][1])


@pytest.mark.parametrize("delta", [-1, -4, -(1 << 31)])
def test_forged_end(delta):
    """A batch whose end is before its beginning does not make the fetcher go back."""
    assert ([(BASE, b"k", b"first")], BASE + 1) == (
        values(batch := sealed(GOOD, last_offset_delta=delta)),
        fetched(batch)[1],
    )


def test_huge_refusal():
    """A batch that covers two thousand million offsets takes memory only for what is read."""
    batch = sealed(GOOD, count=(1 << 31) - 1, last_offset_delta=(1 << 31) - 1)
    records = itertools.islice(MemoryRecords(batch).next_batch(), 64)

    assert [BASE + n for n in range(64)] == [r.offset for r in records]


@pytest.mark.parametrize("place", [HEADER.size, HEADER.size + 20, 24, len(GOOD) - 1])
def test_check_sum(place):
    """A batch with a wrong CRC is fetched again, as aiokafka does it."""
    data = bytearray(GOOD)
    data[place] ^= 1

    with pytest.raises(CorruptRecordException, match="Invalid CRC"):
        fetched(bytes(data))


@pytest.mark.parametrize("length", [-(1 << 31), -13, -12, -1, 0, 3, 4, 5, 48])
def test_too_short(length):
    """Bytes shorter than a batch's header are no batch, and are fetched again."""
    data = GOOD[:8] + struct.pack(">i", length) + GOOD[12:]

    with pytest.raises(CorruptRecordException, match="less than its own header"):
        fetched(bytes(data))


@pytest.mark.parametrize("cut", [1, 50, len(GOOD) - 12, len(GOOD) - 1, len(GOOD)])
def test_cut_off(cut):
    """An incomplete last batch of a response is left for the next fetch."""
    data = GOOD + built(ABC, base_offset=BASE + 3)[:-cut]

    assert (fetched(GOOD), len(data)) == (fetched(data), MemoryRecords(data).size_in_bytes())
    assert not MemoryRecords(GOOD[:-cut]).has_next()
    assert MemoryRecords(GOOD[:-cut]).next_batch() is None


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("attributes", [0, 1, 2, 3, 7])
def test_old_format(magic, attributes):
    """A record of a format without headers is refused, compressed or not; its check sum counts."""
    body = struct.pack(">bb", magic, attributes) + bytes(20)
    old = struct.pack(">qiI", BASE, len(body) + 4, zlib.crc32(body)) + body
    data = old + built(ABC[:1], base_offset=BASE + 1)
    records, end = fetched(data)

    assert [(BASE, *REFUSED), (BASE + 1, b"k", b"first")] == values(data)
    assert "before Kafka 0.11" in reason(records[0])
    assert BASE + 2 == end
    with pytest.raises(CorruptRecordException):
        fetched(old[:-1] + b"\1")


@functools.cache
def seeds():
    """Batches of all kinds, for a mutation to begin with."""
    return [GOOD, *(compressed(GOOD, codec) for codec in CODECS)]


@given(st.data())
def test_anything(data):
    """Any batch with a valid CRC gives only records with offsets of the batch."""
    batch = data.draw(st.sampled_from(seeds()))
    body = bytearray(batch[HEADER.size :])
    for place, byte in data.draw(
        st.lists(st.tuples(st.integers(0, len(body) - 1), st.integers(0, 255)), max_size=8)
    ):
        body[place] = byte
    cut = data.draw(st.integers(0, len(body)))
    body = bytes(body[:cut]) if data.draw(st.booleans()) else bytes(body)
    changes = {
        "attributes": st.integers(0, 0x1F) | st.just(fields_of(batch)["attributes"]),
        "last_offset_delta": st.integers(-3, 9),
        "count": st.integers(-3, 9),
    }
    changed = sealed(batch, body, **{k: data.draw(v) for k, v in changes.items()})

    records, end = fetched(changed)
    offsets = [r.offset for r in records]

    assert offsets == sorted(set(offsets) & set(range(BASE, end)))
    assert end == BASE + 1 + max(0, fields_of(changed)["last_offset_delta"])


@given(st.binary(max_size=200))
@example(GOOD[:16] + b"\2")
def test_any_bytes(data):
    """Bytes that are no batches are fetched again or ignored."""
    try:
        fetched(data)
    except CorruptRecordException:
        return

    assert b"" == data or fetched(data)[0] == []


UNDER_A_LIMIT = """
import resource, sys
from streamapp.worker.aiokafka_overrides.batches import MemoryRecords
data = sys.stdin.buffer.read()
size, headroom = int(sys.argv[1]), int(sys.argv[2])
with open("/proc/self/statm") as statm:
    used = int(statm.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + headroom, used + headroom))
try:
    bytearray(size)
except MemoryError:
    print("limited")
for record in MemoryRecords(data).next_batch():
    print(record.offset, len(record.value or b""), *record.headers)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory, and asks /proc how much it is")
@pytest.mark.parametrize("codec", CODECS)
def test_bomb(codec):
    """A few KiB that decompress to 256 MiB are refused within limited memory."""
    size, headroom = 4 * MAX_PLAIN_BYTES, 3 * MAX_PLAIN_BYTES
    packed = bomb(codec, size)
    command = [sys.executable, "-c", UNDER_A_LIMIT, str(size), str(headroom)]
    child = subprocess.run(command, input=packed, capture_output=True, check=True)
    limited, *refused = child.stdout.decode().splitlines()

    assert len(packed) < size // 15
    assert "limited" == limited
    assert 1 == len(refused)
    assert refused[0].startswith("0 0 ('refused', b'")
    assert codec in refused[0]


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_largest(codec):
    """A batch just within the limit is decoded."""
    (record,) = fetched(bomb(codec, MAX_PLAIN_BYTES - 100))[0]

    assert MAX_PLAIN_BYTES - 100 == len(record.value)


def test_fetcher_asks_for_it(monkeypatch):
    """Aiokafka's fetcher takes the class from where `install_overrides` puts it.

    When this fails, aiokafka was changed: look for where it makes its `MemoryRecords` now.
    """
    monkeypatch.setattr(fetcher, "MemoryRecords", fetcher.MemoryRecords)
    monkeypatch.setattr(consumer.responses, "receive_straight", lambda **_: None)
    monkeypatch.setattr(consumer.own_fetcher, "ask_soon_again", lambda: None)
    consumer.install_overrides(on_response=lambda: None)

    assert batches.MemoryRecords is fetcher.MemoryRecords
    makers = [m for m in vars(fetcher.Fetcher).values() if "MemoryRecords" in names_in(m)]
    assert [fetcher.Fetcher._proc_fetch_request] == makers


def names_in(method):
    """Return the globals and attributes that *method* uses."""
    code = getattr(method, "__code__", None)
    return code.co_names if code else ()


def test_shape():
    """All that aiokafka's fetcher asks of a batch and of a record is there.

    When this fails, aiokafka was changed: `streamapp.worker.aiokafka_overrides.batches` must have
    what it asks for.
    """
    readers = [memory_records.MemoryRecords(GOOD), MemoryRecords(GOOD)]
    found = [reader.next_batch() for reader in readers]
    records = [next(iter(batch)) for batch in found]
    reading = fetcher.PartitionRecords
    for method, (theirs, ours) in [
        (fetcher.Fetcher._proc_fetch_request, readers),
        (reading._unpack_records, readers),
        (reading._unpack_records, found),
        (reading._consumer_record, records),
    ]:
        asked = set(names_in(method)) & set(dir(theirs))
        assert asked
        assert asked <= set(dir(ours))
