"""Kafka's answers about groups: an incomplete answer must not count as a complete one."""

import pathlib

from types import SimpleNamespace

import pytest

from confluent_kafka import ConsumerGroupState
from confluent_kafka import KafkaError as Code

import streamapp

from streamapp.errors import BrokerUnreachableError, ClusterError
from streamapp.kafka import groups


GONE = Code._TRANSPORT
LOADING = Code.COORDINATOR_LOAD_IN_PROGRESS


class Admin:
    """Gives one answer after the other: names of groups that are up, and codes of errors."""

    def __init__(self, *answers):
        self._answers = list(answers)

    def list_consumer_groups(self, **_):
        """Return the next answer as a future."""
        names, codes = self._answers.pop(0)
        listed = SimpleNamespace(
            valid=[SimpleNamespace(group_id=n, state=ConsumerGroupState.STABLE) for n in names],
            errors=[Code(code) for code in codes],
        )
        return SimpleNamespace(result=lambda *_, **__: listed)


def test_names():
    """All groups of the cluster."""
    assert ["a", "b"] == groups.names(Admin((["a", "b"], [])))


@pytest.mark.parametrize("code", [GONE, LOADING, Code.CLUSTER_AUTHORIZATION_FAILED])
def test_names_that_are_not_all(code):
    """Groups of a broker that does not answer are unknown: what they need must not be deleted."""
    with pytest.raises(ClusterError, match="cannot list all groups"):
        groups.names(Admin((["a"], [code])))


@pytest.mark.parametrize("code", [GONE, LOADING])
def test_is_up_after_a_while(monkeypatch, code):
    """The request for a group is retried while its broker is replaced."""
    monkeypatch.setattr(groups, "_POLL_SECONDS", 0)

    assert groups.is_up(Admin((["a"], [code]), (["a", "g"], [])), "g")
    assert not groups.is_up(Admin((["a"], [code]), (["a"], [])), "g")


def test_is_up_and_not_known():
    """A state that stays unknown raises an error after the given patience."""
    with pytest.raises(BrokerUnreachableError, match="cannot see group g"):
        groups.is_up(Admin((["a"], [GONE])), "g", patience=-1)


def test_refused():
    """A refusal raises an error at once."""
    with pytest.raises(ClusterError, match="cannot see group g"):
        groups.is_up(Admin(([], [Code.GROUP_AUTHORIZATION_FAILED])), "g")


@pytest.mark.parametrize("name", ["describe_consumer_groups", "list_consumer_group_offsets"])
def test_coordinators_are_not_asked(name):
    """Librdkafka's admin requests to a group's coordinator have aborted the process."""
    sources = pathlib.Path(streamapp.__file__).parent.rglob("*.py")

    assert [] == [path.name for path in sources if f"{name}(" in path.read_text("utf-8")]
