"""Standard output and standard error never end or stop a long run."""

import fcntl
import os
import signal
import subprocess
import sys

import pytest

from streamapp.worker import outputs, shutdown
from tests.waiting import wait_for


SECURED = """
import os, sys
from streamapp.worker import outputs
outputs.secure()
files = [open(os.devnull) for _ in range(3)]
print("said"); print("said", file=sys.stderr)
assert min(file.fileno() for file in files) > 2
assert all(os.fstat(fd).st_rdev for fd in (0, 1, 2))
"""
SIGNALLED = """
import sys, threading
from streamapp.worker import shutdown as ending, outputs
outputs.secure()
thread = ending.SignalThread()
thread.start()
if sys.argv[1] == "runs":
    thread.worker_runs(lambda: print("stops", flush=True))
print("up", flush=True)
lock = threading.Lock()
with lock, lock:  # never: as stuck as it can be
    pass
"""


@pytest.fixture
def pipe():
    """A pipe as a test wants it: its reader, and our output on its writer."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    yield reader, outputs.LastingOutput(writer)
    os.close(writer)


def test_reader_is_gone(pipe):
    """What nobody can read any more is dropped, without an error."""
    reader, output = pipe
    assert 4 == output.write(b"said")
    os.close(reader)

    assert 5 == output.write(b"again")
    assert 5 == output.lost_bytes


def test_reader_is_late(pipe, monkeypatch):
    """A reader that stalls is waited for once; later a line says how much was dropped."""
    monkeypatch.setattr(outputs, "STALL_SECONDS", 0.01)
    reader, output = pipe
    text = bytes(8192)

    assert len(text) == output.write(text)
    assert len(text) == output.write(text)
    received = len(os.read(reader, 2 * len(text)))
    assert 0 < received == 2 * len(text) - output.lost_bytes
    note = f"\n[{output.lost_bytes} bytes of output are lost: nobody read them]\nthere again"
    output.write(b"there again")
    assert note == os.read(reader, 99).decode()
    os.close(reader)


def test_nothing_is_open():
    """Closed descriptors are opened before a file or socket gets their number."""
    command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", SECURED]

    assert 0 == subprocess.run(command, check=False, timeout=60).returncode


def test_outputs_of_others(capsys):
    """What a test or another program put in place of standard output stays."""
    before = sys.stdout, sys.stderr
    outputs.secure()

    assert before == (sys.stdout, sys.stderr)
    assert ("", "") == capsys.readouterr()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("state", ["begins", "runs"])
def test_signals(number, state):
    """A stuck process ends on a signal: on the first one, or on the second."""
    command = [sys.executable, "-c", SIGNALLED, state]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert "up\n" == process.stdout.readline()
            process.send_signal(number)
            if state == "runs":
                assert "stops\n" == process.stdout.readline()
                wait_for(lambda: _told_again(process), within=10, what="the end", every=0.3)
            assert (0 if state == "begins" else 130) == process.wait(10)
        finally:
            process.kill()


def _told_again(process):
    """Tell *process* again; return whether it ended."""
    process.send_signal(signal.SIGTERM)
    return process.poll() is not None


@pytest.mark.parametrize(
    ("number", "seconds", "ends"),
    [
        (signal.SIGINT, 0.1, False),
        (signal.SIGINT, 1.0, True),
        (signal.SIGTERM, 5.0, True),
        (signal.SIGHUP, 5.0, False),
    ],
)
def test_second_signal(number, seconds, ends):
    """One wish may arrive twice; only a later one is another."""
    assert ends == shutdown.is_second(number, seconds)


def test_hangup_ignored(monkeypatch):
    """A worker under `nohup` outlives its terminal."""
    assert signal.SIGHUP in shutdown.stop_signals()
    monkeypatch.setattr(shutdown.signal, "getsignal", lambda _number: signal.SIG_IGN)
    assert (signal.SIGINT, signal.SIGTERM) == shutdown.stop_signals()
