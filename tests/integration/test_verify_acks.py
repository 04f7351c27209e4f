"""`streamapp verify --against-acks`: disks and acknowledgements are compared, both ways."""

import json
import os
import shutil

import pytest

from click.testing import CliRunner

from streamapp.cli.main import cli
from streamapp.integrity import inventory
from streamapp.kafka import publish, topic_admin
from streamapp.store import BlockStore
from tests.integration.blocks import keep_file


GROUP = "g"


class Kafka:
    """The acknowledgements that are on the topic."""

    def __init__(self):
        self.acks = []

    def write(self, _settings, acks):
        """Take *acks*."""
        taken = list(acks)
        self.acks += taken
        return len(taken)

    def read(self, _settings, take, _stop):
        """Hand on all that was taken."""
        for ack in self.acks:
            take(ack)


@pytest.fixture
def kafka(monkeypatch):
    """A broker that takes everything."""
    kafka = Kafka()
    monkeypatch.setattr(topic_admin, "check", lambda _settings: {})
    monkeypatch.setattr(publish, "publish_acks", kafka.write)
    monkeypatch.setattr(inventory, "read_acks", kafka.read)
    return kafka


@pytest.fixture
def folder(tmp_path, kafka):
    """The folder of machine m with two files of two blocks, all of it acknowledged."""
    store = BlockStore([tmp_path / "processed_data_m"], min_free=0)
    store.open()
    for name in ("a", "b"):
        file_id = keep_file(store, name, size=20, block_size=10)
        for block in range(2):
            stored = store.stored(file_id, block)
            kafka.acks.append(stored.acknowledgement(group=GROUP, machine="m", at=1.0))
    store.close()
    return tmp_path


@pytest.fixture
def verify(folder, monkeypatch):
    """Runs the command; returns its exit code and its lines."""
    for name in [name for name in os.environ if name.startswith("STREAMAPP_")]:
        monkeypatch.delenv(name)

    def run(*arguments):
        command = ["verify", "--against-acks", "--data-dir", str(folder), "--group-id", GROUP]
        result = CliRunner().invoke(cli, [*command, *arguments])
        return result.exit_code, result.output.splitlines()

    return run


def test_they_agree(verify, kafka):
    """Exit code 0, and nothing is published."""
    code, lines = verify()
    assert (0, 1, 4) == (code, len(lines), len(kafka.acks))


def test_both_ways(verify, folder, kafka):
    """What is gone and what nobody acknowledged is listed; nothing is published or changed."""
    kafka.acks = kafka.acks[1:]
    shutil.rmtree(folder / "processed_data_m" / "b")
    code, lines = verify("--json")

    *found, summary = map(json.loads, lines)
    assert 1 == code
    assert [("acknowledged and not on disk", "b", 0), ("acknowledged and not on disk", "b", 1),
            ("on disk and not acknowledged", "a", 0)] == [
        (one["state"], one["name"], one["block"]) for one in found
    ]  # fmt: skip
    assert (2, 1, 0) == tuple(summary[n] for n in ("missing", "unacknowledged", "published"))
    assert 3 == len(kafka.acks)


def test_repair(verify, folder, kafka):
    """With --repair what is true is published; then they agree."""
    kafka.acks = kafka.acks[1:]
    shutil.rmtree(folder / "processed_data_m" / "b")
    code, lines = verify("--repair")

    assert 1 == code
    assert "3 published" in lines[-1]
    assert ["persisted", "lost", "lost"] == [ack.outcome for ack in kafka.acks[3:]]
    assert {"m"} == {ack.machine for ack in kafka.acks}
    assert 0 == verify()[0]


def test_repair_beside_a_worker(verify, folder, kafka):
    """With --repair the worker must be stopped."""
    store = BlockStore([folder / "processed_data_m"], min_free=0)
    store.open()
    assert 22 == verify("--repair")[0]
    assert 0 == verify()[0]
    store.close()
    assert 4 == len(kafka.acks)


def test_persisted_meanwhile(verify, folder, kafka, monkeypatch):
    """A block that is persisted after the disks were looked at is not called missing."""
    path, aside = folder / "processed_data_m" / "b", folder / "aside"
    path.rename(aside)
    read = kafka.read

    def late(*arguments):
        aside.rename(path)
        read(*arguments)

    monkeypatch.setattr(inventory, "read_acks", late)
    assert 0 == verify()[0]


def test_copy_elsewhere(verify, kafka):
    """A block whose newest acknowledgement is of another machine is right on both."""
    first = kafka.acks[0]
    kafka.acks.append(type(first)(**{f: getattr(first, f) for f in first.__struct_fields__}
                                  | {"machine": "n", "folder": "9" * 32}))  # fmt: skip
    assert 0 == verify()[0]
