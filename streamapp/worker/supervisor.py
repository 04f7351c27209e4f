"""Keeps a worker running where neither systemd, Docker nor Kubernetes does: ``--supervise``.

A worker that ends by the watchdog, by an error nobody foresaw or by a signal is started
again, later each time. One that says what its user must mend (a setting, a right, a topic,
a data folder that another worker has) is not: it would say the same again.
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
"""A run this long was a good one: the next pause is the first again."""

LOOK_SECONDS: Final = 0.2
SIGNALLED: Final = 128
"""What shells add to the number of the signal that ended a process."""

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
    """Run *command* until it ends for good, or until we are told to stop; return its exit code."""
    told: list[int] = []  # no Event: a signal may come while its lock is held
    child: list[subprocess.Popen[bytes]] = []

    def on_signal(number: int, _frame: object) -> None:
        told.append(number)
        if child and child[0].poll() is None:
            child[0].send_signal(number)

    for number in shutdown.stop_signals():
        signal.signal(number, on_signal)
    pause = 0.0
    while True:
        began = time.monotonic()
        child[:] = [subprocess.Popen(command, start_new_session=True)]  # noqa: S603 - our own
        if told:  # told between two runs
            child[0].terminate()
        code = child[0].wait()
        code = SIGNALLED - code if code < 0 else code
        if told or code == 0 or code in USER_MUST_MEND:
            return code
        pause = next_pause(pause, time.monotonic() - began)
        logger.warning("the worker ended with code %d: starting it again in %.0f s", code, pause)
        until = time.monotonic() + pause
        while time.monotonic() < until:
            if told:
                return code
            time.sleep(LOOK_SECONDS)


def next_pause(last: float, ran: float) -> float:
    """Return the seconds to wait after a run of *ran* seconds, which began *last* seconds late."""
    if not last or ran > GOOD_RUN_SECONDS:
        return FIRST_PAUSE
    return min(2 * last, LONGEST_PAUSE)
