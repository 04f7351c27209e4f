"""The self-test: injects faults on the user's own cluster and checks that nothing is lost.

It uses its own topics, group and folder, and deletes them at the end, also after an error. It
changes nothing else on the cluster and harms no broker.
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
"""Free space for source, machines and tables together, with a reserve."""


def run(settings: Settings, *, keep: bool, report: Report, stop: threading.Event) -> int:
    """Inject every fault; return the exit code, 0 only if every promise was held.

    Only brokers and replication of *settings* are used. *keep* leaves folder and topics.

    Raises:
        ClusterError: the cluster cannot be reached, or refuses a request.
        InterruptedDeliveryError: *stop* was set.
        StreamAppError: the self-test cannot run here; the message has the reason.
    """
    began = time.monotonic()
    rows: list[Row] = []
    known: set[str] = set()
    own = own_settings(settings)
    clients.brokers(clients.admin(own), own)  # fails before anything is created
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
    """Return settings for the same cluster with a new group and new topics."""
    name = f"selftest-{secrets.token_hex(4)}"
    mine = {"machine_id": MACHINE, "group_id": name, "topic_prefix": f"{name}-"}
    defaults = {n: Settings.model_fields[n].default for n in ("retention_hours", "retention_size")}
    return settings.model_copy(update=mine | defaults)


def _tried(fault: Fault, testbed: Testbed, known: set[str]) -> Row:
    """Inject *fault* and return its row; problems that are *known* are not its own."""
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
    """Creates the self-test's folder, and deletes the folder, the topics and the group.

    A failure to delete is reported; it does not hide an earlier error.
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
