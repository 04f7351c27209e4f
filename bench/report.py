"""The results: medians of all rounds, as a table on the terminal and in docs/benchmarks.md.

In the document only what stands between the two markers is written anew.
"""

from __future__ import annotations

import platform
import statistics
import subprocess

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

from rich.table import Table

import streamapp

from streamapp.broker.jars import KAFKA_VERSION
from streamapp.broker.java import find_java
from streamapp.units import GIB, MIB, format_size


if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.runs import Peaks, Run

PROJECT: Final = Path(__file__).parent.parent
DOCS: Final = PROJECT / "docs" / "benchmarks.md"
BEGIN: Final = "<!-- written by python -m bench: begin -->"
END: Final = "<!-- written by python -m bench: end -->"

ROWS: Final = {
    "perf": ("kafka-producer-perf-test, random", ""),
    "one": ("streamapp, random, 1 worker", "perf"),
    "two": ("streamapp, random, 2 workers", "perf"),
    "perf_text": ("kafka-producer-perf-test, log text", ""),
    "perf_zstd": ("the same with compression.type=zstd", "perf_text"),
    "text": ("streamapp, log text, 1 worker", "perf_text"),
    "loop": ("bare aiokafka loop, reads and drops", ""),
    "worker": ("worker alone: verify, write, fsync", "loop"),
}
"""Each row's name, and the row that it is compared with."""

HEAD: Final = (
    "run", "MiB/s", "ratio", "client", "workers", "brokers", "others",
)  # fmt: skip


def _commit() -> str:
    answer = subprocess.run(
        ["git", "describe", "--always", "--dirty"],  # noqa: S607 - whichever git there is
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip() or "unknown"


@dataclass
class Results:
    """All runs by the name of their row, and what memory took."""

    size: int
    rounds: int
    memory_size: int
    runs: dict[str, list[Run]] = field(default_factory=dict)
    peaks: Peaks | None = None
    commit: str = field(default_factory=_commit)  # before the document changes

    def table(self) -> Table:
        """Return all rows for a terminal."""
        table = Table(*HEAD, caption="MiB/s and ratio: median (min to max); CPU seconds per GiB")
        for row in self._rows():
            table.add_row(*row)
        return table

    def keep(self, *, command: str) -> None:
        """Write the rows into the document, with the conditions."""
        text = DOCS.read_text("utf-8")
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        lines = [BEGIN, "", *self._conditions(command), "", *self._markdown(), "", END]
        DOCS.write_text(before + "\n".join(lines) + after, "utf-8")

    def _rows(self) -> Iterator[tuple[str, ...]]:
        for name, (title, base) in ROWS.items():
            if found := self.runs.get(name):
                ratios = [
                    run.rate / other.rate
                    for run, other in zip(found, self.runs.get(base, []), strict=False)
                ]
                yield (
                    title,
                    _spread([run.rate for run in found], ".0f"),
                    _spread(ratios, ".2f"),
                    *(
                        f"{statistics.median(getattr(run, who) for run in found):.1f}"
                        for who in ("client", "workers", "brokers")
                    ),
                    f"{statistics.median(run.others_share for run in found):.0%}",
                )

    def _markdown(self) -> Iterator[str]:
        yield f"| {' | '.join(HEAD)} |"
        yield f"|---{'|---:' * (len(HEAD) - 1)}|"
        for row in self._rows():
            yield f"| {' | '.join(row)} |"
        if self.peaks is not None:
            yield ""
            yield f"| one file of {format_size(self.memory_size)} | measured | aim |"
            yield "|---|---:|---:|"
            yield f"| producer's peak memory | {_mib(self.peaks.producer_bytes)} | < 200 MiB |"
            yield f"| worker's peak memory | {_mib(self.peaks.worker_bytes)} | < 300 MiB |"
            seconds = self.peaks.second_seconds
            yield f"| second run over it, whole process | {seconds:.1f} s | < 3 s |"

    def _conditions(self, command: str) -> Iterator[str]:
        yield f"- {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {self.commit}"
        yield f"- `{command}`: {self.rounds} rounds, {format_size(self.size)} each run"
        yield (
            f"- {psutil.cpu_count()} cores, {psutil.virtual_memory().total / GIB:.0f} GiB of "
            f"memory, one disk, {platform.system()} {platform.machine()}"
        )
        yield (
            f"- Python {platform.python_version()}, Apache Kafka {KAFKA_VERSION} (three brokers, "
            f"replication 3, acks=all), {_java()}, streamapp {streamapp.__version__}"
        )


def _spread(values: list[float], form: str) -> str:
    if not values:
        return ""
    middle = format(statistics.median(values), form)
    return f"{middle} ({format(min(values), form)} to {format(max(values), form)})"


def _mib(size: int) -> str:
    return f"{size / MIB:.0f} MiB"


def _java() -> str:
    answer = subprocess.run(
        [str(find_java()), "-version"], capture_output=True, text=True, check=True
    )
    return f"Java {answer.stderr.split(chr(34))[1]}"
