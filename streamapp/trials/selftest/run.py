"""A bounded round of faults against the user's own cluster: is what is promised held there?

It uses topics and a group of its own, and a folder of its own; it takes all of them away again,
whatever happens, and touches nothing else on the cluster. Brokers are never harmed.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
import time

from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from streamapp.errors import DeliveryError, InterruptedDeliveryError, StoreFullError, StreamAppError
from streamapp.kafka import clients, groups, topic_admin
from streamapp.settings import Settings
from streamapp.trials.selftest import results
from streamapp.trials.selftest.faults import FAULTS
from streamapp.trials.selftest.testbed import MACHINE, Testbed
from streamapp.units import MIB, format_size


if TYPE_CHECKING:
    import threading

    from collections.abc import Callable

    from streamapp.trials.selftest.faults import Fault
    from streamapp.trials.selftest.report import Report
    from streamapp.trials.selftest.results import Row

ROOM_BYTES: Final = 512 * MIB
"""What source, machines and tables may need together, and room to breathe."""


def run(settings: Settings, *, keep: bool, report: Report, stop: threading.Event) -> int:
    """Do every fault and judge it; return the exit code, 0 only when every promise was held.

    Of *settings* the brokers and the replication count. *keep* leaves folder and topics.

    Raises:
        ClusterError: the cluster cannot be reached, or does not allow what is needed.
        InterruptedDeliveryError: *stop* was set.
        StreamAppError: the self-test cannot run here; the message says why.
    """
    began = time.monotonic()
    rows: list[Row] = []
    known: set[str] = set()
    own = own_settings(settings)
    clients.brokers(clients.admin(own), own)  # before anything is made
    with _Traces(own, keep=keep, report=report) as traces:
        try:
            report.doing(f"Making topics {own.topic_prefix}…")
            states = topic_admin.ensure(own, with_changelogs=True)
            report.doing("Starting two workers")
            with Testbed(own, traces.folder, states, stop) as testbed:
                for fault in FAULTS:
                    report.doing(f"{len(rows) + 1} of {len(FAULTS)}: {fault.name}")
                    rows.append(_tried(fault, testbed, known))
                    report.row(rows[-1])
                report.doing("Stopping the workers")
        finally:
            report.close()
            if rows:
                report.finish(rows, of=len(FAULTS), seconds=time.monotonic() - began)
    code = results.exit_code(rows)
    if traces.failure and not code:
        raise traces.failure
    return code


def own_settings(settings: Settings) -> Settings:
    """Return settings on the same cluster for a group and topics that nobody else has."""
    name = f"selftest-{secrets.token_hex(4)}"
    mine = {"machine_id": MACHINE, "group_id": name, "topic_prefix": f"{name}-"}
    defaults = {n: Settings.model_fields[n].default for n in ("retention_hours", "retention_size")}
    return settings.model_copy(update=mine | defaults)


def _tried(fault: Fault, testbed: Testbed, known: set[str]) -> Row:
    """Return what came of *fault*: problems that are *known* were there before it."""
    began = time.monotonic()
    problems: list[str] = []
    try:
        fault.happen(testbed)
    except InterruptedDeliveryError:
        raise
    except DeliveryError as error:
        problems.append(str(error))
    found = testbed.problems()
    problems += [problem for problem in found if problem not in known]
    known.update(found)
    return results.row(fault.promise, fault.name, problems, seconds=time.monotonic() - began)


class _Traces:
    """What the self-test makes and takes away: a folder, topics, a group.

    What cannot be taken away is said, and does not hide why the self-test ended.
    """

    def __init__(self, settings: Settings, *, keep: bool, report: Report) -> None:
        self._settings, self._keep, self._report = settings, keep, report
        self.folder = Path(tempfile.mkdtemp(prefix=f"streamapp-{settings.group_id}-"))
        self.failure: StreamAppError | None = None

    def __enter__(self) -> Self:
        free = shutil.disk_usage(self.folder).free
        if free < ROOM_BYTES:
            self._tidy(lambda: shutil.rmtree(self.folder, ignore_errors=True))
            message = (
                f"disk full: the self-test needs {format_size(ROOM_BYTES)} in "
                f"{self.folder.parent}, {format_size(free)} are free: set TMPDIR"
            )
            raise StoreFullError(message)
        return self

    def __exit__(self, *_: object) -> None:
        settings = self._settings
        if self._keep:
            self._report.say(
                f"Kept: {self.folder}, the topics {settings.topic_prefix}…, "
                f"the group {settings.group_id}"
            )
            return
        admin = clients.admin(settings)
        self._tidy(lambda: groups.delete(admin, settings.group_id))
        self._tidy(lambda: _delete_topics(settings, admin))
        shutil.rmtree(self.folder, ignore_errors=True)

    def _tidy(self, action: Callable[[], object]) -> None:
        try:
            action()
        except StreamAppError as error:
            self.failure = error
            self._report.say(f"Left behind: {error}")


def _delete_topics(settings: Settings, admin: clients.AdminClient) -> None:
    mine = [n for n in clients.topics(admin, settings) if n.startswith(settings.topic_prefix)]
    topic_admin.delete(settings, mine)
