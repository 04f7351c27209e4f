"""Acknowledgements and status: what one of us writes every one of us reads, and no more."""

import json

import msgspec
import pytest

from hypothesis import given
from hypothesis import strategies as st

from streamapp.errors import BlockMalformedError
from streamapp.producer import run
from streamapp.protocol import frames, messages
from streamapp.protocol.messages import BlockAck, FailedBlock, FileStatus, Heartbeat, Quarantined
from tests.frames import FILE_ID


ACK = BlockAck(
    file_id=FILE_ID,
    block=0,
    blocks=1,
    group="g",
    machine="m",
    outcome="persisted",
    attempt=1,
    size=3,
    sha256="ab" * 32,
)
FILE = FileStatus(
    file_id=FILE_ID, state="sent", name="a", size=3, blocks=1, block_size=3, source="laptop"
)
MACHINE = Heartbeat(machine="m", group="g", state="running", partitions=(0, 5))
SET_ASIDE = Quarantined(machine="m", group="g", topic="data-blocks", partition=1, offset=2)
ALL = [ACK, FILE, MACHINE, SET_ASIDE]
HOSTILE = "\x00\x1b\udcff\ud800\U0010ffff"


def read(record):
    """Return *record* as another machine reads it."""
    raw = messages.encode(record)
    return messages.decode_ack(raw) if isinstance(record, BlockAck) else messages.decode_status(raw)


def changed(record, **fields):
    """Return *record* as JSON, with *fields* that none of us writes."""
    return json.dumps(json.loads(messages.encode(record)) | fields).encode()


def refuse(raw):
    """Assert that *raw* is refused, as an acknowledgement and as status."""
    for decode in (messages.decode_ack, messages.decode_status):
        with pytest.raises(BlockMalformedError):
            decode(raw)


@pytest.mark.parametrize("record", ALL, ids=lambda r: type(r).__name__)
def test_round_trip(record):
    """A record that is encoded and decoded is unchanged, and has its kind."""
    assert record == read(record)
    assert type(record).__struct_config__.tag == json.loads(messages.encode(record))["kind"]


@pytest.mark.parametrize("record", ALL, ids=lambda r: type(r).__name__)
def test_newer_writer(record):
    """A field that a newer version added does not keep an older one from reading the rest."""
    raw = changed(record, added_later={"x": [1, None]})

    assert record == (messages.decode_ack if record is ACK else messages.decode_status)(raw)


@given(st.text(st.characters(exclude_categories=()), max_size=9), st.sampled_from([0, 1, 3000]))
def test_any_reason(text, times):
    """A reason may quote anything, of any length: the record is still one that is read."""
    reason = text + HOSTILE * times
    for record in ALL:
        told = msgspec.structs.replace(record, reason=reason)

        assert told == read(told)
    failed = msgspec.structs.replace(FILE, failed_blocks=(FailedBlock(0, reason),) * 100)

    assert failed == read(failed)


def test_largest():
    """The largest record that can be written is read, and fits into Kafka's default 1 MB."""
    largest = FileStatus(
        file_id=FILE_ID,
        state="failed",
        name="\x01" * 4096,
        size=1,
        blocks=1 << 20,
        block_size=1,
        source="\x01" * 255,
        reason="\x01" * 9999,
        failed_blocks=(FailedBlock((1 << 20) - 1, "\x01" * 9999),) * 100,
    )

    assert largest == read(largest)
    assert messages.MAX_RECORD_BYTES < 1_000_000


def test_keys():
    """Compaction keeps one record for each block and group, file, machine and place."""
    rejected = msgspec.structs.replace(ACK, outcome="rejected")
    lost = msgspec.structs.replace(ACK, outcome="lost")

    assert f"{FILE_ID}:0:g".encode() == ACK.key == lost.key
    assert f"{FILE_ID}:0:g:rejected".encode() == rejected.key
    assert FILE_ID.encode() == FILE.key
    assert b"m:g" == MACHINE.key
    assert b"g:data-blocks:1:2" == SET_ASIDE.key


@pytest.mark.parametrize(
    "raw",
    [
        *(None, b"", b" ", b"null", b"true", b"0", b'""', b"[]", b"{}", b"NaN", b"\xff", b"\0"),
        b'{"kind":"block"}',
        b'{"kind":"nothing"}',
        b'{"kind":null}',
        b"[" * 60_000,
        b'{"a":' * 12_000,
        b'{"kind":"machine","x":' + b"[" * 60_000,
        b'{"kind":"block","x":' + b"[" * 60_000,
        b'{"kind":"machine","machine":"\\ud800","group":"g","state":"running"}',
        b" " * (messages.MAX_RECORD_BYTES + 1),
        messages.encode(ACK)[:-1],
        messages.encode(ACK) + b"{}",
        b"\x00\x00\x00\x00\x01" + messages.encode(ACK),
    ],
)
def test_foreign(raw):
    """A record that violates the protocol is refused, however deep, long or damaged it is."""
    refuse(raw)


def test_kinds_do_not_mix():
    """An acknowledgement is no status, and the other way round."""
    with pytest.raises(BlockMalformedError):
        messages.decode_status(messages.encode(ACK))
    for record in ALL[1:]:
        with pytest.raises(BlockMalformedError):
            messages.decode_ack(messages.encode(record))


@pytest.mark.parametrize(
    "fields",
    [
        {"file_id": "ab" * 15},
        {"file_id": FILE_ID.upper()},
        {"file_id": FILE_ID + "\n"},
        {"block": 1},
        {"block": -1},
        {"block": 0.0},
        {"block": True},
        {"block": "0"},
        {"blocks": 0},
        {"blocks": (1 << 20) + 1},
        {"blocks": 10**400},
        {"group": ""},
        {"group": "g:0"},
        {"machine": "../m"},
        {"machine": "m\n"},
        {"outcome": "Persisted"},
        {"outcome": None},
        {"attempt": 1 << 63},
        {"size": (4 << 30) + 1},
        {"file_size": 1 << 53},
        {"sha256": ""},
        {"sha256": "ab" * 31},
        {"sha256": "ab" * 32 + "\n"},
        {"name": "x" * 4097},
        {"reason": "x" * 2001},
        {"at": -1},
        {"at": 1e308},
        {"at": float("nan")},
        {"at": float("inf")},
        {"at": "now"},
    ],
)
def test_impossible_ack(fields):
    """An acknowledgement that cannot be is refused: no bitmap, sum or date is made of it."""
    refuse(changed(ACK, **fields))


@pytest.mark.parametrize(
    ("record", "fields"),
    [
        (FILE, {"state": "done"}),
        (FILE, {"blocks": 0}),
        (FILE, {"size": -1}),
        (FILE, {"size": 1 << 53}),
        (FILE, {"failed_blocks": [[0, "x"]] * 101}),
        (FILE, {"failed_blocks": [{"block": 1 << 20, "reason": ""}]}),
        (FILE, {"failed_blocks": [{"block": 0, "reason": "x" * 201}]}),
        (MACHINE, {"rate": -1}),
        (MACHINE, {"rate": float("inf")}),
        (MACHINE, {"bytes": 1 << 53}),
        (MACHINE, {"free_disk": 10**30}),
        (MACHINE, {"partitions": [-1]}),
        (MACHINE, {"partitions": [1 << 31]}),
        (MACHINE, {"partitions": [0] * 1001}),
        (MACHINE, {"started_at": 1e12}),
        (MACHINE, {"web_url": "javascript:alert(1)"}),
        (MACHINE, {"web_url": "file:///etc/passwd"}),
        (MACHINE, {"web_url": "http://w1:6066/x"}),
        (MACHINE, {"web_url": "http://user@w1:6066"}),
        (MACHINE, {"web_url": "http://w1:6066\n"}),
        (MACHINE, {"web_url": "http://" + "a" * 300}),
        (SET_ASIDE, {"file_id": "x"}),
        (SET_ASIDE, {"offset": 1 << 53}),
        (SET_ASIDE, {"path": None}),
    ],
)
def test_impossible_status(record, fields):
    """A status that cannot be is refused, each number above its ceiling."""
    refuse(changed(record, **fields))


def test_persisted_has_its_digest():
    """Only what says which bytes are persisted says that a block is; a rejection needs none."""
    rejected = msgspec.structs.replace(ACK, outcome="rejected", sha256="")

    assert rejected == read(rejected)
    refuse(changed(ACK, sha256=""))


@given(st.lists(st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9)))
def test_any_json(value):
    """Arbitrary JSON is refused, and nothing else happens."""
    refuse(json.dumps(value).encode())


@given(
    st.sampled_from(ALL),
    st.sampled_from(sorted({f for r in ALL for f in r.__struct_fields__})),
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9),
)
def test_any_field(record, field, value):
    """A record in which one field is anything is refused, or can be written and read again."""
    decode = messages.decode_ack if record is ACK else messages.decode_status
    try:
        found = decode(changed(record, **{field: value}))
    except BlockMalformedError:
        return

    assert found == decode(messages.encode(found))


def whole_numbers(kind):
    """Return the limits of all whole numbers in records of *kind*, by field."""
    found = {}
    for field in msgspec.inspect.type_info(kind).fields:
        inner = getattr(field.type, "item_type", field.type)
        for one in getattr(inner, "types", [inner]):
            if isinstance(one, msgspec.inspect.IntType):
                found[field.name] = (one.lt - 1) if one.le is None else one.le
    return found


@pytest.mark.parametrize(
    "kind", [BlockAck, FileStatus, FailedBlock, Heartbeat, Quarantined], ids=lambda k: k.__name__
)
def test_numbers_are_exact_in_json(kind):
    """No whole number of a record is larger than every reader of JSON can hold exactly.

    Larger attempts are read, because older producers made them; no new frame has one.
    """
    limits = whole_numbers(kind)
    assert limits
    if kind is BlockAck:
        assert frames.MAX_OLD_ATTEMPT == limits.pop("attempt")
        assert frames.MAX_ATTEMPT < 1 << 53

    assert {name: most for name, most in limits.items() if most >= 1 << 53} == {}


def test_first_attempt():
    """A run's attempts stay below 2^53 when a million blocks are sent again, and differ."""
    first = [run.first_attempt() for _ in range(100)]

    assert max(first) + 10**6 < frames.MAX_ATTEMPT
    assert len(set(first)) > 90
