"""Topics: one declaration, and a check that says which command mends what is wrong."""

import types

from concurrent.futures import Future

import pytest

from confluent_kafka import KafkaError, KafkaException

from streamapp.errors import BrokerDeniedError, BrokerUnreachableError, TopicError
from streamapp.kafka import topic_admin
from streamapp.kafka.topic_admin import TopicState
from streamapp.protocol import topics
from streamapp.protocol.frames import MAX_FRAMES, OVERHEAD_BYTES
from streamapp.settings import Settings


@pytest.fixture
def settings():
    """Settings by default."""
    return Settings(machine_id="m")


@pytest.fixture
def states(settings, monkeypatch):
    """The answers of a cluster with all topics configured; a test may change them."""
    states = {
        spec.name: TopicState(spec.name, spec.partitions, 3, dict(spec.config))
        for spec in topic_admin.specs(settings)
    }
    monkeypatch.setattr(topic_admin.clients, "admin", lambda _: None)
    monkeypatch.setattr(
        topic_admin.clients,
        "topics",
        lambda *_: {n: [s.replicas] * s.partitions for n, s in states.items()},
    )
    monkeypatch.setattr(topic_admin, "_config", lambda _, name: states[name].config)
    return states


def problem(settings):
    """Return what the check says."""
    with pytest.raises(TopicError) as caught:
        topic_admin.check(settings)
    return str(caught.value)


def test_as_fixed(settings):
    """Names, widths and clean-up of the topics are a contract with every other machine."""
    found = {
        s.name: (s.partitions, s.config["cleanup.policy"]) for s in topic_admin.specs(settings)
    }

    assert {
        "data-blocks": (6, "delete"),
        "processing-status": (3, "compact"),
        "block-acknowledgments": (3, "compact"),
    } == found


def test_tables_are_as_wide_as_their_sources(settings):
    """A changelog has the width of the topics that fill its table, or Faust refuses to start."""
    assert [
        (f"distributed-processors-{table}-changelog", topics.FILE_PARTITIONS, "compact")
        for table in ("files", "block_map", "machines")
    ] == [
        (s.name, s.partitions, s.config["cleanup.policy"]) for s in topic_admin.changelogs(settings)
    ]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, ("259200000", "-1")),
        ({"retention_hours": 0.5, "retention_size": "1GiB"}, ("1800000", "1073741824")),
        ({"retention_hours": 876_000}, ("3153600000000", "-1")),
    ],
)
def test_retention(flags, expected):
    """Hours and bytes of retention reach Kafka in Kafka's units."""
    config = topic_admin.specs(Settings.load(**flags))[0].config

    assert expected == (config["retention.ms"], config["retention.bytes"])


def test_all_well(settings, states):
    """Topics that are as they must be pass, and are returned as they are."""
    assert states == topic_admin.check(settings)


class FailingOver:
    """An admin client whose cluster has just lost a broker: some requests fail first."""

    def __init__(self, *errors):
        self._errors = list(errors)

    def _answer(self, value):
        future = Future()
        if self._errors:
            future.set_exception(KafkaException(KafkaError(self._errors.pop(0))))
        else:
            future.set_result(value)
        return future

    def describe_configs(self, resources, **_):
        """As confluent-kafka's."""
        entry = types.SimpleNamespace(value="delete")
        return {resource: self._answer({"cleanup.policy": entry}) for resource in resources}

    def create_topics(self, wanted, **_):
        """As confluent-kafka's."""
        return {topic.topic: self._answer(None) for topic in wanted}


@pytest.fixture
def hurry(monkeypatch):
    """No waiting between two tries."""
    monkeypatch.setattr(topic_admin, "_POLL_SECONDS", 0)


@pytest.mark.usefixtures("hurry")
def test_broker_dies_meanwhile(settings):
    """A request that fails because a broker has just died is made again."""
    codes = (KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError.UNKNOWN_TOPIC_OR_PART)

    assert {"cleanup.policy": "delete"} == topic_admin._config(FailingOver(*codes), "data-blocks")
    topic_admin._create(FailingOver(*codes[:2]), list(topic_admin.specs(settings)), replicas=1)


@pytest.mark.usefixtures("hurry")
def test_cluster_stays_silent(monkeypatch):
    """One that does not come back is reported, and one that refuses at once."""
    monkeypatch.setattr(topic_admin.clients, "FAILOVER_SECONDS", 0.01)
    silent = FailingOver(*[KafkaError._TIMED_OUT] * 10_000)
    with pytest.raises(BrokerUnreachableError, match="settings of topic data-blocks"):
        topic_admin._config(silent, "data-blocks")
    monkeypatch.setattr(topic_admin.clients, "FAILOVER_SECONDS", 3600)
    with pytest.raises(BrokerDeniedError):
        topic_admin._config(FailingOver(KafkaError.TOPIC_AUTHORIZATION_FAILED), "data-blocks")


@pytest.mark.usefixtures("hurry")
def test_broker_that_has_not_heard_yet(settings, states, monkeypatch):
    """Topics that another worker has just made, and one broker does not know yet, are there."""
    monkeypatch.setattr(topic_admin.clients, "brokers", lambda *_: 3)
    known = {n: [s.replicas] * s.partitions for n, s in states.items()}
    answers = iter([known, {}, {}])
    monkeypatch.setattr(topic_admin.clients, "topics", lambda *_: next(answers, known))

    assert set(states) == set(topic_admin.ensure(settings))


def test_missing(settings, states):
    """Topics that are missing are named, with the command that makes them."""
    del states["data-blocks"], states["processing-status"]

    assert (
        "topics missing: data-blocks, processing-status. Create them: streamapp topics create "
        "--brokers 127.0.0.1:9092"
    ) == problem(settings)


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("data-blocks", {"cleanup.policy": "compact"}, "--add-config cleanup.policy=delete"),
        ("data-blocks", {"cleanup.policy": "compact,delete"}, "cleanup.policy=compact,delete, exp"),
        ("data-blocks", {"max.message.bytes": "1024"}, "--add-config max.message.bytes=8388608"),
        ("processing-status", {"cleanup.policy": "delete"}, "--add-config cleanup.policy=compact"),
        ("block-acknowledgments", {"cleanup.policy": "delete"}, "cleanup.policy=delete, expected"),
        ("data-blocks", {"compression.type": "lz4"}, "--add-config compression.type=producer"),
        ("processing-status", {"compression.type": "snappy"}, "compression.type=snappy, which"),
    ],
)
def test_wrong_config(settings, states, name, config, said):
    """A topic that would lose frames or acknowledgements is refused, with the way to mend it."""
    states[name].config.update(config)
    found = problem(settings)

    assert f"topic {name} " in found
    assert said in found


@pytest.mark.parametrize(("partitions", "command"), [(5, "--alter"), (7, "--delete")])
def test_wrong_width(settings, states, partitions, command):
    """A topic of another width is refused: every machine routes by it."""
    states["data-blocks"] = TopicState("data-blocks", partitions, 3, states["data-blocks"].config)
    found = problem(settings)

    assert f"topic data-blocks has {partitions} partitions, expected 6" in found
    assert command in found


@pytest.mark.parametrize(
    ("name", "holds"),
    [
        ("data-blocks", "the blocks that no machine has read yet"),
        ("block-acknowledgments", "the record of what is delivered"),
        ("processing-status", "the state of all files"),
    ],
)
def test_too_wide(settings, states, name, holds):
    """A topic is not advised to be deleted without a word about what it holds."""
    states[name] = TopicState(name, 12, 3, states[name].config)
    found = problem(settings)

    assert holds in found
    assert found.index("--topic-prefix") < found.index(holds) < found.index("--delete")


def test_advice_names_what_is_in_use(states):
    """Commands that are advised have the brokers and the prefix that are in use."""
    settings = Settings(machine_id="m", brokers="a:1,b:2", topic_prefix="team.")
    states.update({f"team.{name}": state for name, state in states.items()})
    wide = states["team.data-blocks"]
    states["team.data-blocks"] = TopicState("team.data-blocks", 12, 3, wide.config)
    command = "streamapp topics create --brokers a:1,b:2 --topic-prefix team."

    assert problem(settings).endswith(
        f"--bootstrap-server a:1,b:2 --delete --topic team.data-blocks, then {command}"
    )
    states["team.data-blocks"] = TopicState("team.data-blocks", 1, 3, wide.config)
    assert "has 1 partition, expected 6: kafka-topics.sh --bootstrap-server a:1,b:2 --alter" in (
        problem(settings)
    )
    del states["team.data-blocks"]
    assert problem(settings).endswith(f"Create them: {command}")


@pytest.mark.parametrize(
    ("largest", "expected"), [(8 << 20, 1 << 20), (1_048_588, 1_048_588 - OVERHEAD_BYTES)]
)
def test_frame_bytes(settings, states, largest, expected):
    """A frame is what the setting says, or what the topic takes less what travels beside it."""
    states["data-blocks"].config["max.message.bytes"] = str(largest)

    assert expected == topic_admin.frame_bytes(settings, states["data-blocks"])


def test_too_many_frames(states):
    """A block of more frames than a worker takes is refused before the first is sent."""
    states["data-blocks"].config["max.message.bytes"] = str(1024 + OVERHEAD_BYTES)
    fits = Settings.load(block_size=1024 * MAX_FRAMES)

    assert 1024 == topic_admin.frame_bytes(fits, states["data-blocks"])
    with pytest.raises(TopicError, match="give a smaller --block-size"):
        topic_admin.frame_bytes(Settings.load(block_size="2GiB"), states["data-blocks"])
