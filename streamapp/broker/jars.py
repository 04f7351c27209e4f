"""Apache Kafka's jars: fetched once from Maven Central, then known by their paths.

The class path is cached in the user's cache folder, so that later starts need neither the
network nor jgo's ten seconds. The jars are fetched again if a cached path does not exist. While
they are fetched, a jar that an interrupted download left incomplete is fetched once more.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import zipfile

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import platformdirs

from streamapp.broker.java import find_java
from streamapp.errors import BrokerError


if TYPE_CHECKING:
    from types import ModuleType


logger = logging.getLogger(__name__)

KAFKA_VERSION: Final = "4.2.0"
# slf4j-simple and not slf4j-nop: it writes to stderr, where a broker that dies says why.
COORDINATES: Final = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-simple:1.7.36"
# Kafka's own tools (kafka-producer-perf-test and others), without the 47 jars of Kafka
# Connect that they depend on: the tools used here run without them.
TOOLS: Final = ("org.apache.kafka", "kafka-tools", KAFKA_VERSION)

_DOWNLOADS = 8  # at once; most jars are small and waiting is most of the time
_QUIET = (
    "-Djava.awt.headless=true",
    "-XX:-UsePerfData",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
)


def java_command(
    main_class: str, *args: str, heap_mib: int, flags: tuple[str, ...] = ()
) -> list[str]:
    """Return the command line that runs *main_class* of Apache Kafka with *args*.

    Args:
        main_class: ``org.apache.kafka.tools.ProducerPerformance``, for example.
        *args: Arguments of the class.
        heap_mib: Maximum heap, in MiB.
        flags: Further flags of Java.

    Raises:
        JavaError: there is no Java that is new enough.
        BrokerError: the jars are not here and cannot be fetched.
    """
    jars = os.pathsep.join(str(jar) for jar in classpath())
    java = [str(find_java()), f"-Xmx{heap_mib}m", *_QUIET, *flags]
    return [*java, "-cp", jars, main_class, *args]


def classpath(cache: Path | None = None) -> list[Path]:
    """Return the paths of all jars, from the file *cache* if it is valid.

    Raises:
        BrokerError: the jars are not here and cannot be fetched.
    """
    cache = cache or _default_cache()
    jars = _remembered(cache)
    if jars is None:
        logger.info("fetching Apache Kafka %s, this once", KAFKA_VERSION)
        jars = _fetch()
        _remember(jars, cache)
    return jars


def _default_cache() -> Path:
    return Path(platformdirs.user_cache_dir("streamapp", appauthor=False)) / "kafka-jars.json"


def _remembered(cache: Path) -> list[Path] | None:
    """Return the paths in *cache*; None if there are none, or if they are out of date."""
    try:
        kept = json.loads(cache.read_bytes())
        jars = [Path(jar) for jar in kept["jars"]] if kept["of"] == _wanted() else []
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return jars if jars and all(jar.is_file() for jar in jars) else None


def _remember(jars: list[Path], cache: Path) -> None:
    text = json.dumps({"of": _wanted(), "jars": [str(jar) for jar in jars]}, indent=1)
    part = cache.with_suffix(f".{os.getpid()}.part")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(cache)
    except OSError as error:  # only makes the next start slower
        logger.warning("cannot keep the list of jars in %s: %s", cache, error)


def _wanted() -> str:
    return "+".join((COORDINATES, ":".join(TOOLS)))


def _fetch() -> list[Path]:
    jgo = _import_jgo()
    logging.getLogger("jgo").setLevel(logging.ERROR)
    try:
        artifacts: list[Any] = jgo.resolve(COORDINATES)
        group, name, version = TOOLS
        project = artifacts[0].context.project(group, name)
        artifacts.append(project.at_version(version).artifact())
        with ThreadPoolExecutor(_DOWNLOADS) as pool:
            return list(pool.map(_whole_jar, artifacts))
    except Exception as error:
        raise BrokerError(
            f"cannot fetch Apache Kafka {KAFKA_VERSION} from Maven Central "
            f"({type(error).__name__}: {_brief(error)}); the network is needed this once: "
            "try again when there is one, or name another Kafka with --brokers"
        ) from error


def _import_jgo() -> ModuleType:
    try:
        return importlib.import_module("jgo")
    except ImportError as error:
        raise BrokerError(
            "the embedded Apache Kafka needs the package jgo, which is not installed; "
            "pip install 'streamapp[local]'"
        ) from error


def _whole_jar(artifact: Any) -> Path:  # noqa: ANN401 - jgo is imported late, its types with it
    """Return the path of *artifact*, fetched again if the file is incomplete."""
    jar: Path = artifact.resolve()
    if not zipfile.is_zipfile(jar):
        jar.unlink()
        jar = artifact.resolve()
    return jar


def _brief(error: Exception) -> str:
    lines = str(error).splitlines() or ["no reason given"]
    return lines[0][:200]
