"""Sends the files of a folder, and waits until machines of a group have all of it on disk.

`deliver_folder` is all that others call. It returns only when every block of every file is
acknowledged as persisted; whatever else happens is an error, and calling it again resumes. It runs
on any system that Python does, and never imports Faust.
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

    from streamapp.settings import Settings
    from streamapp.ui.delivery_report import Reporter

__all__ = ["Summary", "deliver_folder"]


def deliver_folder(  # noqa: PLR0913 - what a user may ask for
    settings: Settings,
    *,
    wait: bool = True,
    only_failed: bool = False,
    verify: bool = False,
    report: Reporter,
    stop: threading.Event,
) -> Summary:
    """Send what is missing of the files in the data folder.

    Args:
        settings: What is in force.
        wait: Whether to wait until the group has stored everything; else until Kafka has it.
        only_failed: Whether to send only files that an earlier run gave up.
        verify: Whether to read every file and compare it with what is acknowledged.
        report: Is told what happens, the summary last, from the calling thread.
        stop: When it is set, the run ends within seconds.

    Raises:
        SettingsError: there is no data folder among *settings*.
        SourceError: the folder cannot be read, or holds no file.
        ClusterError: Kafka is not reachable, or refuses.
        DeliveryError: not every file is delivered; the message says what is missing.
    """
    if settings.data_folder is None:
        raise SettingsError(f"{label_of('data_folder')}: which folder's files are to be sent?")
    scan.check_folder(settings.data_folder)
    try:
        data_blocks = topic_admin.ensure(settings)[topic_admin.names(settings).data_blocks]
        sources, problems, special = _scan(settings, settings.data_folder, report, stop)
        delivery = Run(
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
            delivery.carry_out()
        finally:
            summary = delivery.summary(problems, special)
            report(summary)
    finally:
        report.close()
    _judge(summary, wait=wait, is_stopped=stop.is_set())
    return summary


def _scan(
    settings: Settings, folder: Path, report: Reporter, stop: threading.Event
) -> tuple[list[scan.SourceFile], int, int]:
    """Return what is to be sent, how much cannot be, and how much is not meant to be."""
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
    """Raise what the summary amounts to, unless every file is where it should be."""
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
    """Return what to do: the same command again helps only where it can succeed."""
    mend = "What cannot be read has to be mended first, the lines above say how it failed"
    if not unreadable:
        return "The same command resumes"
    return mend if missing == unreadable else f"{mend}; for the others the same command resumes"
