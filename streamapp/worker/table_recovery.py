"""The tables' databases on disk: whether they can be used, and how they are recovered.

Tables are caches. A damaged database, or one of a changelog topic that was deleted, is wiped and
restored from the changelog. A deleted changelog is restored from the acknowledgements, and those
from the disks (`streamapp tables`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import shutil
import time

from typing import TYPE_CHECKING, Final

from confluent_kafka import TopicCollection

from streamapp.errors import ClusterError, SettingsError, StoreBusyError
from streamapp.kafka import clients, groups, topic_admin
from streamapp.protocol.topics import MACHINES_TABLE


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from confluent_kafka import Consumer

    from streamapp.protocol.topics import Place
    from streamapp.settings import Settings

logger = logging.getLogger(__name__)

MARK: Final = "changelogs.json"
"""File with the topics that the databases were restored from: name to Kafka's topic id."""

TABLES: Final = "v*/tables"
"""Where Faust creates the databases: a folder for each version of the application."""

OFFSET_KEY: Final = b"__faust\0offset__"
"""Key under which Faust stores the changelog offset of a database."""

WIPE: Final = "wipe"
"""A file of this name asks the next start to wipe the databases."""

_OF_MACHINES: Final = f"-{MACHINES_TABLE}-changelog"
"""This changelog may lose rows: the machines publish them again every few seconds."""

_POLL_SECONDS: Final = 1.0


def make_usable(settings: Settings) -> None:
    """Wipe unusable databases, before Faust opens them.

    Raises:
        ClusterError: the broker does not answer.
        StoreBusyError: another worker has them open.
    """
    folder = settings.tables_dir
    folder.mkdir(parents=True, exist_ok=True)
    ids = _topic_ids(settings)
    reason = _why_unusable(folder, ids, _changelog_ends(settings))
    if reason:
        logger.warning("wiping the tables in %s, they come back by themselves: %s", folder, reason)
        wipe(folder)
    (folder / MARK).write_text(json.dumps(ids), "utf-8")
    group = groups.reader(settings, settings.group_id)
    try:
        lost = _lost_changelog(settings, group)
        if lost:
            logger.warning("%s has lost records: all acknowledgements are folded again", lost)
            _rewind(settings, group)
    finally:
        group.close()


def _rewind(settings: Settings, group: Consumer) -> None:
    """Reset the group's commits, so that all is folded again.

    It waits until Kafka has expelled a worker that was killed. While other workers run, the commits
    cannot be reset: one of them did it, or has all rows.
    """
    admin = clients.admin(settings)
    deadline = time.monotonic() + settings.session_timeout + _POLL_SECONDS
    while groups.is_up(admin, settings.group_id):
        if time.monotonic() > deadline:
            logger.warning(
                "other workers of group %s run: if progress is missing afterwards, stop all and "
                "run streamapp tables rebuild",
                settings.group_id,
            )
            return
        time.sleep(_POLL_SECONDS)
    try:
        groups.rewind(group, admin, _folded(settings))
    except ClusterError:
        if not groups.is_up(admin, settings.group_id):
            raise
        logger.info("another worker of the group was first")


def check_unused(folder: Path) -> None:
    """Check that no process has the databases in *folder* open.

    Raises:
        StoreBusyError: a process has one open.
    """
    for database in _databases(folder):
        with contextlib.suppress(FileNotFoundError), (database / "LOCK").open("r+b") as lock:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise _busy(database) from error


def ask_for_wipe(folder: Path) -> None:
    """Let the next start wipe the databases in *folder*."""
    with contextlib.suppress(OSError):
        (folder / WIPE).touch()


def wipe(folder: Path) -> None:
    """Remove the databases in *folder*, and no other files in it."""
    for tables in folder.glob(TABLES):
        shutil.rmtree(tables)
    for name in (MARK, WIPE):
        (folder / name).unlink(missing_ok=True)


def rebuild_from_acks(settings: Settings) -> None:
    """Delete the tables of the whole group, so that the next start folds them again.

    The changelogs are created again, so that every machine wipes its databases.

    Raises:
        SettingsError: workers of the group are running.
        ClusterError: the broker does not answer, or refuses.
    """
    admin = clients.admin(settings)
    if groups.is_up(admin, settings.group_id):
        message = (
            f"workers of group {settings.group_id} are running: stop them all, rebuild, "
            "start them again"
        )
        raise SettingsError(message)
    topic_admin.delete(settings, [spec.name for spec in topic_admin.changelogs(settings)])
    topic_admin.ensure(settings, with_changelogs=True)
    group = groups.reader(settings, settings.group_id)
    try:
        groups.rewind(group, admin, _folded(settings))
    finally:
        group.close()


def _why_unusable(folder: Path, ids: dict[str, str], ends: dict[str, int]) -> str:
    if (folder / WIPE).exists():
        return "the last run could not recover them"
    try:
        known = json.loads((folder / MARK).read_text("utf-8"))
    except (OSError, ValueError):
        known = None
    if known is None and any(_databases(folder)):
        return "it is not known which topics they are from"
    if known is not None and known != ids:
        return "they are from topics that are no more"
    for database in _databases(folder):
        damage, offset = _read_through(database)
        if damage:
            return f"{database.name} is damaged: {damage}"
        end = ends.get(database.stem, offset + 1)
        if offset >= end:  # Faust refuses such a database at every start
            return f"{database.name} has offset {offset}, its changelog ends at {end}"
    return ""


def _databases(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.glob(f"{TABLES}/*.db")) if path.is_dir())


def _read_through(database: Path) -> tuple[str, int]:
    """Read all of *database* with its checksums; return its damage, or "", and its offset.

    Raises:
        StoreBusyError: another process has it open.
    """
    from rocksdict import Options, Rdict  # noqa: PLC0415 - for workers only

    if not (database / "CURRENT").exists():
        return "its file CURRENT is missing", -1
    opened = None
    try:
        opened = Rdict(str(database), options=Options(raw_mode=True))
        rows = opened.iter()
        rows.seek_to_first()
        while rows.valid():
            rows.next()
        rows.status()  # raises: an iterator that meets damage just ends
        return "", int(opened.get(OFFSET_KEY) or -1)
    except Exception as error:  # RocksDB raises bare exceptions
        if "lock" in str(error).lower() and "LOCK" in str(error):
            raise _busy(database) from error
        return str(error)[:200], -1
    finally:
        if opened is not None:
            opened.close()


def _busy(database: Path) -> StoreBusyError:
    return StoreBusyError(
        f"another worker has the tables in {database.parent}: give each its own --state-dir"
    )


def _topic_ids(settings: Settings) -> dict[str, str]:
    """Return the topic ids of the changelogs, by name."""
    names = [spec.name for spec in topic_admin.changelogs(settings)]
    admin = clients.admin(settings)
    groups.ends(admin, _changelog_places(settings))  # waits until every broker knows them
    described = admin.describe_topics(
        TopicCollection(names), request_timeout=clients.REQUEST_SECONDS
    )
    return {
        name: str(groups.result(future, f"cannot see the changelog {name}").topic_id)
        for name, future in described.items()
    }


def _lost_changelog(settings: Settings, group: Consumer) -> str:
    """Return a changelog that has lost records; empty when none has.

    Compaction alone never moves the start of a log. A changelog without records was created again
    if the group has folded acknowledgements.
    """
    admin = clients.admin(settings)
    folded = groups.committed(group, _folded(settings))
    acks = topic_admin.names(settings).acks
    changelogs = [p for p in _changelog_places(settings) if not p[0].endswith(_OF_MACHINES)]
    places = changelogs + _folded(settings)
    first, last = groups.starts(admin, places), groups.ends(admin, places)
    for place in changelogs:
        was_written = folded.get((acks, place[1]), 0) > first[acks, place[1]]
        if first[place] > 0 or (last[place] == 0 and was_written):
            return f"{place[0]}-{place[1]}"
    return ""


def _changelog_ends(settings: Settings) -> dict[str, int]:
    """Return the ends of the changelogs, by the names of their databases."""
    ends = groups.ends(clients.admin(settings), _changelog_places(settings))
    prefix, suffix = f"{settings.group_id}-", "-changelog"
    return {
        f"{name.removeprefix(prefix).removesuffix(suffix)}-{number}": end
        for (name, number), end in ends.items()
    }


def _changelog_places(settings: Settings) -> list[Place]:
    return [
        place
        for spec in topic_admin.changelogs(settings)
        for place in topic_admin.file_places(spec.name)
    ]


def _folded(settings: Settings) -> list[Place]:
    """Return the partitions that the tables are folded from."""
    called = topic_admin.names(settings)
    return [*topic_admin.file_places(called.acks), *topic_admin.file_places(called.status)]
