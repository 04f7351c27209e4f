"""Workers prove themselves to each other: nothing that travels can be used for anything else."""

import pytest

from streamapp.errors import PeerError
from streamapp.web import worker_proofs
from tests.fakes import ManualClock


TOKEN = "t" * 20
KEY = worker_proofs.group_key(TOKEN, "g1")
PEER = "http://w2:6066"
NOW = 1_700_000_000.0
ASKED = {"method": "GET", "path": "/progress/?limit=5&local=1"}


@pytest.fixture
def clock():
    """The answering worker's clock."""
    return ManualClock(NOW)


@pytest.fixture
def reader(clock):
    """The answering worker."""
    return worker_proofs.RequestVerifier(KEY, PEER, clock)


def question(nonce="0" * 32, **fields):
    """Return a request to w2."""
    given = {"peer": PEER, "at": int(NOW), "nonce": nonce, **ASKED} | fields
    return worker_proofs.SignedRequest(**given)


def test_question(reader):
    """A request of a worker of the group is accepted, and both can prove the answer."""
    asked = question()
    found = reader.read(asked.credentials(KEY), **ASKED)

    assert asked == found
    assert asked.proof(KEY, status=200, body=b"{}") == found.proof(KEY, status=200, body=b"{}")


def test_no_token_travels():
    """Neither the token nor the key is in what is sent."""
    sent = question().credentials(KEY) + question().proof(KEY, status=200, body=b"")
    assert TOKEN not in sent
    assert KEY.hex() not in sent


@pytest.mark.parametrize(
    "other",
    [
        question(method="HEAD"),
        question(path="/machines/?local=1"),
        question(path="/progress/?limit=6&local=1"),
        question(peer="http://attacker:6066"),
    ],
)
def test_other_question(reader, other):
    """A proof is of one question to one address: handed on it is worth nothing."""
    with pytest.raises(PeerError, match="no worker of the group"):
        reader.read(other.credentials(KEY), **ASKED)


@pytest.mark.parametrize(
    "key", [worker_proofs.group_key("T" * 20, "g1"), worker_proofs.group_key(TOKEN, "g2"), b""]
)
def test_other_key(reader, key):
    """Another token, or another group, proves nothing."""
    with pytest.raises(PeerError):
        reader.read(question().credentials(key), **ASKED)


@pytest.mark.parametrize(
    "credentials",
    ["", "Bearer x", worker_proofs.SCHEME, f"{worker_proofs.SCHEME} 1 2 3", "\udcff", "x" * 9999],
)
def test_no_proof(reader, credentials):
    """Credentials that are no proof are refused in one line."""
    with pytest.raises(PeerError, match="no proof"):
        reader.read(credentials, **ASKED)


@pytest.mark.parametrize("ahead", [-301, 301, 86_400])
def test_old(reader, clock, ahead):
    """A request is valid for some minutes; a refusal reports how far apart the clocks are."""
    clock.now += ahead
    with pytest.raises(PeerError, match=f"{abs(ahead)} s apart, expected at most 300 s"):
        reader.read(question().credentials(KEY), **ASKED)


def test_repeated(reader, clock):
    """A question is taken once as long as it is not too old."""
    credentials = question().credentials(KEY)
    reader.read(credentials, **ASKED)
    for ahead in (0, 100, 199):
        clock.now += ahead
        with pytest.raises(PeerError, match="asked before"):
            reader.read(credentials, **ASKED)


def test_memory_is_bounded(reader, clock, monkeypatch):
    """Questions beyond the limit are refused, until the first ones are too old."""
    monkeypatch.setattr(worker_proofs, "MAX_NONCES", 3)
    for number in range(3):
        reader.read(question(f"{number:032x}").credentials(KEY), **ASKED)
    with pytest.raises(PeerError, match="too many"):
        reader.read(question(f"{9:032x}").credentials(KEY), **ASKED)

    clock.now += 301
    reader.read(question(f"{9:032x}", at=int(clock.now)).credentials(KEY), **ASKED)


@pytest.mark.parametrize(
    "other",
    [
        question().proof(KEY, status=200, body=b"{ }"),
        question().proof(KEY, status=404, body=b"{}"),
        question("1" * 32).proof(KEY, status=200, body=b"{}"),
        question().proof(worker_proofs.group_key("T" * 20, "g1"), status=200, body=b"{}"),
        question().credentials(KEY).split()[-1],
    ],
)
def test_answer(other):
    """A proof is of one answer to one question; a question does not prove an answer."""
    assert other != question().proof(KEY, status=200, body=b"{}")
