"""Proves, from the disks and the topics alone, what the machines have: the judge of the tests.

It shares no code with the program that it judges. What it knows of folders, JSON, digests and
identities is written here a second time, from docs/protocol.md and docs/state.md, with nothing
but the standard library and confluent_kafka. That it can fail is proven in
tests/integration/test_checker.py.

    python -m tests.checker --brokers HOST:PORT --group ID --machine FOLDER [--machine FOLDER …]
        [--source FOLDER --source-id MACHINE --block-size BYTES] [--view URL] [--stopped]
"""

from __future__ import annotations

import argparse
import base64
import collections
import hashlib
import json
import os
import re
import sys
import urllib.parse
import urllib.request

from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition


ACKS = "block-acknowledgments"
ACK_FIELDS = {"file_id", "block", "blocks", "group", "machine", "outcome", "attempt", "size"}
PRIVATE = {"quarantine", ".streamapp", ".lock", ".folder.json"}
BIN = re.compile(r"block_(\d{4,})\.bin")
METADATA = re.compile(r"block_(\d{4,})_metadata\.json")
CHUNK = 1 << 20
READ_SECONDS = 30
PAGE = 1000


@dataclass(frozen=True)
class Stored:
    """One block as it lies on a disk; *sha256* is of the bytes that are there now."""

    path: Path
    metadata: dict
    sha256: str

    @property
    def key(self):
        """File id and number."""
        return self.metadata["file_id"], self.metadata["block"]


@dataclass
class Disk:
    """What lies in one data folder; *unnamed* has metadata whose bytes are not there."""

    root: Path
    machine: str
    persisted_by: str | None = ""
    blocks: list[Stored] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unnamed: list[Path] = field(default_factory=list)


@dataclass
class Verdict:
    """What was found.

    *doubled* are blocks that two machines of one group have: allowed, rare. *holders* says for
    each block which machines have it.
    """

    problems: list[str]
    doubled: list[tuple[str, int]]
    holders: dict[tuple[str, int], set[str]]
    blocks: int
    acks: int
    files: int


# --- disks


def sha256_of(path):
    """Return the SHA-256 of the file at *path*, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_disk(root, *, stopped=True, persisted_by=""):
    """Return what lies in the data folder *root*; after a clean stop no ``.part`` may be left.

    *persisted_by* is which machine persisted the blocks, where that is not the one that has the
    folder now; None: any.
    """
    disk = Disk(root, root.name.removeprefix("processed_data_"))
    disk.persisted_by = disk.machine if persisted_by == "" else persisted_by
    for folder, folder_names, names in os.walk(root):
        here = Path(folder)
        if here == root:
            folder_names[:] = [name for name in folder_names if name not in PRIVATE]
            names = [name for name in names if name not in PRIVATE]  # noqa: PLW2901 - fewer of them
        disk.problems += [
            f"{here / name} is a link"
            for name in folder_names + names
            if (here / name).is_symlink()
        ]
        _read_folder(disk, here, names, stopped=stopped)
    return disk


def _read_folder(disk, folder, names, *, stopped):
    file = None
    if "file.json" in names:
        file = _json(disk, folder / "file.json")
    for name in sorted(names):
        path = folder / name
        if name == "file.json":
            continue
        if name.endswith(".part"):
            if stopped:
                disk.problems.append(f"{path} is left over")
        elif METADATA.fullmatch(name):
            if not path.with_name(name.replace("_metadata.json", ".bin")).exists():
                disk.unnamed.append(path)
        elif found := BIN.fullmatch(name):
            _read_block(disk, path, int(found[1]), file)
        else:
            disk.problems.append(f"{path} is nothing that a worker writes")


def _read_block(disk, path, number, file):
    """I2: a block under its name is whole, and is what its metadata says."""
    metadata = _json(disk, path.with_name(path.stem + "_metadata.json"))
    if metadata is None or file is None:
        disk.problems.append(f"{path} has no metadata or no file.json")
        return
    sha256, size = sha256_of(path), path.stat().st_size
    try:
        start = number * metadata["block_size"]
        length = min(metadata["block_size"], metadata["file_size"] - start)
        expected = {
            "block": number,
            "sha256": sha256,
            "size": size,
            "start": start,
            "end": start + length,
            "machine": metadata["machine"] if disk.persisted_by is None else disk.persisted_by,
            "file_size": file["size"],
            **{name: file[name] for name in ("file_id", "name", "blocks", "block_size", "source")},
        }
    except (KeyError, TypeError) as error:
        disk.problems.append(f"{path}: metadata without {error}")
        return
    found = {name: metadata.get(name) for name in expected}
    if length != size or found != expected:
        wrong = {k: (found[k], expected[k]) for k in expected if found[k] != expected[k]}
        disk.problems.append(f"{path} of {size} bytes, expected {length}; metadata says {wrong}")
        return
    if identity(metadata)[0] != metadata["file_id"]:
        disk.problems.append(f"{path} is kept under the id of another file")
        return
    disk.blocks.append(Stored(path, metadata, sha256))


def _json(disk, path):
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        disk.problems.append(f"{path} cannot be read: {error}")
        return None
    if not isinstance(value, dict):
        disk.problems.append(f"{path} holds no object")
        return None
    return value


def check_repeats(disks):
    """I5: return the problems, and the blocks that two machines of one group have."""
    places = collections.defaultdict(list)
    for disk in disks:
        for block in disk.blocks:
            places[block.key, block.metadata["group"]].append((disk.machine, block))
    problems, doubled = [], []
    for (key, _), held in places.items():
        machines = [machine for machine, _ in held]
        if len(machines) > len(set(machines)):
            problems.append(f"{key} is stored twice: {[str(b.path) for _, b in held]}")
        elif len(machines) > 1:
            doubled.append(key)
        if len({block.sha256 for _, block in held}) > 1:
            problems.append(f"{key} has two contents: {[str(b.path) for _, b in held]}")
    return problems, sorted(doubled)


def strays(base, roots, known=()):
    """Return what lies below *base* and in none of *roots*, but for the paths in *known*."""
    allowed = set(known) | set(roots) | {up for root in roots for up in root.parents}
    found = []
    for folder, folder_names, names in os.walk(base):
        here = Path(folder)
        found += [here / n for n in folder_names + names if here / n not in allowed]
        folder_names[:] = [n for n in folder_names if here / n not in set(roots) | set(known)]
    return found


# --- sources


def file_id_of(path, name, *, source, block_size):
    """Return the id of the first version of the file at *path*."""
    found = path.stat()
    return id_of_fields(source, name, found.st_size, found.st_mtime_ns, block_size)


def id_of_fields(*fields):
    """Return the file id: 32 digits of a SHA-256 over the fields, each behind its length."""
    digest = hashlib.sha256()
    for value in fields:
        raw = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
        digest.update(len(raw).to_bytes(4, "big") + raw)
    return digest.hexdigest()[:32]


def identity(metadata):
    """Return the file id that *metadata* should have, and that of the file's first version."""
    name = base64.b64decode(metadata.get("raw_name", "")) or metadata["name"]
    fields = [metadata["source"], name]
    fields += [metadata[field] for field in ("file_size", "mtime_ns", "block_size")]
    version = metadata.get("version", "")
    first = id_of_fields(*fields)
    return id_of_fields(*fields, version) if version else first, first


def source_files(folder, *, source, block_size):
    """Return ``{file id: path}`` of the regular files below *folder*."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    return {
        file_id_of(p, p.relative_to(folder).as_posix(), source=source, block_size=block_size): p
        for p in paths
    }


def check_sources(sources, disks, *, block_size):
    """I3: every source file is there, whole: its blocks, joined, have its SHA-256.

    It may be there under the id of any version; what other versions hold is not its matter.
    """
    held = collections.defaultdict(dict)
    versions = collections.defaultdict(set)
    for disk in disks:
        for block in disk.blocks:
            file_id, number = block.key
            held[file_id][number] = block
            versions[identity(block.metadata)[1]].add(file_id)
    problems = []
    for first, path in sources.items():
        found = [
            _check_source(file_id, path, held[file_id], block_size=block_size)
            for file_id in sorted({first} | versions[first])
        ]
        problems += [] if None in found else found
    return problems


def _check_source(file_id, path, held, *, block_size):
    """Return what is wrong with the file at *path* under *file_id*; None when it is there."""
    blocks = max(1, -(-path.stat().st_size // block_size))
    missing = sorted(set(range(blocks)) - held.keys())
    if missing or len(held) != blocks:
        return f"{path} ({file_id}): blocks {missing[:20]} of {blocks} are missing"
    digest = hashlib.sha256()
    for number in range(blocks):
        with held[number].path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    if digest.hexdigest() != sha256_of(path):
        return f"{path} ({file_id}) is not what was sent"
    return None


# --- topics


def read_topic(brokers, topic):
    """Return all records of *topic* that are there now, in the order of each partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": "tests-checker",
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    try:
        partitions = consumer.list_topics(topic, timeout=READ_SECONDS).topics[topic].partitions
        ends = {}
        for number in partitions:
            low, high = consumer.get_watermark_offsets(
                TopicPartition(topic, number), timeout=READ_SECONDS
            )
            if high > low:
                ends[number] = high
        consumer.assign([TopicPartition(topic, n, OFFSET_BEGINNING) for n in ends])
        records = []
        while ends:
            message = consumer.poll(READ_SECONDS)
            if message is None:
                raise TimeoutError(f"topic {topic} ends before {ends}")
            if message.error():
                raise ConnectionError(str(message.error()))
            records.append(message)
            if message.offset() + 1 >= ends.get(message.partition(), 0):
                ends.pop(message.partition(), None)
        return records
    finally:
        consumer.close()


def read_acks(brokers):
    """Return every acknowledgement on the topic, without records of unknown producers."""
    acks = []
    for record in read_topic(brokers, ACKS):
        try:
            ack = json.loads(record.value() or b"null")
        except (ValueError, RecursionError):
            continue
        if isinstance(ack, dict) and ACK_FIELDS <= ack.keys():
            acks.append(ack)
    return acks


def persisted(acks, group):
    """Return ``{(file id, block, machine): ack}`` of what *group* has, newest; lost is lost."""
    found = {}
    for ack in acks:
        key = (ack["file_id"], ack["block"], ack["machine"])
        if ack["group"] != group:
            continue
        if ack["outcome"] == "persisted":
            found[key] = ack
        elif ack["outcome"] == "lost":
            found.pop(key, None)
    return found


def check_acks(acks, disks, group):
    """I1: what was acknowledged lies on that machine's disk, with that SHA-256."""
    held = {(*block.key, disk.machine): block for disk in disks for block in disk.blocks}
    problems = []
    for key, ack in persisted(acks, group).items():
        block = held.get(key)
        if block is None:
            problems.append(f"acknowledged, and not on the disk: {key}")
            continue
        said = [ack[name] for name in ("sha256", "size", "blocks", "name", "group")]
        lies = [block.sha256, *(block.metadata[n] for n in ("size", "blocks", "name", "group"))]
        if said != lies:
            problems.append(f"{key} is acknowledged as {said}, on the disk is {lies}")
    return problems


# --- tables


def read_views(url):
    """Return what the views at *url* say: all files, their blocks, all machines."""
    files, after = [], ""
    while after is not None:
        page = _get(f"{url}/progress/?limit={PAGE}&after={urllib.parse.quote(after)}")
        files += page["files"]
        after = page["next"]
    machines = _get(f"{url}/machines/")
    return {
        "silent": page["silent"] + machines["silent"],
        "totals": page["totals"],
        "files": files,
        "blocks": {f["file_id"]: _get(f"{url}/progress/{f['file_id']}/blocks/") for f in files},
        "machines": machines["machines"],
    }


def check_tables(views, acks, group):
    """The tables, as the *views* give them, count what was acknowledged: no more and no less."""
    have = collections.defaultdict(dict)
    for (file_id, block, _), ack in persisted(acks, group).items():
        have[file_id][block] = ack
    rows = {row["file_id"]: row for row in views["files"]}
    problems = [f"{f} is acknowledged, and in no table" for f in have.keys() - rows.keys()]
    if len(rows) != len(views["files"]):
        problems.append("a file stands in the tables twice")
    for file_id, row in rows.items():
        blocks = have[file_id]
        size = sum(ack["size"] for ack in blocks.values())
        is_complete = bool(blocks) and len(blocks) == next(iter(blocks.values()))["blocks"]
        is_current = row["state"] != "superseded"
        found = (row["persisted_blocks"], row["persisted_bytes"], row["state"] == "complete")
        expected = (len(blocks), size, is_complete and is_current)
        if found != expected:
            problems.append(f"{file_id}: the tables have {found}, acknowledged are {expected}")
        if (bits := _bits(views["blocks"][file_id])) != set(blocks):
            problems.append(f"{file_id}: the tables have blocks {sorted(bits ^ set(blocks))} wrong")
    current = [row for row in rows.values() if row["state"] != "superseded"]
    totals = {
        "files": len(current),
        "complete": sum(row["state"] == "complete" for row in current),
        "bytes": sum(row["size"] for row in current),
        "persisted_bytes": sum(row["persisted_bytes"] for row in current),
        "superseded": len(rows) - len(current),
    }
    if totals != views["totals"]:
        problems.append(f"the totals are {views['totals']}, the rows make {totals}")
    machines = {ack["machine"] for blocks in have.values() for ack in blocks.values()}
    silent = machines - {machine["machine"] for machine in views["machines"]}
    problems += [f"the worker at {url} did not answer" for url in views["silent"]]
    return problems + [f"machine {name} is in no table" for name in sorted(silent)]


def _bits(answer):
    found = set()
    for run in answer["runs"]:
        for index, byte in enumerate(bytes.fromhex(run["bits"])):
            found |= {run["first"] + 8 * index + bit for bit in range(8) if byte >> bit & 1}
    return found


def _get(url):
    with urllib.request.urlopen(url, timeout=READ_SECONDS) as answer:  # noqa: S310 - loopback
        return json.load(answer)


# --- all of it


def check(disks, acks, group, *, sources=None, block_size=0, views=None):  # noqa: PLR0913
    """Return the verdict on *disks* and *acks*; *sources* and *views* where they are given."""
    problems = [problem for disk in disks for problem in disk.problems]
    repeats, doubled = check_repeats(disks)
    problems += repeats + check_acks(acks, disks, group)
    if sources is not None:
        problems += check_sources(sources, disks, block_size=block_size)
    if views is not None:
        problems += check_tables(views, acks, group)
    holders = collections.defaultdict(set)
    for disk in disks:
        for block in disk.blocks:
            holders[block.key].add(disk.machine)
    return Verdict(
        problems=problems,
        doubled=doubled,
        holders=dict(holders),
        blocks=len(holders),
        acks=len(persisted(acks, group)),
        files=len({file_id for file_id, _ in holders}),
    )


def main():
    """Check what the arguments name; exit code 1 when something is wrong."""
    parser = argparse.ArgumentParser(description="Check disks, acknowledgements and tables.")
    parser.add_argument("--brokers", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--machine", type=Path, action="append", required=True)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--source-id", default="")
    parser.add_argument("--block-size", type=int, default=128 << 20)
    parser.add_argument("--view", help="URL of a worker's views")
    parser.add_argument("--stopped", action="store_true", help="no worker runs: no .part is left")
    given = parser.parse_args()
    sources = given.source and source_files(
        given.source, source=given.source_id, block_size=given.block_size
    )
    verdict = check(
        [read_disk(root, stopped=given.stopped) for root in given.machine],
        read_acks(given.brokers),
        given.group,
        sources=sources,
        block_size=given.block_size,
        views=read_views(given.view) if given.view else None,
    )
    said = {name: value for name, value in vars(verdict).items() if name != "holders"}
    json.dump(said, sys.stdout, indent=2)
    sys.stdout.write("\n")
    return 1 if verdict.problems else 0


if __name__ == "__main__":
    sys.exit(main())
