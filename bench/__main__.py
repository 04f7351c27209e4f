"""The command: makes the data, runs the rounds, prints the table, keeps it in the docs.

Within a round the contestants follow each other, and every second round the other way about:
whatever else the machine does then meets all of them.
"""

from __future__ import annotations

import math
import os
import shlex
import shutil
import signal
import sys
import tempfile

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from rich.console import Console

from bench import data, runs
from bench.child import Failure
from bench.report import DOCS, Results
from bench.rig import Rig
from streamapp.errors import StreamAppError
from streamapp.units import GIB, MIB, format_size


if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.runs import Run

PARTS: Final = ("memory", "random", "reading", "text")
_COPIES: Final = 5
"""How often what is sent lies on the disk: the source, three brokers, the workers."""

WIDTH: Final = 120
WARM_UP_BYTES: Final = GIB
MAX_WARM_UPS: Final = 10
STEADY: Final = 0.9
"""Brokers are warm when they need more than this part of what they needed the time before."""


@click.command()
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 100))
@click.option("--gib", default=2.0, show_default=True, help="What each run sends.")
@click.option("--quick", is_flag=True, help="One round of 0.5 GiB; the docs stay as they are.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to work; default: here.")
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="Only this.")
def main(
    *, rounds: int, gib: float, quick: bool, folder: Path | None, parts: tuple[str, ...]
) -> None:
    """Measure streamapp beside Kafka's own tools."""
    for name in [name for name in os.environ if name.startswith("STREAMAPP_")]:
        if name != "STREAMAPP_JAVA":
            del os.environ[name]  # measured is what everybody gets
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started, as Ctrl-C
    console = Console(width=WIDTH)
    size = (GIB // 2) if quick else int(gib * 1024) * MIB
    rounds = 1 if quick else rounds
    command = shlex.join(["python", "-m", "bench", *sys.argv[1:]])
    memory_size = GIB if quick else 4 * GIB
    place = Path(tempfile.mkdtemp(prefix="streamapp-bench-", dir=folder or Path.cwd()))
    try:
        _check_room(place, max(size, memory_size))
        results = Results(size=size, rounds=rounds, memory_size=memory_size)
        with Rig(place) as rig:
            is_warm = False
            for part in parts or PARTS:
                if part != "memory" and not is_warm:
                    _warm_up(console, rig, at_most=1 if quick else MAX_WARM_UPS)
                    is_warm = True
                _PARTS[part](console, rig, results)
                if not quick and not parts:  # a later part may fail
                    results.keep(command=command)
    except (Failure, StreamAppError) as error:
        sys.exit(f"bench: {error}")
    console.print(results.table())
    if not quick and not parts:
        console.print(f"Kept in {DOCS}")
    shutil.rmtree(place)


def _warm_up(console: Console, rig: Rig, *, at_most: int) -> None:
    """Let the brokers' Java compile what it needs: the first runs would pay for all others."""
    source = data.random_files(rig.folder / "random", WARM_UP_BYTES)
    letters = data.payload_file(rig.folder / "letters", runs.PAYLOADS, runs.RECORD_BYTES)
    needed = math.inf
    for number in range(1, at_most + 1):
        runs.perf_test(rig, WARM_UP_BYTES, letters)
        run = runs.end_to_end(rig, WARM_UP_BYTES, source, workers=1)
        console.print(f"warm-up {number}: brokers {run.brokers:.1f} CPU s/GiB", highlight=False)
        if run.brokers > STEADY * needed:
            break
        needed = run.brokers
    shutil.rmtree(source)


def _random(console: Console, rig: Rig, results: Results) -> None:
    source = data.random_files(rig.folder / "random", results.size)
    letters = data.payload_file(rig.folder / "letters", runs.PAYLOADS, runs.RECORD_BYTES)
    contestants: dict[str, Callable[[], Run]] = {
        "perf": lambda: runs.perf_test(rig, results.size, letters),
        "one": lambda: runs.end_to_end(rig, results.size, source, workers=1),
        "two": lambda: runs.end_to_end(rig, results.size, source, workers=2),
    }
    _alternate(console, results, contestants)
    shutil.rmtree(source)


def _text(console: Console, rig: Rig, results: Results) -> None:
    source = data.log_files(rig.folder / "log", results.size)
    lines = data.text_payload_file(rig.folder / "lines", runs.RECORD_BYTES)
    contestants: dict[str, Callable[[], Run]] = {
        "perf_text": lambda: runs.perf_test(rig, results.size, lines),
        "perf_zstd": lambda: runs.perf_test(rig, results.size, lines, compression_type="zstd"),
        "text": lambda: runs.end_to_end(rig, results.size, source, workers=1),
    }
    _alternate(console, results, contestants)
    shutil.rmtree(source)


def _reading(console: Console, rig: Rig, results: Results) -> None:
    source = data.random_files(rig.folder / "random", results.size)
    for number in range(results.rounds):
        loop, worker = runs.reading(rig, results.size, source)
        _note(console, results, "loop", number, loop)
        _note(console, results, "worker", number, worker)
    shutil.rmtree(source)


def _memory(console: Console, rig: Rig, results: Results) -> None:
    source = data.one_file(rig.folder / "large", results.memory_size)
    results.peaks = runs.peaks(rig, results.memory_size, source)
    console.print(results.peaks)
    shutil.rmtree(source)


_PARTS: Final = {"memory": _memory, "random": _random, "reading": _reading, "text": _text}


def _alternate(
    console: Console, results: Results, contestants: dict[str, Callable[[], Run]]
) -> None:
    for number in range(results.rounds):
        names = list(contestants)
        for name in names if number % 2 == 0 else reversed(names):
            _note(console, results, name, number, contestants[name]())


def _note(console: Console, results: Results, name: str, number: int, run: Run) -> None:
    results.runs.setdefault(name, []).append(run)
    console.print(
        f"round {number + 1}, {name}: {run.rate:.0f} MiB/s ({run.wall_seconds:.1f} s); CPU s/GiB: "
        f"client {run.client:.1f}, workers {run.workers:.1f}, brokers {run.brokers:.1f}; "
        f"others took {run.others_share:.0%} of the machine",
        highlight=False,
    )


def _check_room(folder: Path, size: int) -> None:
    need, free = _COPIES * size + 4 * GIB, shutil.disk_usage(folder).free
    if free < need:
        raise Failure(f"{folder}: {format_size(need)} are needed, {format_size(free)} are free")


if __name__ == "__main__":
    main()
