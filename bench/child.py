"""A process that a measurement starts: what it said, what it cost, how much memory it took."""

from __future__ import annotations

import os
import subprocess
import time

from pathlib import Path
from typing import Final

import psutil


LOOK_SECONDS: Final = 0.02
STOP_SECONDS: Final = 30.0


class Failure(Exception):  # noqa: N818 - the end of a measurement, not an error of the program
    """A measurement that cannot be made; the message says why."""


class Child:
    """A process in *folder*; what it says goes to ``<name>.out`` and ``<name>.err`` there."""

    def __init__(self, name: str, command: list[str], folder: Path) -> None:
        self.name = name
        self.out, self.err = folder / f"{name}.out", folder / f"{name}.err"
        self.began = time.monotonic()
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self._popen = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self.peak_bytes = 0
        self.code: int | None = None

    def finish(self, within: float) -> Child:
        """Wait until it ends by itself, with code 0; then its cost is exact."""
        self._wait(within)
        if self.code:
            last = self.err.read_text("utf-8", "replace").strip().splitlines()[-3:]
            raise Failure(f"{self.name} ended with code {self.code}: {last}")
        return self

    def look(self) -> None:
        """Note what it has cost so far, and its peak of memory; fail when it has ended."""
        self.peak_bytes = max(self.peak_bytes, _peak_bytes(self._popen.pid))
        try:
            self.cpu_seconds = cpu_seconds([self._popen.pid])
        except psutil.NoSuchProcess:
            raise Failure(f"{self.name} ended, see {self.err}") from None

    def stop(self) -> None:
        """End it as its user would, and by force if it does not listen."""
        if self.code is None:
            self._popen.terminate()
            try:
                self._wait(STOP_SECONDS)
            except Failure:
                self._popen.kill()
                self._wait(STOP_SECONDS)

    def _wait(self, within: float) -> None:
        deadline = time.monotonic() + within
        while self.code is None:
            pid, status, usage = os.wait4(self._popen.pid, os.WNOHANG)
            if pid:
                self.code = self._popen.returncode = os.waitstatus_to_exitcode(status)
                self.seconds = time.monotonic() - self.began
                self.cpu_seconds = usage.ru_utime + usage.ru_stime
            elif time.monotonic() > deadline:
                raise Failure(f"{self.name} did not end within {within:.0f} s, see {self.err}")
            else:
                self.peak_bytes = max(self.peak_bytes, _peak_bytes(self._popen.pid))
                time.sleep(LOOK_SECONDS)


def cpu_seconds(pids: list[int]) -> float:
    """Return the processor time, user and system, of the processes *pids* up to now."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(t.user + t.system for t in times)


def _peak_bytes(pid: int) -> int:
    """Return the most memory that the process ever had; ``ru_maxrss`` has our own in it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii", "replace")
    except OSError:
        return 0
    peaks = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(peaks[0]) << 10 if peaks else 0
