"""Restarts a worker where neither systemd, Docker nor Kubernetes does: ``--supervise``.

A worker that is ended by the watchdog, an unexpected error or a signal is restarted, with
increasing pauses. A worker that reports an error that its user must fix (a setting, a right, a
topic, a data folder that another worker has) is not: it would report the same error again.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import time

from typing import TYPE_CHECKING, Final

from streamapp import errors
from streamapp.worker import shutdown


if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
GOOD_RUN_SECONDS: Final = 300.0
"""After a run of this length the next pause is `FIRST_PAUSE` again."""

LOOK_SECONDS: Final = 0.2
SIGNALLED: Final = 128
"""Shells report 128 plus the number of the signal that ended a process."""

USER_MUST_MEND: Final = frozenset(
    kind.exit_code
    for kind in (
        errors.SettingsError,
        errors.StoreBusyError,
        errors.ListenError,
        errors.BrokerDeniedError,
        errors.TopicError,
    )
)


def supervise(command: Sequence[str]) -> int:
    """Run *command* until it ends for good, or a signal comes; return its exit code."""
    received: list[int] = []  # no Event: a signal may come while its lock is held
    child: list[subprocess.Popen[bytes]] = []

    def on_signal(number: int, _frame: object) -> None:
        received.append(number)
        if child and child[0].poll() is None:
            child[0].send_signal(number)

    for number in shutdown.stop_signals():
        signal.signal(number, on_signal)
    pause = 0.0
    while True:
        began = time.monotonic()
        child[:] = [subprocess.Popen(command, start_new_session=True)]  # noqa: S603 - our own
        if received:  # between two runs
            child[0].terminate()
        code = child[0].wait()
        code = SIGNALLED - code if code < 0 else code
        if received or code == 0 or code in USER_MUST_MEND:
            return code
        pause = next_pause(pause, time.monotonic() - began)
        logger.warning("the worker ended with code %d: starting it again in %.0f s", code, pause)
        until = time.monotonic() + pause
        while time.monotonic() < until:
            if received:
                return code
            time.sleep(LOOK_SECONDS)


def next_pause(last: float, ran: float) -> float:
    """Return the next pause, after a pause of *last* and a run of *ran* seconds."""
    if not last or ran > GOOD_RUN_SECONDS:
        return FIRST_PAUSE
    return min(2 * last, LONGEST_PAUSE)
