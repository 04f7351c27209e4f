"""The assignor gives partitions to the workers of the group, whatever other members send."""

import json
import zlib

import pytest

from aiokafka.coordinator.protocol import (
    ConsumerProtocolMemberAssignment,
    ConsumerProtocolMemberMetadata,
)
from faust.assignor.partition_assignor import PartitionAssignor

from streamapp.worker import assignor


class Cluster:
    """What aiokafka knows of the topics."""

    def __init__(self, widths):
        self._widths = widths

    def partitions_for_topic(self, topic):
        """Return the numbers of the partitions of *topic*."""
        return set(range(self._widths[topic]))


@pytest.fixture
def known(faust_app):
    """The topics that a worker subscribes to, with their widths."""
    return assignor.widths(faust_app.settings)


@pytest.fixture
def cluster(known):
    """A cluster that has those topics."""
    return Cluster(known)


@pytest.fixture
def ours(faust_app):
    """The assignor of a worker."""
    return assignor.GroupAssignor(faust_app)


def said(url="http://w1:6066", *, actives=None, **other):
    """Return a worker's metadata as bytes."""
    plain = {
        "assignment": {"actives": actives or {}, "standbys": {}},
        "url": url,
        "changelog_distribution": {},
        "external_topic_distribution": {},
        "topic_groups": {},
    }
    return json.dumps(plain | other).encode()


def member(known, user_data, subscription=None):
    """Return a member's metadata, read from what it sent."""
    topics = list(known) if subscription is None else subscription
    raw = ConsumerProtocolMemberMetadata(0, topics, user_data).encode()
    return assignor.MemberMetadata(known).decode(raw)


def assigned(assignment):
    """Return the partitions of an assignment."""
    return {(topic, p) for topic, partitions in assignment.assignment for p in partitions}


def every(known):
    """Return all partitions of *known*."""
    return {(topic, p) for topic, width in known.items() for p in range(width)}


HOSTILE = {
    "nothing": b"",
    "null": None,
    "no text": b"\xff\xfe",
    "no JSON": b"{",
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "too much": said(topic_groups={"x" * assignor.MAX_METADATA_BYTES: 1}),
    "a file": said("file:///etc/passwd"),
    "with a user": said("http://user@w1:6066"),
    "with a path": said("http://w1:6066/x?y="),
    "of two lines": said("http://w1:6066\nx"),
    "a long address": said("http://" + "a" * 300),
    "no address": said(""),
    "negative": said(actives={"data-blocks": [-1]}),
    "no numbers": said(actives={"data-blocks": ["x"]}),
    "other types": said(assignment=7),
    "a hostile distribution": said(changelog_distribution={"gopher://x": {}}),
}


@pytest.mark.parametrize("user_data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_member(ours, cluster, known, caplog, user_data):
    """A member whose metadata breaks a rule gets nothing; the worker gets all, with a warning."""
    members = {"w1": member(known, said()), "x\x1b[31m": member(known, user_data)}
    found = ours.assign(cluster, members)

    assert (every(known), set()) == (assigned(found["w1"]), assigned(found["x\x1b[31m"]))
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "x\\x1b[31m" in warning
    assert "gets no partitions" in warning


@pytest.mark.parametrize("raw", [b"", b"\x00", b"\x00\x00\x7f\xff\xff\xff", b"\xff" * 100])
def test_unreadable_member(ours, cluster, known, raw):
    """A member whose metadata are not in Kafka's format gets no partitions either."""
    broken = assignor.MemberMetadata(known).decode(raw)
    found = ours.assign(cluster, {"w1": member(known, said()), "x": broken})

    assert (every(known), set()) == (assigned(found["w1"]), assigned(found["x"]))


def test_topics_of_a_member(ours, cluster, known):
    """Other topics that a member subscribes to are neither requested nor assigned."""
    for topics in (["secret", *known], ["secret"], []):
        other = member(known, said("http://w2:6066"), topics)
        assert set(other.subscription) <= set(known)
        found = ours.assign(cluster, {"w1": member(known, said()), "w2": other})
        assert every(known) == assigned(found["w1"]) | assigned(found["w2"])
        assert bool(set(topics) & set(known)) == bool(assigned(found["w2"]))


def test_workers(ours, cluster, known):
    """Workers share the partitions and keep theirs; partitions that do not exist are ignored."""
    blocks = max(known, key=known.get)
    had = {blocks: [4, 5, 5, 6, 2_000_000_000], "secret": [0]}
    members = {
        "w1": member(known, said()),
        "w2": member(known, said("http://w2:6066", actives=had)),
    }
    found = ours.assign(cluster, members)

    first, second = assigned(found["w1"]), assigned(found["w2"])
    assert (every(known), set()) == (first | second, first & second)
    assert {(blocks, 4), (blocks, 5)} <= second
    everyone = assignor.decode(zlib.decompress(found["w1"].user_data))
    assert {"http://w1:6066", "http://w2:6066"} == set(everyone.changelog_distribution)


def test_faust_needs_it(faust_app, cluster, known):
    """Faust's own assignor fails on one such member; if not, ours may be deleted."""
    members = {"w1": member(known, said()), "x": member(known, b"\xff")}
    with pytest.raises(Exception, match=r"utf-8|JSON|decode|unexpected"):
        PartitionAssignor(faust_app).assign(cluster, members)


# --- what the leader assigned


@pytest.fixture
def leader_said(ours, cluster, known):
    """What the leader sends to the worker w1, of two."""
    members = {"w1": member(known, said()), "w2": member(known, said("http://w2:6066"))}
    return ours.assign(cluster, members)["w1"]


@pytest.fixture
def read(known, ours, monkeypatch):
    """Reads what a leader sent to w1."""
    monkeypatch.setattr(type(ours), "_url", "http://w1:6066")
    return assignor.MemberAssignment(known, "http://w1:6066").decode


def test_assignment(ours, read, leader_said):
    """A valid assignment of the leader is unchanged."""
    found = read(leader_said.encode())
    assert assigned(leader_said) == assigned(found) != set()
    ours.on_assignment(found)
    assert assigned(found) == {(tp.topic, tp.partition) for tp in ours.assigned_actives()}


def changed(leader_said, *, lists=None, **fields):
    """Return an assignment with other *lists* in Kafka's part, and *fields* in Faust's."""
    plain = json.loads(zlib.decompress(leader_said.user_data))
    user_data = zlib.compress(json.dumps(plain | fields).encode())
    return packed(leader_said.assignment if lists is None else lists, user_data)


def packed(lists, user_data):
    """Return an assignment as bytes."""
    return ConsumerProtocolMemberAssignment(0, lists, user_data).encode()


def both(leader_said, topic, partition):
    """Return an assignment of one partition that both parts agree on."""
    actives = {"actives": {topic: [partition]}, "standbys": {}}
    return changed(leader_said, lists=[(topic, [partition])], assignment=actives)


LIES = {
    "nothing": lambda _: b"",
    "no format": lambda _: b"\xff" * 50,
    "no metadata": lambda said: packed(said.assignment, b""),
    "no zlib": lambda said: packed(said.assignment, b"x"),
    "a bomb": lambda said: packed(said.assignment, zlib.compress(b"[" * (64 << 20))),
    "two lists": lambda said: changed(said, lists=said.assignment[1:]),
    "for another worker": lambda said: changed(said, url="http://w2:6066"),
    "unknown topic": lambda said: both(said, "x", 0),
    "unknown partition": lambda said: both(said, "data-blocks", 6),
    "hostile address": lambda said: changed(said, changelog_distribution={"http://u@x/": {}}),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_hostile_leader(ours, read, leader_said, caplog, lie):
    """A leader that assigns what cannot be read leaves the worker without partitions."""
    found = read(lie(leader_said))

    assert set() == assigned(found)
    assert "no partitions until the group changes" in caplog.text
    ours.on_assignment(found)
    assert set() == ours.assigned_actives()
