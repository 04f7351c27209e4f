"""A network of a test's own, whose links can be cut, throttled, delayed, made lossy and reset.

Every island is a network namespace with one cable to a bridge in the test's own namespace; what
runs there reaches the other islands and the test, and nothing else. The addresses are those
that are reserved for tests of networks (198.18.0.0/15). All of it goes when the test ends.

A kernel often lacks netem. Here loss is a classifier in the kernel that throws away packets at
random (cBPF at clsact), throttling is tbf, and delay is a cable of two taps whose frames this
process holds back for a while. That each of them does what it says is shown in
tests/faults/test_network.py.
"""

import collections
import contextlib
import fcntl
import json
import os
import select
import struct
import sys
import threading
import time

import pytest

from tests.storage.damage import need, run


FORBIDDEN = ("unknown", "not permitted", "not supported", "Unknown device type")
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
FRAME_BYTES = 1 << 16
BURST = ("burst", "32kb", "latency", "400ms")
RANDOM = 4294963256  # cBPF's load of a random number: SKF_AD_OFF + SKF_AD_RANDOM
DROP, GO_ON = 2, 4294967295  # TC_ACT_SHOT, TC_ACT_UNSPEC


class Network:
    """A bridge, and the islands on it; a context manager."""

    def __init__(self):
        self.name = f"st{os.getpid()}"
        self._prefix = ""
        self._numbers = iter(range(2, 255))
        self._islands = []

    def __enter__(self):
        """Make the bridge; the test is skipped where that is not possible."""
        self._prefix = f"198.18.{_unused()}"
        _make("ip", "link", "add", self.name, "type", "bridge")
        run("ip", "address", "add", f"{self._prefix}.1/24", "dev", self.name)
        run("ip", "link", "set", self.name, "up")
        return self

    def __exit__(self, *_):
        """Remove all of it."""
        for island in self._islands:
            island.remove()
        run("ip", "link", "delete", self.name, check=False)

    def island(self, *, delay=0.0):
        """Make an island; whatever goes there or comes from there takes *delay* seconds."""
        number = next(self._numbers)
        island = Island(self, number, f"{self._prefix}.{number}", delay)
        self._islands.append(island)
        island.make()
        return island


def network_or_skip(what):
    """Return a network; without root or tools the test is skipped, and says *what* is unproven."""
    need("ip", "tc", "ss", what=what)
    return Network()


def _make(*command):
    """Run *command*; where the kernel or the container does not allow it, the test is skipped."""
    made = run(*command, check=False)
    reason = made.stderr.strip()
    if any(said in reason for said in FORBIDDEN):
        pytest.skip(
            f"not proven, for `{' '.join(command[:4])}` says {reason!r}: faults of networks"
        )
    assert 0 == made.returncode, reason


def _unused():
    """Return the third number of a subnet that no interface of this machine has."""
    found = json.loads(run("ip", "-j", "address").stdout)
    held = {address["local"] for link in found for address in link["addr_info"]}
    return next(n for n in range(256) if f"198.18.{n}.1" not in held)


class Island:
    """A network namespace; *port* is its cable's end at the bridge, `eth0` the one inside."""

    def __init__(self, network, number, address, delay):
        self.address = address
        self.name = f"{network.name}-{number}"
        self.port = f"{network.name}p{number}"
        self.under = ("ip", "netns", "exec", self.name)
        self._network = network
        self._delay = delay
        self._cable = None

    def make(self):
        """Make the namespace and lay the cable."""
        _make("ip", "netns", "add", self.name)
        if self._delay:
            self._cable = Cable(self.port, f"{self.port}i", self._delay)
            self._ip("link", "set", f"{self.port}i", "netns", self.name, inside=False)
            self._ip("link", "set", f"{self.port}i", "name", "eth0")
        else:
            peer = ("peer", "name", "eth0", "netns", self.name)
            self._ip("link", "add", self.port, "type", "veth", *peer, inside=False)
        self._ip("link", "set", self.port, "master", self._network.name, inside=False)
        self._ip("link", "set", self.port, "up", inside=False)
        self._ip("address", "add", f"{self.address}/24", "dev", "eth0")
        self._ip("link", "set", "eth0", "up")
        self._ip("link", "set", "lo", "up")

    def remove(self):
        """Remove it; what ran there has ended. Twice does no harm."""
        if self._cable:
            self._cable.close()
        run("ip", "link", "delete", self.port, check=False)
        run("ip", "netns", "delete", self.name, check=False)

    def cut(self):
        """Pull the plug at the bridge: nothing passes, and no end of a connection is told."""
        self._ip("link", "set", self.port, "down", inside=False)

    def heal(self):
        """Put the plug back, and take away whatever else hinders the link."""
        run("tc", "qdisc", "delete", "dev", self.port, "root", check=False)
        run("tc", "qdisc", "delete", "dev", self.port, "clsact", check=False)
        run("tc", "-n", self.name, "qdisc", "delete", "dev", "eth0", "root", check=False)
        self._ip("link", "set", self.port, "up", inside=False)

    def throttle(self, rate):
        """Let no more than *rate* (``10mbit``) pass, each way."""
        shape = ("root", "tbf", "rate", rate, *BURST)
        _make("tc", "qdisc", "replace", "dev", self.port, *shape)
        run("tc", "-n", self.name, "qdisc", "replace", "dev", "eth0", *shape)

    def lose(self, share):
        """Throw away this *share* of the packets, each way, at random.

        A packet is what the wire would carry: none of the 64 KiB that a veth takes in one go.
        """
        self._ip("link", "set", self.port, "gso_max_segs", "1", inside=False)
        self._ip("link", "set", "eth0", "gso_max_segs", "1")
        below = int(share * (2**32 - 1))
        code = f"4,32 0 0 {RANDOM},53 1 0 {below},6 0 0 {DROP},6 0 0 {GO_ON}"
        _make("tc", "qdisc", "replace", "dev", self.port, "clsact")
        for way in ("ingress", "egress"):
            at = ("dev", self.port, way, "pref", "1", "handle", "1", "bpf", "da", "bytecode", code)
            _make("tc", "filter", "replace", *at)

    def reset(self):
        """Abort every TCP connection of the island, with an RST; return how many those were."""
        return len(run(*self.under, "ss", "-HntK").stdout.splitlines())

    def _ip(self, *what, inside=True):
        run("ip", *(("-n", self.name) if inside else ()), *what)


class Cable:
    """Two taps, and a thread that carries frames from each to the other, *delay* seconds late."""

    def __init__(self, one, other, delay):
        self._delay = delay
        self._ends = []
        try:
            self._ends += [_tap(one), _tap(other)]
        except OSError as error:
            self.close()
            pytest.skip(f"not proven without taps ({error}): a network that is late")
        self._stop, self._stopped = os.pipe()
        self._thread = threading.Thread(target=self._carry, name=f"cable {one}", daemon=True)
        self._thread.start()

    def close(self):
        """Take the cable away."""
        if not self._ends:
            return
        if len(self._ends) > 1:
            os.close(self._stopped)
            self._thread.join()
            os.close(self._stop)
        for end in self._ends:
            os.close(end)
        self._ends = []

    def _carry(self):
        late = collections.deque()  # when, to which end, what
        other = dict(zip(self._ends, reversed(self._ends), strict=True))
        while True:
            wait = max(0.0, late[0][0] - time.monotonic()) if late else None
            ready, _, _ = select.select([*self._ends, self._stop], [], [], wait)
            if self._stop in ready:
                return
            for end in ready:
                for frame in _frames(end):
                    late.append((time.monotonic() + self._delay, other[end], frame))
            while late and late[0][0] <= time.monotonic():
                _, end, frame = late.popleft()
                with contextlib.suppress(OSError):  # that end is down: lost, as on a wire
                    os.write(end, frame)


def _frames(end):
    """Yield the frames that wait at this *end*."""
    with contextlib.suppress(BlockingIOError, OSError):
        while True:
            yield os.read(end, FRAME_BYTES)


def _tap(name):
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return end


def echo_command(island, port):
    """The command that runs an echo on *island*."""
    return [*island.under, sys.executable, "-m", "tests.echo", island.address, str(port)]
