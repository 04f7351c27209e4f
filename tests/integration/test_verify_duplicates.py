"""`streamapp verify --duplicates`: second copies are listed, and freed only while that is safe."""

import contextlib
import json
import os

import msgspec
import pytest

from click.testing import CliRunner

from streamapp.cli.main import cli
from streamapp.integrity import inventory, machines
from streamapp.integrity.verify import Pace, blocks
from streamapp.kafka import publish, topic_admin
from streamapp.protocol.messages import Heartbeat
from streamapp.store import BlockStore, discard
from tests.integration.blocks import keep_file


GROUP = "g"
THERE = "9" * 32
FREE = f"verify --duplicates --free --group-id {GROUP} --data-dir {{}}"


class Kafka:
    """The acknowledgements on their topic, and what machine n says of itself."""

    def __init__(self):
        self.acks = []
        self.late = []  # what is published while the command catches up, one at a time
        self.beat = Heartbeat(machine="n", group=GROUP, state="running", folders=(THERE,))
        self.is_up = True
        self.is_down = False

    @contextlib.contextmanager
    def follow(self, _settings, take, _stop):
        """As `inventory.followed_acks`."""
        for ack in self.acks:
            take(ack)
        read = len(self.acks)

        def catch_up(_stop):
            nonlocal read
            if self.late:
                self.acks.append(self.late.pop(0))
            for ack in self.acks[read:]:
                take(ack)
            read = len(self.acks)

        yield catch_up

    def write(self, _settings, acks):
        """As `publish.publish_acks`."""
        taken = list(acks)
        self.acks += taken
        return len(taken)

    def watch(self, _settings, machine):
        """As `machines.MachineWatch`."""
        return Watch(self if machine == "n" else Kafka.silent())

    @staticmethod
    def silent():
        """A machine of which nothing is known."""
        kafka = Kafka()
        kafka.beat, kafka.is_up = None, False
        return kafka


class Watch:
    """As `machines.MachineWatch`."""

    def __init__(self, kafka):
        self.newest, self._is_up = kafka.beat, kafka.is_up

    def read(self):
        """As `machines.MachineWatch`."""
        return self.newest

    def is_up(self):
        """As `machines.MachineWatch`."""
        return self._is_up

    def close(self):
        """As `machines.MachineWatch`."""


@pytest.fixture
def kafka(monkeypatch):
    """A broker in memory; machine n is up."""
    kafka = Kafka()
    monkeypatch.setattr(topic_admin, "check", lambda _settings: {})
    monkeypatch.setattr(publish, "publish_acks", kafka.write)
    monkeypatch.setattr(inventory, "followed_acks", kafka.follow)
    monkeypatch.setattr(machines, "MachineWatch", kafka.watch)
    return kafka


@pytest.fixture
def root(tmp_path, kafka):
    """The folder of machine m with two files of two blocks; by the newest word, n has file a."""
    root = tmp_path / "processed_data_m"
    store = BlockStore([root], min_free=0)
    store.open()
    for name in ("a", "b"):
        file_id = keep_file(store, name, size=20, block_size=10)
        kafka.acks += [
            store.stored(file_id, block).acknowledgement(group=GROUP, machine="m", at=1.0)
            for block in range(2)
        ]
    store.close()
    kafka.acks += [on_n(ack) for ack in kafka.acks[:2]]
    return root


@pytest.fixture
def verify(root, monkeypatch):
    """Runs the command; returns its exit code and what it said."""
    for name in [name for name in os.environ if name.startswith("STREAMAPP_")]:
        monkeypatch.delenv(name)

    def run(*arguments):
        command = ["verify", "--duplicates", "--json", "--data-dir", str(root.parent)]
        result = CliRunner().invoke(cli, [*command, "--group-id", GROUP, *arguments])
        return result.exit_code, [json.loads(line) for line in result.output.splitlines()]

    return run


def on_n(ack, **changes):
    """Return *ack* as machine n would have said it."""
    return msgspec.structs.replace(ack, **({"machine": "n", "folder": THERE} | changes))


def names(root):
    """Return the files of blocks below *root*."""
    return sorted(str(p.relative_to(root)) for p in root.rglob("block_*"))


def states(said):
    """Return name, block and state of all that was *said*."""
    return [(one["name"], one["block"], one["state"]) for one in said if one["kind"] == "duplicate"]


def test_listed(verify, root, kafka):
    """What n has by the newest acknowledgement is listed with its size; nothing is changed."""
    before = names(root)
    code, said = verify()

    assert 1 == code
    assert [("a", 0, "second copy"), ("a", 1, "second copy")] == states(said)
    assert ["n", "n"] == [one["other"] for one in said[:-1]]
    assert (2, 20, 0) == tuple(said[-1][n] for n in ("second", "second_bytes", "freed"))
    assert (before, 6) == (names(root), len(kafka.acks))


def test_none(verify, kafka):
    """Exit code 0 where every block is here alone; a revoked one is no second copy."""
    kafka.acks += [msgspec.structs.replace(ack, outcome="lost") for ack in kafka.acks[4:]]
    code, said = verify()
    assert (0, []) == (code, states(said))


def test_earlier(verify, kafka):
    """When asked, a block that n acknowledged before this machine is listed, and never freed."""
    first = kafka.acks[2]
    kafka.acks = [on_n(first), first]
    assert (0, []) == (verify()[0], states(verify()[1]))
    code, said = verify("--earlier", "--free")
    assert (1, [("b", 0, "acknowledged by another machine before")]) == (code, states(said))
    assert 0 == said[-1]["freed"]


def test_freed(verify, root, kafka):
    """The second copies go with their folder, nothing is published, and all is well afterwards."""
    code, said = verify("--free")

    assert 1 == code
    assert [("a", 0, "freed"), ("a", 1, "freed")] == states(said)
    assert (2, 20) == (said[-1]["freed"], said[-1]["freed_bytes"])
    assert not (root / "a").exists()
    assert 4 == len(names(root))
    assert 6 == len(kafka.acks)
    assert (0, []) == (verify("--free")[0], states(verify("--free")[1]))
    compared = inventory.Differences(
        inventory.walk.files(root), group=GROUP, machine="m"
    )  # as the next start of the worker
    for ack in kafka.acks:
        compared.take(ack)
    assert ({}, []) == (compared.missing, list(compared.unacknowledged()))


def not_freed(verify, root, why):
    """Nothing may be freed now, for this reason."""
    before = names(root)
    code, said = verify("--free")
    assert 1 == code
    assert {"not freed"} == {state for *_, state in states(said)}
    assert all(why in one["reason"] for one in said[:-1]), said
    assert before == names(root)


def test_silent_machine(verify, root, kafka):
    """The newest heartbeat lists the folder, and no newer one comes."""
    kafka.is_up = False
    not_freed(verify, root, "no heartbeat of n came")


def test_stopped_machine(verify, root, kafka):
    """The other worker said good-bye: nobody looks at that folder now."""
    kafka.beat = msgspec.structs.replace(kafka.beat, state="stopped")
    not_freed(verify, root, "no heartbeat of n came")


def test_other_folder(verify, root, kafka):
    """The other machine is up with another folder: the acknowledged copy may be gone."""
    kafka.beat = msgspec.structs.replace(kafka.beat, folders=("8" * 32,))
    not_freed(verify, root, "does not have the data folder")


def test_nameless_folder(verify, root, kafka):
    """An acknowledgement of an older version names no folder: nothing shows that it is there."""
    kafka.acks[4:] = [on_n(ack, folder="") for ack in kafka.acks[:2]]
    not_freed(verify, root, "did not say in which data folder")


def test_other_content(verify, root, kafka):
    """A copy that is not the same as the acknowledged one is no copy."""
    kafka.acks[4:] = [on_n(ack, sha256="0" * 64) for ack in kafka.acks[:2]]
    not_freed(verify, root, "another content")


def test_folder_that_moved_here(verify, root, kafka):
    """The folder that n had lies here now: its blocks are no second copies."""
    here = kafka.acks[0].folder
    kafka.acks[4:] = [on_n(ack, folder=here) for ack in kafka.acks[:2]]
    before = names(root)
    assert (0, before) == (verify("--free")[0], names(root))


def test_moves_while_freeing(verify, root, kafka):
    """A block that n revokes in the last moment stays; the other one goes."""
    kafka.late = [msgspec.structs.replace(kafka.acks[4], outcome="lost")]
    _, said = verify("--free")
    assert [("a", 0, "not freed"), ("a", 1, "freed")] == states(said)
    assert (root / "a" / "block_0000.bin").exists()


def test_acknowledged_while_freeing(verify, root, kafka):
    """What this machine acknowledges just when it is deleted (from disks) is published as lost."""
    other = kafka.acks[2]  # says nothing new
    kafka.late = [other, other, kafka.acks[0]]
    _, said = verify("--free")

    assert [("a", 0, "freed"), ("a", 1, "freed")] == states(said)
    assert 1 == said[-1]["revoked"]
    last = kafka.acks[-1]
    assert ("lost", "m", 0) == (last.outcome, last.machine, last.block)
    assert not (root / "a").exists()


def test_beside_a_worker(verify, root):
    """With --free the worker must be stopped; without it nothing is locked."""
    store = BlockStore([root], min_free=0)
    store.open()
    before = names(root)
    result = CliRunner().invoke(cli, FREE.format(root.parent).split())
    assert (22, before) == (result.exit_code, names(root))
    assert 1 == verify()[0]
    store.close()


class Killed(BaseException):
    """The process ended here."""


@pytest.mark.parametrize("step", range(6))
def test_killed_while_freeing(root, kafka, monkeypatch, step):
    """Wherever the process ends, no half of a block is left that would be reported as lost."""
    calls = 0

    def dying(real):
        def call(*arguments, **keywords):
            nonlocal calls
            calls += 1
            if calls > step:
                raise Killed
            return real(*arguments, **keywords)

        return call

    class Os:
        rename = staticmethod(dying(os.rename))
        unlink = staticmethod(dying(os.unlink))
        fsync = staticmethod(dying(os.fsync))

    with monkeypatch.context() as patch:
        patch.setattr(discard, "os", Os)
        with pytest.raises(Killed):
            CliRunner().invoke(cli, FREE.format(root.parent).split(), catch_exceptions=False)
    assert all(verdict.is_good for verdict in blocks(root, Pace()))
    store = BlockStore([root], min_free=0)  # as the next start of a worker
    store.open()
    store.close()
    assert not list(root.rglob("*.part"))
    found = list(blocks(root, Pace()))
    assert all(verdict.is_good for verdict in found)
    assert len(found) == 4 - (step > 0)
    assert 6 == len(kafka.acks)


@pytest.mark.parametrize(
    "flags",
    [["--free"], ["--earlier"], ["--duplicates", "--against-acks"], ["--duplicates", "--repair"]],
)
def test_flags_that_do_not_belong_together(flags):
    """Exit code 2, before anything is looked at."""
    assert 2 == CliRunner().invoke(cli, ["verify", *flags]).exit_code
