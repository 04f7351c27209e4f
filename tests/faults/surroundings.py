"""What a process may run in: each has how it is started, and how its user tells it to stop."""

import contextlib
import fcntl
import os
import pty
import signal
import termios

import psutil


CTRL_C = b"\x03"
LITTLE = 4096  # the least that a pipe holds


class Terminal:
    """A terminal in which Ctrl-C is pressed; nobody reads what is printed."""

    under = ()

    def __init__(self):
        self.master, slave = pty.openpty()
        self.popen = dict.fromkeys(("stdin", "stdout", "stderr"), slave)
        self.popen["preexec_fn"] = lambda: fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    def stop(self, _process):
        """Press Ctrl-C."""
        os.write(self.master, CTRL_C)


class ClosedTerminal(Terminal):
    """A terminal that is closed: its window, the connection, the pane of tmux."""

    def stop(self, _process):
        """Close it; the kernel sends SIGHUP."""
        os.close(self.popen["stdin"])
        os.close(self.master)


class DeadPipe:
    """``2>&1 | tee log``, and Ctrl-C, which ends `tee` first."""

    under = ()

    def __init__(self):
        self.reader, writer = os.pipe()
        self.popen = {"stdout": writer, "stderr": writer}

    def stop(self, process):
        """End the reader, then the process."""
        os.close(self.reader)
        os.close(self.popen["stdout"])
        process.send(signal.SIGINT)


class StalledPipe:
    """A pipe that is full, and whose reader reads no more."""

    under = ()

    def __init__(self):
        self.reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, LITTLE)
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"x")
        os.set_blocking(writer, True)
        self.popen = {"stdout": writer, "stderr": writer}

    def stop(self, process):
        """Send SIGTERM."""
        process.send(signal.SIGTERM)


class NoOutputs:
    """Without any standard descriptor."""

    under = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh")
    popen = ()

    def stop(self, process):
        """Send SIGTERM."""
        process.send(signal.SIGTERM)


class Service:
    """In a session of its own, without a terminal: systemd."""

    under = popen = ()

    def stop(self, process):
        """Send SIGTERM twice: to a whole unit, and by a supervisor in it."""
        process.send(signal.SIGTERM)
        process.send(signal.SIGTERM)


class Container:
    """As the first process of a container, to which no signal has a default; needs root."""

    under = ("unshare", "--pid", "--fork", "--kill-child")
    popen = ()

    def stop(self, process):
        """Send SIGTERM to the first process."""
        (first,) = psutil.Process(process.pid).children()
        first.send_signal(signal.SIGTERM)
