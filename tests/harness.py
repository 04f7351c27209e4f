"""Starts, hurts and stops the processes of a test on a real Kafka, and looks at what they did.

Every process is one that the test started, known by its own id, in a session of its own. What
it says goes to a log, which is shown when the test fails; and all of it ends with the test.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid

from pathlib import Path

import psutil
import zstandard

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from streamapp.protocol import fileplan, frames
from tests import checker
from tests.waiting import wait_for


PROJECT = Path(__file__).resolve().parent.parent
FAUST = Path(sys.executable).with_name("faust")
DATA_BLOCKS = "data-blocks"
STATUS = "processing-status"
PARTITIONS = 6
READY_SECONDS = 60
DELIVERY_SECONDS = 120
STOP_SECONDS = 15
QUIET = {"log_level": 0}
MARK = "TESTS_STARTED_BY"  # in the environment of what a test starts, and of what that starts
LOG_LINES = 60
MIB = 1 << 20


def free_port():
    """Return a port of loopback that nobody uses now."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def seeded(seed=None):
    """Return a source of random choices; its seed is printed, so that a failure can be repeated."""
    seed = random.randrange(1 << 32) if seed is None else seed  # noqa: S311 - no secret
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    return random.Random(seed)  # noqa: S311 - no secret


@contextlib.contextmanager
def healing(fault):
    """Say how long it took until progress resumed after *fault*; shown by ``pytest -s``."""
    began = time.monotonic()
    yield
    sys.stdout.write(f"{fault}: progress after {time.monotonic() - began:.1f} s\n")


def clean_environment():
    """Return the environment without settings that a developer has set."""
    found = {k: v for k, v in os.environ.items() if not k.startswith("STREAMAPP_")}
    return found | {"PYTHONPATH": str(PROJECT)}  # this copy, whichever one is installed


def copy_project(project, folder):
    """Copy what git has of *project*, as it is now, to *folder*."""
    listed = subprocess.run(
        ["git", "-C", project, "ls-files", "-z"],  # noqa: S607 - whichever git there is
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(project / name, folder / name, follow_symlinks=False)


def flags(given):
    """Return ``{"block_size": "1MiB"}`` as ``["--block-size", "1MiB"]``; True is a bare flag."""
    found = []
    for name, value in given.items():
        flag = f"--{name.replace('_', '-')}"
        found += [flag] if value is True else [flag, str(value)]
    return found


def variables(given):
    """Return the same as variables: ``{"STREAMAPP_BLOCK_SIZE": "1MiB"}``."""
    return {f"STREAMAPP_{name.upper()}": str(value) for name, value in given.items()}


class Process:
    """A process that a test started."""

    def __init__(self, name, command, folder, environment=(), popen=()):
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = [str(part) for part in command]
        self._folder = folder
        self._environment = dict(environment)
        self._around = dict(popen)
        self._mark = uuid.uuid4().hex
        self._popen = None

    def start(self):
        """Start it, also after it ended; its log is appended."""
        with self.log.open("ab") as log:
            around = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log} | self._around
            self._popen = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=clean_environment() | self._environment | {MARK: self._mark},
                start_new_session=True,
                **around,
            )
        return self

    @property
    def pid(self):
        """Its process id."""
        return self._popen.pid

    @property
    def is_running(self):
        """Whether it runs, stopped or not."""
        return self._popen is not None and self._popen.poll() is None

    @property
    def code(self):
        """Its exit code; None while it runs."""
        return self._popen.poll()

    def send(self, number):
        """Send it a signal."""
        self._popen.send_signal(number)

    def pause(self):
        """Freeze it, and wait until it is frozen."""
        self.send(signal.SIGSTOP)
        wait_for(lambda: self._state() == "T", within=5, what=f"{self.name} to freeze")

    def resume(self):
        """Resume it."""
        self.send(signal.SIGCONT)

    def kill(self):
        """End it as a crash would."""
        self.send(signal.SIGKILL)
        self._popen.wait()

    def terminate(self, within=STOP_SECONDS):
        """End it as its user would; return the exit code, and fail when it does not end."""
        self.send(signal.SIGTERM)
        return self.wait(within)

    def wait(self, within=DELIVERY_SECONDS):
        """Return the exit code; fail when it does not end *within* so many seconds."""
        try:
            return self._popen.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {within} s") from None

    def said(self):
        """Return all that it said."""
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    def clean_up(self):
        """End it and what it started, whatever state it is in.

        When it has ended, its number may be somebody else's by now: what it left behind is known
        by its environment.
        """
        if self._popen is None:
            return
        if self._popen.poll() is None:
            os.killpg(self._popen.pid, signal.SIGKILL)
            self._popen.wait()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self._mark:
                    process.kill()

    def _state(self):
        with open(f"/proc/{self.pid}/stat", encoding="ascii") as stat:  # noqa: PTH123 - no file
            return stat.read().rpartition(")")[2].split()[0]


class Worker(Process):
    """A worker with a data folder of its own."""

    def __init__(self, site, name, given):
        port = free_port()
        self.url = f"http://{given.get('web_host', '127.0.0.1')}:{port}"
        self.folder = given.pop("data_dir", site.folder / "machines" / name)
        self.root = self.folder / f"processed_data_{name}"
        common = {
            "machine_id": name,
            "group_id": site.group,
            "brokers": site.brokers,
            "data_dir": self.folder,
            "web_port": port,
            "min_free": "1MiB",
            "session_timeout": 6,
            "block_timeout": 5,
            "heartbeat": 1,
        }
        under, by_faust = given.pop("under", ()), given.pop("by_faust", False)
        module, environment = given.pop("module", "streamapp"), given.pop("environment", {})
        popen = given.pop("popen", ())
        self.settings = variables(common | given)
        command = [*under, sys.executable, "-m", module, "worker", *flags(common | given)]
        if by_faust:
            command = [*under, FAUST, "-A", "streamapp.app", "worker", "-l", "info"]
            environment = self.settings | environment
        super().__init__(name, command, site.logs, environment, popen)

    def get(self, path):
        """Return what a view answers, whatever its status; None when there is no answer."""
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:  # noqa: S310
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return json.load(error) if "json" in error.headers["Content-Type"] else None
        except (OSError, ValueError):
            return None

    @property
    def health(self):
        """What `/health/` says; empty while it says nothing."""
        assert self.is_running, f"{self.name} ended, code {self.code}: {self.said()[-2000:]}"
        return self.get("/health/") or {}

    def wait_until_ready(self, partitions=None):
        """Wait until it has its tables, and some *partitions*, or exactly those."""
        wait_for(
            lambda: self._is_ready(self.health, partitions),
            within=READY_SECONDS,
            what=f"{self.name} to be ready with partitions {partitions or ''}",
            every=0.2,
        )
        return self

    @staticmethod
    def _is_ready(health, partitions):
        if partitions is None:
            return health.get("ready") and health["partitions"]
        return health.get("ready") and health["partitions"] == list(partitions)

    def bins(self):
        """Return the blocks on its disk."""
        return list(self.root.rglob("block_*.bin"))


class Site:
    """What one test starts on a broker: workers of one group, producers, and their folders."""

    tables_seconds = 30  # what the tables of any worker may take to be exact

    def __init__(self, brokers, folder):
        self.brokers = brokers
        self.folder = folder
        self.group = f"group-{uuid.uuid4().hex[:8]}"
        self.logs = folder / "logs"
        self.logs.mkdir()
        self.sources = []
        self.workers = []
        self.failed = False
        self._admin = AdminClient({"bootstrap.servers": brokers, **QUIET})
        self._processes = []

    def __enter__(self):
        """Begin without topics of earlier tests."""
        delete_topics(self.brokers)
        return self

    def __exit__(self, *_):
        """End what was started; show what it said if the test failed."""
        for process in self._processes:
            process.clean_up()
        if self.failed:
            for process in self._processes:
                lines = process.said().splitlines()[-LOG_LINES:]
                print(f"--- {process.log}", *lines, sep="\n")  # noqa: T201 - shown on failure

    def source(self, sizes, rng, name="source"):
        """Make a folder of files of random bytes, ``{name: size}``, for a producer *name*."""
        folder = self.folder / name
        for file, size in sizes.items():
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(rng.randbytes(size))
        self.sources.append(folder)
        return folder

    def worker(self, name, **given):
        """Start a worker; *given* are its flags, *under* is what its command begins with.

        *by_faust*: by Faust's own command, with the settings in the environment. *module*: another
        program than `streamapp`, with *environment* beside its flags. *popen*: what it is to read
        from and write to.
        """
        worker = Worker(self, name, given)
        self.workers.append(worker)
        self._processes.append(worker)
        return worker.start()

    def ready_workers(self, *names, **given):
        """Start workers, and wait until the group's partitions are spread over all of them."""
        workers = [self.worker(name, **given) for name in names]
        self.wait_until_shared(workers)
        return workers

    def wait_until_shared(self, workers):
        """Wait until *workers* have all partitions among them, each some."""

        def is_shared():
            health = [worker.health for worker in workers]
            held = [p for h in health if h.get("ready") for p in h["partitions"]]
            return all(h.get("partitions") for h in health) and sorted(held) == [*range(PARTITIONS)]

        names = ", ".join(worker.name for worker in workers)
        wait_for(
            is_shared, within=READY_SECONDS, what=f"{names} to share the partitions", every=0.2
        )

    def producer(self, source, name="source", *, under=(), popen=(), **given):
        """Start a producer of the folder *source*; *under*: what its command begins with.

        *popen*: what it is to read from and write to.
        """
        common = {"machine_id": name, "group_id": self.group, "brokers": self.brokers}
        options = flags(common | {"data_folder": source} | given)
        command = [*under, sys.executable, "-m", "streamapp", "producer", *options]
        process = Process(f"producer-{len(self._processes)}", command, self.logs, popen=popen)
        self._processes.append(process)
        return process.start()

    def process(self, name, command, environment=()):
        """Start any other command of the test's."""
        process = Process(name, command, self.logs, environment)
        self._processes.append(process)
        return process.start()

    # --- what happened

    def ends(self):
        """Return where each partition of `data-blocks` ends; empty while there is none."""
        request = {TopicPartition(DATA_BLOCKS, n): OffsetSpec.latest() for n in range(PARTITIONS)}
        found = self._admin.list_offsets(request, request_timeout=10)
        try:
            return {place.partition: future.result().offset for place, future in found.items()}
        except KafkaException:  # no such topic, or no leader for it now
            return {}

    def records(self):
        """Return how many records were ever written to `data-blocks`."""
        return sum(self.ends().values())

    def committed(self):
        """Return what the group has committed of `data-blocks`, by partition."""
        places = [TopicPartition(DATA_BLOCKS, number) for number in range(PARTITIONS)]
        with reader(self.brokers, self.group) as consumer:
            found = consumer.committed(places, timeout=10)
        return {place.partition: place.offset for place in found if place.offset >= 0}

    def wait_until_committed(self, within=60):
        """Wait until every record of `data-blocks` is done for good."""

        def is_done():
            ends, committed = self.ends(), self.committed()
            late = {p: (committed.get(p), end) for p, end in ends.items() if end}
            return all(done == end for done, end in late.values())

        wait_for(is_done, within=within, what="all records to be committed", every=0.3)

    def stored(self):
        """Return how many blocks lie on the disks; one on two disks counts twice."""
        return sum(len(worker.bins()) for worker in self.workers)

    def wait_until_stored(self, count, within=DELIVERY_SECONDS):
        """Wait until *count* blocks lie on the disks."""
        wait_for(lambda: self.stored() >= count, within=within, what=f"{count} blocks", every=0.02)

    def acks(self):
        """Return all acknowledgements as they stand on the topic, by file and block.

        The order in which partitions are read is chance.
        """
        found = checker.read_acks(self.brokers)
        return sorted(found, key=lambda ack: (ack["file_id"], ack["block"], ack["at"]))

    def statuses(self):
        """Return all status records, by their kind."""
        found = collections.defaultdict(list)
        for record in checker.read_topic(self.brokers, STATUS):
            with contextlib.suppress(ValueError, TypeError):
                said = json.loads(record.value())
                found[said["kind"]].append(said)
        return found

    def verdict(self, sources=None, *, block_size=MIB, stopped=False, with_tables=True):
        """Return what the checker says; *sources* (``{machine id: folder}``) must be there whole.

        The tables follow the acknowledgements: they get some time to be exact, in the views of
        every worker that runs.
        """
        acks = self.acks()
        for worker in self.workers:
            if worker.is_running and with_tables and not stopped:
                self._wait_for_tables(worker, acks)
        files = {}
        for name, folder in (sources or {}).items():
            files |= checker.source_files(folder, source=name, block_size=block_size)
        disks = [
            checker.read_disk(worker.root, stopped=stopped)
            for worker in self.workers
            if worker.root.exists()
        ]
        verdict = checker.check(
            disks, acks, self.group, sources=files if sources else None, block_size=block_size
        )
        known = [*self.sources, self.logs]
        roots = [worker.root for worker in self.workers]
        strays = checker.strays(self.folder, roots, known)
        verdict.problems += [f"{path} lies outside of the data folders" for path in strays]
        return verdict

    def _wait_for_tables(self, worker, acks):
        last = []

        def is_exact():
            try:
                last[:] = checker.check_tables(checker.read_views(worker.url), acks, self.group)
            except (OSError, ValueError, KeyError) as error:  # a rebalance: 503
                last[:] = [repr(error)]
            return not last

        try:
            wait_for(is_exact, within=self.tables_seconds, what="the tables", every=0.3)
        except AssertionError as error:
            message = f"asked of {worker.name}, the tables are wrong: {last}"
            raise AssertionError(message) from error

    def stop_workers(self):
        """End all workers as their user would; return the seconds that the slowest took."""
        began = time.monotonic()
        running = [worker for worker in self.workers if worker.is_running]
        for worker in running:
            worker.send(signal.SIGTERM)
        for worker in running:
            worker.wait(STOP_SECONDS)
        return time.monotonic() - began


@contextlib.contextmanager
def reader(brokers, group):
    """Give a consumer that joins no group: it only asks."""
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": group, **QUIET})
    try:
        yield consumer
    finally:
        consumer.close()


def delete_topics(brokers):
    """Delete the topics of earlier tests, and wait until they are gone."""
    admin = AdminClient({"bootstrap.servers": brokers, **QUIET})

    def names():
        found = admin.list_topics(timeout=30).topics
        return [name for name in found if not name.startswith("__")]

    if old := names():
        for future in admin.delete_topics(old, operation_timeout=30).values():
            with contextlib.suppress(KafkaException):  # an earlier test may be deleting it
                future.result()
        wait_for(lambda: not names(), within=30, what="topics to be deleted")


def zstd_bomb(size):
    """Return a few KB of zstd that become *size* zeros."""
    return zstandard.ZstdCompressor(level=19).compress(bytes(size))


class RawBlock:
    """A file of one block, as a producer would send it; for tests that send frames by hand."""

    def __init__(self, rng, *, size, frames=1, name=None, number=0, **meta):
        self.number = number
        self.name = name or f"raw/{rng.randbytes(16).hex()}"
        self.attempt = rng.randrange(1, 1 << 40)
        self._step = max(1, -(-size // frames))
        self.with_data(rng.randbytes(size))
        self.meta = {
            "name": self.name,
            "file_size": size,
            "blocks": 1,
            "block_size": max(1, size),
            "start": 0,
            "size": size,
            "mtime_ns": 1,
            "source": "raw",
            "sent_ns": 2,
        } | meta
        self.file_id = fileplan.file_id(
            **{field: self.meta[field] for field in ("source", "name", "mtime_ns", "block_size")},
            size=self.meta["file_size"],
        )

    def with_data(self, data):
        """Give it another content, of the same size."""
        self.sha256 = hashlib.sha256(data).digest()
        self.pieces = [data[i : i + self._step] for i in range(0, len(data), self._step)] or [b""]
        return self

    def frames(self):
        """Return its frames, whose fields a test may change before they are encoded."""
        offset, found = 0, []
        for number, piece in enumerate(self.pieces):
            is_last = number == len(self.pieces) - 1
            found.append(
                frames.Frame(
                    file_id=self.file_id,
                    block=self.number,
                    attempt=self.attempt,
                    frame=number,
                    offset=offset,
                    length=len(piece),
                    meta=None if number else frames.BlockMeta(**self.meta),
                    seal=frames.Seal(self.sha256, number + 1) if is_last else None,
                )
            )
            offset += len(piece)
        return found

    def records(self):
        """Return its records: key, value and headers."""
        pairs = zip(self.frames(), self.pieces, strict=True)
        return [(frame.key, piece, frames.encode(frame)) for frame, piece in pairs]


class RawSender:
    """Writes records to `data-blocks`, whatever they are."""

    def __init__(self, site):
        self._producer = Producer({"bootstrap.servers": site.brokers, "linger.ms": 5, **QUIET})

    def send(self, records, *, partition, topic=DATA_BLOCKS):
        """Write *records*, in order; return when Kafka has them."""
        for key, value, headers in records:
            self._producer.produce(topic, value, key, partition=partition, headers=headers)
        assert 0 == self._producer.flush(30)
