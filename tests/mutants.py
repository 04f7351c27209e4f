"""Breaks the promises of the core one at a time, and checks that a quick test fails for each.

``python -m tests.mutants [text]`` copies the project, changes one line, runs the quick tests
that hold the promise until the first failure, and prints which test failed. A promise that can
be broken without a failing test is printed as ``SURVIVED``, and the exit code is 1. *text*
selects the promises that contain it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple


if TYPE_CHECKING:
    from collections.abc import Iterable


PROJECT = Path(__file__).resolve().parent.parent
COPIED = ("streamapp", "agents", "tables", "tests", "docs", "bench", ".ci")
PATIENCE_SECONDS = 1200
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


class Mutant(NamedTuple):
    """One broken promise: in *file* the text *old*, which stands there once, becomes *new*.

    *tests* is the file or folder of quick tests (unit or integration) that must fail then.
    """

    promise: str
    tests: str
    file: str
    old: str
    new: str


MUTANTS = (
    Mutant(
        "a block is fsynced before it has its name",
        "tests/integration/test_store.py",
        "streamapp/store/writer.py",
        "                os.fsync(self._file)\n",
        "                pass\n",
    ),
    Mutant(
        "the folder is fsynced when a block has its name",
        "tests/integration/test_store.py",
        "streamapp/store/writer.py",
        "        dirfd.sync_or_undo(at, lambda: os.rename(name, part,",
        "        (lambda *_: None)(at, lambda: os.rename(name, part,",
    ),
    Mutant(
        "nothing is committed beyond an open block",
        "tests/unit/receiver/test_ledger.py",
        "streamapp/receiver/ledger.py",
        "            if offset not in self._settled:\n                return\n",
        "            if offset not in self._settled:\n                self._settled.add(offset)\n",
    ),
    Mutant(
        "records of an older generation are void",
        "tests/unit/receiver/test_ledger.py",
        "streamapp/receiver/ledger.py",
        "generation != last_generation or offset <= last_offset",
        "offset <= last_offset",
    ),
    Mutant(
        "a frame has as many bytes as it declares",
        "tests/unit/receiver/test_assembly.py",
        "streamapp/receiver/assembly.py",
        "if len(data) != frame.length:",
        "if False:",
    ),
    Mutant(
        "a block's SHA-256 is compared with the declared one",
        "tests/unit/receiver/test_partition.py",
        "streamapp/receiver/assembly.py",
        "if frame.seal is None or self.sha256 != frame.seal.sha256:",
        "if frame.seal is None:",
    ),
    Mutant(
        "no more bytes than --window are under way",
        "tests/unit/producer/test_window.py",
        "streamapp/producer/in_flight.py",
        "fits = self._window is None or self.bytes + self._block_size <= self._window",
        "fits = True",
    ),
    Mutant(
        "a lost block is missing from the tables",
        "tests/unit/tables/test_folds.py",
        "tables/rows.py",
        '    elif ack.outcome == "lost":\n        bits[index // 8] &= ~(1 << index % 8)\n',
        "",
    ),
    Mutant(
        "nothing is sent that retention would delete unread",
        "tests/unit/producer/test_retention_check.py",
        "streamapp/producer/retention_check.py",
        "if limit is not None and share > limit:",
        "if False:",
    ),
    Mutant(
        "the web views compare the token",
        "tests/integration/test_views.py",
        "streamapp/web/access.py",
        'if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), wanted.encode()):',
        "if False:",
    ),
    Mutant(
        "only a worker of the group answers for it",
        "tests/integration/test_views.py",
        "tables/web/peers.py",
        "if key is not None:",
        "if False:",
    ),
    Mutant(
        "a file id is the digest of the file's description",
        "tests/unit/protocol/test_frames.py",
        "streamapp/protocol/frames.py",
        '    if name is None:\n        message = (\n            f"file id',
        '    if False:\n        message = (\n            f"file id',
    ),
    Mutant(
        "a block without a proof is compared with the source",
        "tests/unit/producer",
        "streamapp/producer/recognition.py",
        "        proof = self._prover.of_block(ack.file_id, ack.block, file.source, sha256)\n"
        "        return proof.hex() == ack.proof\n",
        "        return True\n",
    ),
    Mutant(
        "with --verify no proof counts",
        "tests/unit/producer",
        "streamapp/producer/recognition.py",
        "if self._verify or not ack.proof:",
        "if not ack.proof:",
    ),
    Mutant(
        "a block that was hashed counts with that SHA-256 alone",
        "tests/unit/producer",
        "streamapp/producer/delivery.py",
        "            if digest != block.sha256:\n",
        "            if False:\n",
    ),
    Mutant(
        "a worker's acknowledgement of a file wins over the producer's status",
        "tests/unit/tables",
        "tables/rows.py",
        "base = self if self.is_acknowledged else self._described_by(ack)",
        "base = self",
    ),
    Mutant(
        "a producer waits for all in-sync replicas",
        "tests/integration/test_clients.py",
        "streamapp/kafka/clients.py",
        '"acks": "all",',
        '"acks": 1,',
    ),
    Mutant(
        "a producer is idempotent",
        "tests/integration/test_clients.py",
        "streamapp/kafka/clients.py",
        '"enable.idempotence": True,',
        '"enable.idempotence": False,',
    ),
    Mutant(
        "a key goes to the partition that Faust and Java choose",
        "tests/integration/test_clients.py",
        "streamapp/kafka/clients.py",
        '"partitioner": "murmur2_random",',
        '"partitioner": "consistent_random",',
    ),
    Mutant(
        "a worker waits for all in-sync replicas",
        "tests/unit/test_wiring.py",
        "streamapp/worker/application.py",
        "producer_acks=-1,",
        "producer_acks=1,",
    ),
    Mutant(
        "a block is acknowledged after it is persisted",
        "tests/unit/receiver/test_partition.py",
        "streamapp/receiver/partition.py",
        "await self._store_retry.run(lambda: writing.writer.commit(meta))",
        "asyncio.ensure_future(asyncio.to_thread(writing.writer.commit, meta))",
    ),
    Mutant(
        "a persisted attempt is Ending while its outcome is published",
        "tests/unit/receiver/test_partition.py",
        "streamapp/receiver/partition.py",
        "self._attempts.move(attempt.id, Ending())\n            self._context.stats.open_blocks",
        "self._context.stats.open_blocks",
    ),
    Mutant(
        "a rejected attempt is Ending while its outcome is published",
        "tests/unit/receiver/test_partition.py",
        "streamapp/receiver/endings.py",
        "        self._abort_write(attempt)\n        self._attempts.move(attempt.id, Ending())\n",
        "        self._abort_write(attempt)\n",
    ),
    Mutant(
        "an attempt takes only the steps of the transition table",
        "tests/unit/receiver/test_attempts.py",
        "streamapp/receiver/attempts.py",
        "if type(phase) not in _NEXT[before]:",
        "if False:",
    ),
    Mutant(
        "a claim is used only after the newest acknowledgements are read",
        "tests/unit/integrity/test_claims.py",
        "streamapp/receiver/partition.py",
        "if claims.of(*block_id) is None or not await claims.catch_up():",
        "if claims.of(*block_id) is None:",
    ),
    Mutant(
        "a claim is read again before its frames are settled",
        "tests/unit/integrity/test_claims.py",
        "streamapp/receiver/endings.py",
        "is_known = await self._context.claims.catch_up()",
        "is_known = True",
    ),
    Mutant(
        "a lost block revokes the claim of its machine",
        "tests/unit/integrity/test_claims.py",
        "streamapp/integrity/claims.py",
        "        self._claims.pop(key, None)\n        self._lost.pop(key, None)\n",
        "        self._lost.pop(key, None)\n",
    ),
    Mutant(
        "a discarded block loses its name durably before its metadata goes",
        "tests/unit/store/test_discard.py",
        "streamapp/store/discard.py",
        "dst_dir_fd=folder)\n    os.fsync(folder)\n",
        "dst_dir_fd=folder)\n",
    ),
)


def mutated(folder: Path, mutant: Mutant) -> None:
    """Break the promise of *mutant* in the copy of the project in *folder*.

    Raises:
        ValueError: the text that it replaces does not stand there exactly once.
    """
    path = folder / mutant.file
    text = path.read_text("utf-8")
    if text.count(mutant.old) != 1:
        message = (
            f"{mutant.file}: {mutant.old!r} stands there {text.count(mutant.old)} times, "
            "expected once: adapt tests/mutants.py"
        )
        raise ValueError(message)
    path.write_text(text.replace(mutant.old, mutant.new), "utf-8")


def first_failure(folder: Path, tests: Iterable[str]) -> str | None:
    """Return the first of *tests* that fails in *folder*; None when all pass."""
    command = [sys.executable, "-m", "pytest", *tests, "-x", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    if done.returncode == 0:
        return None
    found = FAILED.search(done.stdout)
    return found[1] if found else f"pytest exit {done.returncode}: {done.stdout[-500:]}"


def environment(folder: Path) -> dict[str, str]:
    """Return the environment in which Python imports the copy in *folder*."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("STREAMAPP_")}
    return own | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}


def main() -> int:
    """Try every mutant whose promise has the text given; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", nargs="?", default="", help="only promises with this in them")
    wanted = [m for m in MUTANTS if parser.parse_args().text in m.promise]
    with tempfile.TemporaryDirectory() as name:
        control = fresh_copy(Path(name) / "control")
        if failure := first_failure(control, sorted({mutant.tests for mutant in wanted})):
            say(f"the unchanged code fails too: {failure}")
            return 1
        survived = [m for m in wanted if not is_caught(Path(name), m)]
    caught = len(wanted) - len(survived)
    say(f"{len(wanted)} promises broken, {caught} caught by the quick tests")
    return 1 if survived or not wanted else 0


def say(line: str) -> None:
    """Print *line* at once: a run takes minutes."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def is_caught(folder: Path, mutant: Mutant) -> bool:
    """Print, and return, whether a quick test fails for *mutant*."""
    copy = fresh_copy(folder / "mutant")
    mutated(copy, mutant)
    failure = first_failure(copy, [mutant.tests])
    say(f"{mutant.promise}: {failure or 'SURVIVED'}")
    shutil.rmtree(copy)
    return failure is not None


def fresh_copy(folder: Path) -> Path:
    """Return *folder*, which has a copy of the project now."""
    folder.mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    for name in COPIED:
        shutil.copytree(PROJECT / name, folder / name, symlinks=True, ignore=ignored)
    for path in PROJECT.iterdir():
        if path.is_file():
            shutil.copy2(path, folder / path.name)
    return folder


if __name__ == "__main__":
    sys.exit(main())
