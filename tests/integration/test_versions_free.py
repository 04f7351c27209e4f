"""`streamapp versions free`: superseded versions are deleted, and nothing that is needed."""

import contextlib
import json
import os

import msgspec
import pytest

from click.testing import CliRunner

from streamapp.cli.main import cli
from streamapp.errors import ClusterError
from streamapp.integrity import inventory, superseded
from streamapp.kafka import publish, topic_admin
from streamapp.protocol import fileplan
from streamapp.protocol.messages import FileStatus
from streamapp.store import BlockStore, data_folder
from tests.integration.blocks import file_id_of, keep_file


GROUP = "g"
NAME = "logs/a"
OLD = file_id_of(NAME, 20, 10)
NEW = file_id_of(NAME, 25, 10)
OLD_FOLDER = "processed_data_m/logs/a"


class Killed(BaseException):
    """The process is gone: nothing catches it."""


class Kafka:
    """What is on the two small topics, and what happens in which order."""

    def __init__(self):
        self.acks, self.late, self.statuses, self.calls = [], [], [], []
        self.late_statuses = []
        self.kill_at = None  # the number of the call that the process does not survive

    def call(self, what):
        """Note a step; the process may die just before it."""
        if len(self.calls) == self.kill_at:
            raise Killed(what)
        self.calls.append(what)

    def write(self, _settings, acks):
        """Take *acks*."""
        taken = list(acks)
        self.call("publish")
        self.acks += taken
        self.call("published")
        return len(taken)

    @contextlib.contextmanager
    def read(self, _settings, take, _stop):
        """Hand on all that was taken, and then what was published since."""
        for ack in self.acks:
            take(ack)
        yield lambda _stop: [take(ack) for ack in self.late]

    @contextlib.contextmanager
    def read_status(self, _settings, take, _stop):
        """Hand on every status, and then what was published since."""
        for status in self.statuses:
            take(status.file_id, status)
        yield lambda _stop: [take(s.file_id, s) for s in self.late_statuses]

    @property
    def state(self):
        """The newest acknowledgement of each block: its outcome, by file id."""
        newest = {(ack.file_id, ack.block): ack.outcome for ack in self.acks}
        return {
            file_id: {o for (i, _), o in newest.items() if i == file_id} for file_id, _ in newest
        }


@pytest.fixture
def kafka(monkeypatch):
    """A broker that takes everything."""
    kafka = Kafka()
    monkeypatch.setattr(topic_admin, "check", lambda _settings: {})
    monkeypatch.setattr(publish, "publish_acks", kafka.write)
    monkeypatch.setattr(inventory, "followed_acks", kafka.read)
    monkeypatch.setattr(superseded, "followed_status", kafka.read_status)
    discard = data_folder.DataFolder.discard

    def counted(self, parts, file, block):
        kafka.call(f"delete {block}")
        discard(self, parts, file, block)

    monkeypatch.setattr(data_folder.DataFolder, "discard", counted)
    return kafka


@pytest.fixture
def folder(tmp_path, kafka):
    """The folder of machine m with two versions of a file, all acknowledged, one superseded."""
    store = BlockStore([tmp_path / "processed_data_m"], min_free=0)
    store.open()
    for size in (20, 25):
        file_id = keep_file(store, NAME, size=size, block_size=10)
        for block in range(fileplan.FilePlan(file_size=size, block_size=10).blocks):
            stored = store.stored(file_id, block)
            kafka.acks.append(stored.acknowledgement(group=GROUP, machine="m", at=1.0))
    store.close()
    kafka.statuses.append(
        FileStatus(
            file_id=OLD, state="superseded", name=NAME, size=20, blocks=2, block_size=10,
            source="laptop", mtime_ns="1", superseded_by=NEW,
        )
    )  # fmt: skip
    return tmp_path


@pytest.fixture
def free(folder, monkeypatch):
    """Runs the command; returns its exit code and what it says of each version and of all."""
    for name in [name for name in os.environ if name.startswith("STREAMAPP_")]:
        monkeypatch.delenv(name)

    def run(*arguments):
        command = ["versions", "free", "--data-dir", str(folder), "--group-id", GROUP, "--json"]
        result = CliRunner().invoke(cli, [*command, *arguments], catch_exceptions=True)
        if isinstance(result.exception, Killed):
            raise result.exception
        return result.exit_code, [json.loads(line) for line in result.stdout.splitlines()]

    return run


def is_whole(folder, file_id):
    """Return whether all blocks of the file lie in the folder of machine m."""
    store = BlockStore([folder / "processed_data_m"], min_free=0)
    store.open()
    try:
        blocks = 2 if file_id == OLD else 3
        return all(store.stored(file_id, block) for block in range(blocks))
    finally:
        store.close()


def untouched(folder, kafka):
    """Return whether all that was there is there, and nothing was published."""
    return is_whole(folder, OLD) and is_whole(folder, NEW) and not kafka.calls


def test_free(free, folder, kafka):
    """The earlier version is revoked, then deleted with its folder; the current one stays."""
    code, (version, summary) = free()

    assert 0 == code
    assert ["publish", "published", "delete 0", "delete 1"] == kafka.calls
    assert ("freed", OLD, NEW, 2, 20, "") == tuple(
        version[n] for n in ("state", "file_id", "superseded_by", "blocks", "bytes", "reason")
    )
    assert (1, 1, 20) == tuple(summary[n] for n in ("versions", "freed", "freed_bytes"))
    assert not (folder / OLD_FOLDER).exists()
    assert is_whole(folder, NEW)
    assert {OLD: {"lost"}, NEW: {"persisted"}} == kafka.state
    assert {f"freed: superseded by {NEW}"} == {a.reason for a in kafka.acks if a.outcome == "lost"}

    code, found = free()
    assert (0, 1, 4) == (code, len(found), len(kafka.calls))


def test_dry_run(free, folder, kafka):
    """What would be freed is listed, beside a running worker as well; nothing changes."""
    store = BlockStore([folder / "processed_data_m"], min_free=0)
    store.open()
    assert 22 == free()[0]
    code, (version, summary) = free("--dry-run")
    store.close()

    assert (0, "would be freed", True) == (code, version["state"], summary["is_dry_run"])
    assert untouched(folder, kafka)


@pytest.mark.parametrize("call", range(4))
def test_killed(free, folder, kafka, call):
    """A run that is killed before any step is finished by the next one."""
    kafka.kill_at = call
    with pytest.raises(Killed):
        free()
    assert is_whole(folder, NEW)
    if call < 2:
        assert is_whole(folder, OLD)

    kafka.kill_at = None
    assert 0 == free()[0]
    assert not (folder / OLD_FOLDER).exists()
    assert is_whole(folder, NEW)
    assert {OLD: {"lost"}, NEW: {"persisted"}} == kafka.state


def test_refused(free, folder, kafka, monkeypatch):
    """Nothing is deleted when Kafka does not take the records."""

    def refuse(_settings, _acks):
        message = "Kafka did not take 2 records: run it again"
        raise ClusterError(message)

    monkeypatch.setattr(publish, "publish_acks", refuse)
    assert 0 != free()[0]
    assert untouched(folder, kafka)


def lose_a_block(kafka):
    """The group does not have all of the current version."""
    newest = next(ack for ack in kafka.acks if ack.file_id == NEW)
    kafka.acks.append(inventory.as_lost(newest, "a disk died"))


def lose_it_meanwhile(kafka):
    """It loses a block after the acknowledgements were read."""
    newest = next(ack for ack in kafka.acks if ack.file_id == NEW)
    kafka.late.append(inventory.as_lost(newest, "a disk died"))


def speak_of_another(kafka):
    """Acknowledgements of the current version's id say that it is another file's."""
    kafka.acks = [
        msgspec.structs.replace(ack, name="logs/b") if ack.file_id == NEW else ack
        for ack in kafka.acks
    ]


def invent(kafka):
    """Somebody calls the file superseded by an id that he made up, and acknowledges that."""
    made_up = "ab" * 16
    kafka.statuses[0] = msgspec.structs.replace(kafka.statuses[0], superseded_by=made_up)
    kafka.acks += [
        msgspec.structs.replace(ack, file_id=made_up) for ack in kafka.acks if ack.file_id == NEW
    ]


def other_group(kafka):
    """Another group has the current version."""
    kafka.acks = [
        msgspec.structs.replace(ack, group="h") if ack.file_id == NEW else ack for ack in kafka.acks
    ]


@pytest.mark.parametrize(
    "change", [lose_a_block, lose_it_meanwhile, speak_of_another, invent, other_group]
)
def test_not_freed(free, folder, kafka, change):
    """Nothing is deleted while the group does not have all of the current version."""
    change(kafka)
    code, (version, summary) = free()

    assert (0, "not freed", 0) == (code, version["state"], summary["freed"])
    assert "current version" in version["reason"]
    assert untouched(folder, kafka)


def take_back(kafka):
    """The producer has the earlier content again."""
    kafka.statuses.append(msgspec.structs.replace(kafka.statuses[0], state="complete"))


def circle(kafka):
    """Each of the two is called superseded by the other."""
    status = kafka.statuses[0]
    kafka.statuses.append(msgspec.structs.replace(status, file_id=NEW, superseded_by=OLD))


def misname(kafka):
    """The record names another file."""
    kafka.statuses[0] = msgspec.structs.replace(kafka.statuses[0], name="logs/b")


@pytest.mark.parametrize("change", [take_back, circle, misname])
def test_not_superseded(free, folder, kafka, change):
    """What is not superseded, or not rightly, is not listed."""
    change(kafka)
    code, found = free()

    assert (0, 1) == (code, len(found))
    assert untouched(folder, kafka)


@pytest.mark.parametrize("state", ["complete", "superseded"])
def test_taken_back_meanwhile(free, folder, kafka, state):
    """A version stays that its producer called current, or otherwise superseded, since the start.

    It delivered the earlier content again, which nobody had to send, and ended with exit code 0.
    """
    by = "f" * 32 if state == "superseded" else ""
    kafka.late_statuses.append(
        msgspec.structs.replace(kafka.statuses[0], state=state, superseded_by=by)
    )

    code, (version, summary) = free()

    assert (0, "not freed", 0) == (code, version["state"], summary["freed"])
    assert "meanwhile" in version["reason"]
    assert untouched(folder, kafka)


def test_chain(free, folder, kafka):
    """The current version is at the end of the chain, whatever lies between on other machines."""
    between = file_id_of(NAME, 30, 10)
    first = kafka.statuses[0]
    kafka.statuses = [
        msgspec.structs.replace(first, superseded_by=between),
        msgspec.structs.replace(first, file_id=between, size=30, blocks=3),
    ]
    code, (version, _) = free()

    assert (0, "freed", NEW) == (code, version["state"], version["superseded_by"])
    assert is_whole(folder, NEW)


def test_copies_elsewhere(free, folder, kafka):
    """What another machine has is not revoked; the copy that lies here is deleted."""
    kafka.acks = [
        msgspec.structs.replace(ack, machine="n", folder="9" * 32) if ack.file_id == OLD else ack
        for ack in kafka.acks
    ]
    assert 0 == free()[0]
    assert ["delete 0", "delete 1"] == kafka.calls
    assert {OLD: {"persisted"}, NEW: {"persisted"}} == kafka.state
    assert not (folder / OLD_FOLDER).exists()
