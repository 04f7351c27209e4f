"""Delivers a folder: checks the topics, scans the folder, runs the delivery, judges the summary.

`deliver_folder` is the entry point of the producer. It returns only when every block of every
file is acknowledged as persisted or, if it does not wait, when Kafka has every block. Every other
outcome is an error, and calling it again resumes the delivery. It never imports Faust.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamapp.errors import (
    DeliveryError,
    InterruptedDeliveryError,
    SettingsError,
    SourceError,
)
from streamapp.kafka import topic_admin
from streamapp.producer.events import FileEvent, Summary
from streamapp.producer.run import Run
from streamapp.producer.sources import scan
from streamapp.settings import label_of
from streamapp.units import counted


if TYPE_CHECKING:
    import threading

    from pathlib import Path

    from streamapp.producer.events import Reporter
    from streamapp.settings import Settings


def deliver_folder(  # noqa: PLR0913 - what a user may ask for
    settings: Settings,
    *,
    wait: bool = True,
    only_failed: bool = False,
    verify: bool = False,
    report: Reporter,
    stop: threading.Event,
) -> Summary:
    """Send the blocks that the group has not persisted, of all files of ``settings.data_folder``.

    Args:
        settings: The settings of this run.
        wait: Whether to wait until the group has persisted every block; otherwise the delivery
            ends when Kafka has every block.
        only_failed: Whether to send only files that failed in an earlier run.
        verify: Whether to read every file and compare it with its acknowledgements.
        report: Receives the events, the summary last, from the calling thread.
        stop: When this is set, the run ends within seconds.

    Raises:
        SettingsError: *settings* name no data folder.
        SourceError: the folder cannot be read, or contains no file.
        ClusterError: Kafka is not reachable, or refuses a request.
        InterruptedDeliveryError: *stop* was set before every file was delivered.
        DeliveryError: a file is not delivered; the message counts the missing files.
    """
    if settings.data_folder is None:
        raise SettingsError(f"{label_of('data_folder')}: which folder's files are to be sent?")
    scan.check_folder(settings.data_folder)
    try:
        data_blocks = topic_admin.ensure(settings)[topic_admin.names(settings).data_blocks]
        sources, problems, special = _scan(settings, settings.data_folder, report, stop)
        run = Run(
            settings,
            settings.data_folder,
            sources,
            data_blocks=data_blocks,
            wait=wait,
            only_failed=only_failed,
            verify=verify,
            report=report,
            stop=stop,
        )
        try:
            run.carry_out()
        finally:
            summary = run.summary(problems, special)
            report(summary)
    finally:
        report.close()
    _judge(summary, wait=wait, is_stopped=stop.is_set())
    return summary


def _scan(
    settings: Settings, folder: Path, report: Reporter, stop: threading.Event
) -> tuple[list[scan.SourceFile], int, int]:
    """Return the files to send, the number of problems, and the number of special entries."""
    sources: list[scan.SourceFile] = []
    problems = special = 0
    for found in scan.scan(
        folder,
        machine=settings.machine_id,
        block_size=settings.block_size,
        links=settings.links,
        special=settings.special,
    ):
        if stop.is_set():
            raise InterruptedDeliveryError("stopped before anything was sent")
        if isinstance(found, scan.SourceFile):
            sources.append(found)
        elif found.is_special:
            special += 1
            report(FileEvent(name=found.name, state="special", reason=found.reason))
        else:
            problems += 1
            report(FileEvent(name=found.name, state="unreadable", reason=found.reason))
    if not sources and not problems:
        raise SourceError(f"the data folder {folder} holds no file")
    return sources, problems, special


def _judge(summary: Summary, *, wait: bool, is_stopped: bool) -> None:
    """Raise an error unless every file is delivered."""
    done = summary.delivered + summary.skipped + (0 if wait else summary.sent)
    missing = summary.files - done
    if not missing:
        return
    counts = {
        "changed meanwhile": summary.changed,
        "cannot be read": summary.unreadable,
        "failed": summary.failed,
    }
    parts = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    verb = "is" if missing == 1 else "are"
    of = counted(summary.files, "file")
    text = f"{missing} of {of} {verb} not delivered{parts and f' ({parts})'}"
    if is_stopped:
        raise InterruptedDeliveryError(f"stopped: {text}. The same command resumes")
    raise DeliveryError(f"{text}. {_advice(missing, summary.unreadable)}")


def _advice(missing: int, unreadable: int) -> str:
    """Return what the user can do: unreadable files need a repair before the next run."""
    repair = "What cannot be read has to be mended first, the lines above say how it failed"
    if not unreadable:
        return "The same command resumes"
    return repair if missing == unreadable else f"{repair}; for the others the same command resumes"
