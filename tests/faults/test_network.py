"""Networks that are cut, slow, late, lossy, and connections that are reset."""

import contextlib
import socket
import subprocess
import sys
import time

import pytest

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests import echo, harness
from tests.conftest import FAILED
from tests.far import FarCluster, FarSite
from tests.faults.storm import Storm, busiest
from tests.harness import MIB
from tests.network import echo_command, network_or_skip
from tests.waiting import wait_for


pytestmark = pytest.mark.root

RATE = "10mbit"
ECHO_SIZE = 5 << 18  # bytes: a second each way at that rate
LOT = 500  # datagrams
PATIENCE_SECONDS = 60  # what a loaded machine may take; no measure


@pytest.fixture(scope="module")
def network():
    """A network of our own."""
    with network_or_skip("faults of the network: cuts, resets, loss, delay, slow links") as made:
        yield made


# --- the injectors do what they say


@contextlib.contextmanager
def listening(island):
    """Run an echo on *island*; give its address."""
    port = harness.free_port()
    command = echo_command(island, port)
    environment = harness.clean_environment()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        try:
            assert b"ready\n" == process.stdout.readline()
            yield island.address, port
        finally:
            process.kill()


def echoed(connection, size):
    """Return the seconds that *size* bytes took to get there, and back."""
    began = time.monotonic()
    connection.sendall(size.to_bytes(echo.SIZE_BYTES, "big") + bytes(size))
    echo.receive(connection, 1)
    there = time.monotonic()
    assert size - 1 == len(echo.receive(connection, size - 1))
    return there - began, time.monotonic() - there


def test_cut_link_is_cut(network):
    """Packets are dropped without an error; after the network heals, the delivery continues."""
    island = network.island()
    with listening(island) as place, socket.create_connection(place, 10) as connection:
        connection.settimeout(PATIENCE_SECONDS)
        echoed(connection, 10)

        island.cut()
        with pytest.raises(OSError, match=r"timed out|No route"):
            socket.create_connection(place, 1)
        connection.settimeout(1)
        with pytest.raises(TimeoutError):
            echoed(connection, 10)

        island.heal()
        connection.settimeout(PATIENCE_SECONDS)
        assert bytes(10) == echo.receive(connection, 10)
        echoed(connection, 10)


def test_throttled_link_is_slow(network):
    """10 mbit let 1.25 MiB pass in about a second, each way; without, it takes much less."""
    island = network.island()
    with listening(island) as place, socket.create_connection(place, 10) as connection:
        connection.settimeout(PATIENCE_SECONDS)
        free = min((echoed(connection, ECHO_SIZE) for _ in range(3)), key=max)

        island.throttle(RATE)
        there, back = echoed(connection, ECHO_SIZE)

        assert min(there, back) > 0.8
        assert max(free) < min(there, back)
        island.heal()
        assert sum(min(echoed(connection, ECHO_SIZE) for _ in range(3))) < there + back


def test_delayed_link_is_late(network):
    """100 ms there and 100 ms back: no answer comes within 200 ms."""
    with listening(island := network.island(delay=0.1)) as place:
        began = time.monotonic()
        with socket.create_connection(place, PATIENCE_SECONDS) as connection:
            assert time.monotonic() - began >= 0.2
            assert sum(echoed(connection, 1)) >= 0.2
            island.cut()
            connection.settimeout(1)
            with pytest.raises(TimeoutError):
                echoed(connection, 1)
            island.heal()
            connection.settimeout(PATIENCE_SECONDS)
            assert 1 == len(echo.receive(connection, 1))
    with listening(network.island()) as place, socket.create_connection(place, 10) as connection:
        assert min(sum(echoed(connection, 1)) for _ in range(10)) < 0.2


def test_lossy_link_loses(network):
    """A tenth is lost there, and a tenth of the rest on the way back: 81 of 100 come back."""
    island = network.island()
    with listening(island) as place, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, echo.SO_RCVBUFFORCE, echo.BUFFER)
        assert 2000 == round_trips(sender, place, 2000)
        island.lose(0.1)
        assert 1500 < round_trips(sender, place, 2000) < 1740
        island.lose(1)
        assert 0 == round_trips(sender, place, 100)


def round_trips(sender, place, count):
    """Return how many of *count* datagrams come back; no more at once than the kernel queues."""
    found = 0
    sender.settimeout(1)
    for _ in range(0, count, LOT):
        sent = min(LOT, count)
        for _ in range(sent):
            sender.sendto(b"datagram", place)
        with contextlib.suppress(TimeoutError):
            for _ in range(sent):
                found += len(sender.recv(100)) // len(b"datagram")
    return found


def test_reset_resets(network):
    """A connection is gone at both ends, at once; a new one can be made."""
    island = network.island()
    with listening(island) as place, socket.create_connection(place, 10) as connection:
        echoed(connection, 10)

        count = island.reset()

        if not count:
            pytest.skip("not proven without INET_DIAG_DESTROY in the kernel: connections reset")
        connection.settimeout(PATIENCE_SECONDS)
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
        with socket.create_connection(place, 10) as another:
            echoed(another, 10)
            wait_for(lambda: 1 == island.reset(), within=10, what="one connection to be reset")


# --- the program survives them

FLAGS = {"block_size": "1MiB", "frame_size": "256KiB", "compression": "none"}
SIZES = {"a": 20 * MIB, "b": 10 * MIB - 1, "c": 2 * MIB}
BLOCKS = 32
STORM_BLOCKS = 58
PROGRESS_SECONDS = 120  # invariant I7: what a heal may take
DELIVERY_SECONDS = 400


@pytest.fixture(scope="module")
def far_kafka(network, tmp_path_factory):
    """Three brokers, each on an island."""
    islands = [network.island() for _ in range(3)]
    with FarCluster(tmp_path_factory.mktemp("far"), islands) as cluster:
        yield cluster


@pytest.fixture
def far(far_kafka, network, tmp_path, request):
    """Those brokers without topics of earlier tests, and what a test starts on further islands."""
    with FarSite(far_kafka, network, tmp_path) as site:
        yield site
        site.failed = request.node.stash[FAILED]


def cut_off(far, who, seconds):
    """Cut *who* (a broker, a worker, the producer) off for so many *seconds*, then heal.

    What is on its way arrives, and who was cut off takes part again: the worker stores blocks,
    the broker's copies are in sync, the producer's blocks arrive.
    """
    storm = Storm(far, harness.seeded(), faults=1)
    worker, _ = far.ready_workers("w1", "w2")
    number = busiest(far.cluster)
    far.island("producer").throttle("100mbit")  # 5 s for the folder: time to cut somebody off
    islands = {**far.islands, "worker": far.island("w1"), "broker": far.cluster.islands[number - 1]}
    storm.feed()
    far.wait_until_stored(10)
    islands[who].cut()
    assert storm.producer.is_running
    assert far.stored() < STORM_BLOCKS - harness.PARTITIONS  # there was more to come
    time.sleep(seconds)  # how long the cut is
    before = far.stored(), len(worker.bins())
    islands[who].heal()
    healed = time.monotonic()

    def is_back():
        storm.go_on()
        return {
            "worker": lambda: len(worker.bins()) > before[1],
            "producer": lambda: far.stored() > before[0],
            "broker": lambda: number in in_sync(far),
        }[who]()

    wait_for(is_back, within=PROGRESS_SECONDS, what=f"the {who} to be back")
    storm.healed.append(time.monotonic() - healed)
    assert 0 == storm.producer.wait(DELIVERY_SECONDS)
    storm.check(f"{who} cut off for {seconds} s, {before[0]} blocks stored before it healed")


def in_sync(far):
    """Return the brokers that have a copy in sync of every partition; none while nobody knows."""
    admin = AdminClient({"bootstrap.servers": far.brokers, **harness.QUIET})
    try:
        topics = admin.list_topics(timeout=5).topics.values()
    except KafkaException:
        return set()
    return set.intersection(*(set(p.isrs) for topic in topics for p in topic.partitions.values()))


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seconds", [5, 30, 120])
@pytest.mark.parametrize("who", ["broker", "worker", "producer"])
def test_cut_off(far, who, seconds):
    """Each of them alone without a network, for less and for more than a session."""
    cut_off(far, who, seconds)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_hundred_resets(far):
    """A hundred times all connections of a broker, a worker or the producer are reset."""
    rng = harness.seeded()
    far.ready_workers("w1", "w2")
    storm = Storm(far, rng, faults=100)
    counts = []

    def hurt():
        islands = [*far.islands.values(), *far.cluster.islands]
        counts.append(rng.choice(islands).reset())

    storm.rage(hurt)
    storm.check(f"all connections of a process reset, {sum(counts)} in all")
    assert len([count for count in counts if count]) > 90  # a producer may just have ended


def hindered(far, hurt, what, sizes):
    """Do *hurt* to the links of all workers and the producer while a folder is sent."""
    rng = harness.seeded()
    # No network is too slow for a block while frames of it come now and then.
    far.ready_workers("w1", "w2", block_timeout=30)
    first = far.producer(far.source({"a": 4 * MIB}, rng, "first"), "first", **FLAGS)
    assert 0 == first.wait(DELIVERY_SECONDS)
    for island in far.islands.values():
        hurt(island)
    source = far.source(sizes, rng)
    began, before = time.monotonic(), far.stored()
    producer = far.producer(source, **FLAGS)
    wait_for(lambda: far.stored() > before, within=PROGRESS_SECONDS, what="a block")
    progress = time.monotonic() - began
    assert 0 == producer.wait(DELIVERY_SECONDS)
    seconds = time.monotonic() - began
    verdict = far.verdict({"first": far.folder / "first", "source": source})
    assert [] == verdict.problems
    blocks = sum(-(-size // MIB) for size in sizes.values())
    assert 4 + blocks == verdict.blocks
    sys.stdout.write(
        f"{what}: {blocks} blocks in {seconds:.1f} s, 0 lost, 0 wrong, {len(verdict.doubled)} on "
        f"two machines; first block after {progress:.1f} s\n"
    )
    return seconds


def throttle(island):
    """Make the link of *island* slow."""
    island.throttle(RATE)


@pytest.mark.long
def test_slow_network(far):
    """At 10 mbit a folder arrives, no faster than that."""
    assert hindered(far, throttle, RATE, {"a": 8 * MIB}) > 8 * MIB * 8 / 10e6 * 0.9


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_slow_network_for_long(far):
    """The same with more of it: no session ends because frames take the line."""
    assert hindered(far, throttle, RATE, SIZES) > BLOCKS * MIB * 8 / 10e6 * 0.9


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_late_network(far):
    """Each packet of the workers and the producer takes 100 ms, each way."""
    far.delay = 0.1
    hindered(far, lambda _: None, "100 ms each way", SIZES)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_lossy_network(far):
    """A tenth of the packets of the workers and the producer is lost, each way."""
    hindered(far, lambda island: island.lose(0.1), "10 % lost each way", SIZES)
