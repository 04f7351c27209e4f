"""Brokers, workers and producers on islands of a network of the test's own (tests/network.py)."""

import dataclasses
import secrets
import urllib.request

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streamapp.broker import Cluster, java_command
from streamapp.broker.config import HOST
from tests import harness
from tests.waiting import wait_for


HEAP_MIB = 512


class FarCluster(Cluster):
    """A cluster whose nodes are on *islands*, one on each, and reachable from all others."""

    def __init__(self, folder, islands):
        super().__init__(folder, nodes=len(islands))
        self.islands = islands

    def status(self):
        """Return what each node is doing, with the address of its island."""
        found = zip(super().status(), self.islands, strict=True)
        return [dataclasses.replace(node, host=island.address) for node, island in found]

    def start(self):
        """Start every node that does not run, and wait until all know of each other."""
        self._start(self._nodes, wait_for=[])  # which would look for them on loopback
        wait_for(self._is_whole, within=harness.READY_SECONDS, what="the cluster", every=0.2)

    def _is_whole(self):
        numbers = {node.number for node in self._nodes}
        return all(numbers == brokers_known_to(node.address) for node in self.status())

    def _configure(self):
        super()._configure()
        for node in self._nodes:
            if node.process() is None:
                path = node.folder / "server.properties"
                path.write_text(self._moved(path.read_text("ascii")), "ascii")

    def _moved(self, properties):
        """Return *properties* with every node on its island; ports tell which is whose."""
        for node, island in zip(self._nodes, self.islands, strict=True):
            for port in (node.ports.broker, node.ports.controller):
                properties = properties.replace(f"{HOST}:{port}", f"{island.address}:{port}")
        return properties

    def _launch(self, nodes):
        command = java_command("kafka.Kafka", "server.properties", heap_mib=HEAP_MIB)
        for node in nodes:
            node.launch([*self.islands[node.number - 1].under, *command])


def brokers_known_to(address):
    """Return the numbers of the brokers that the one at *address* names; none if it is silent."""
    admin = AdminClient({"bootstrap.servers": address, **harness.QUIET})
    try:
        return set(admin.list_topics(timeout=2).brokers)
    except KafkaException:
        return set()


class FarSite(harness.Site):
    """A site whose workers have an island each, and whose producers have one together.

    Views that other machines can reach want a token: whatever this process asks of them has it.
    """

    # After a long cut a broker sends again only when TCP's patience is over, and a worker gives
    # up a request after its session and a minute.
    tables_seconds = 120

    def __init__(self, cluster, network, folder):
        super().__init__(cluster.bootstrap, folder)
        self.network = network
        self.cluster = cluster
        self.delay = 0.0
        self.islands = {}
        self._token = secrets.token_hex()

    def __enter__(self):
        """Begin without topics of earlier tests, and with the token."""
        opener = urllib.request.build_opener()
        opener.addheaders = [("Authorization", f"Bearer {self._token}")]
        urllib.request.install_opener(opener)
        return super().__enter__()

    def __exit__(self, *raised):
        """End what was started, and heal the brokers' links."""
        super().__exit__(*raised)
        urllib.request.install_opener(None)
        for island in self.cluster.islands:
            island.heal()
        for island in self.islands.values():
            island.remove()

    def worker(self, name, **given):
        """Start a worker on an island of its own; *given* are its flags."""
        island = self.island(name)
        return super().worker(name, under=self._under(island), web_host=island.address, **given)

    def producer(self, source, name="source", **given):
        """Start a producer on the producers' island; *given* are its flags."""
        under = self._under(self.island("producer"))
        return super().producer(source, name, under=under, **given)

    def island(self, name):
        """Return the island *name*; it is made when it is first asked for."""
        if name not in self.islands:
            self.islands[name] = self.network.island(delay=self.delay)
        return self.islands[name]

    def _under(self, island):
        return (*island.under, "env", f"STREAMAPP_WEB_TOKEN={self._token}")
