"""`docker-compose.yml` and the Dockerfile, where no Docker engine can try them.

Against the Compose schema, against our own settings and commands, and against the
promises that the documents make for them.
"""

import http.server
import json
import re
import subprocess
import sys
import threading

import click
import pytest
import yaml

from streamapp.cli.main import cli
from streamapp.kafka import topic_admin
from streamapp.settings import ENV_PREFIX, Settings, variable_of
from streamapp.web.client import token_headers


BROKERS = {"kafka-1", "kafka-2", "kafka-3"}
WORKERS = {"worker-1", "worker-2"}
OURS = WORKERS | {"topics", "producer"}
ONE_SHOT = {"topics", "producer"}
VARIABLES = {variable_of(name) for name in Settings.model_fields}


@pytest.fixture(scope="module")
def compose(project):
    """The whole file, its anchors resolved."""
    return yaml.safe_load((project / "docker-compose.yml").read_text("utf-8"))


@pytest.fixture(scope="module")
def services(compose):
    """Every service by its name."""
    return compose["services"]


@pytest.fixture(scope="module")
def dockerfile(project):
    """The Dockerfile's text, its continued lines joined as Docker joins them."""
    return (project / "Dockerfile").read_text("utf-8").replace("\\\n", "")


@pytest.fixture
def worker_views():
    """Return a function that starts views which answer *status* and note what was asked."""
    servers = []

    def start(status):
        asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append((self.path, self.headers["Authorization"]))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_):
                """Keep quiet."""

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        servers.append(server)
        return server, asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def check_schema(path):
    """Hold *path* against the Compose schema that check-jsonschema carries; no network."""
    command = [sys.executable, "-m", "check_jsonschema"]
    arguments = ["--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


def test_schema(project):
    """Compose accepts the file."""
    result = check_schema(project / "docker-compose.yml")

    assert 0 == result.returncode, result.stdout


def test_schema_check_can_fail(project, tmp_path):
    """The checker is no rubber stamp: it names a misspelt key."""
    broken = tmp_path / "docker-compose.yml"
    text = (project / "docker-compose.yml").read_text("utf-8")
    broken.write_text(text.replace("depends_on:", "depend_on:"), "utf-8")

    result = check_schema(broken)

    assert 1 == result.returncode
    assert "depend_on" in result.stdout


def test_services(services):
    """Three brokers, topic creation, Kafka UI, two workers and a producer, no more."""
    assert BROKERS | OURS | {"kafka-ui"} == set(services)


def test_variables_exist(services):
    """Every STREAMAPP_* variable is a setting: a misspelt one would be ignored in silence."""
    used = {name for service in services.values() for name in service["environment"]}
    ours = {name for name in used if name.startswith(ENV_PREFIX)}

    assert set() == ours - VARIABLES
    assert {variable_of("brokers"), variable_of("machine_id")} <= ours


def test_image_variables_exist(dockerfile):
    """The same for the Dockerfile."""
    used = set(re.findall(rf"{ENV_PREFIX}\w+", dockerfile))

    assert used
    assert used <= VARIABLES


@pytest.mark.parametrize("name", sorted(OURS))
def test_values_are_settings(services, name, monkeypatch):
    """What a service sets is accepted by the settings, with the file's own defaults."""
    for variable, value in services[name]["environment"].items():
        if value is not None:
            monkeypatch.setenv(variable, re.sub(r"\$\{\w+:-(.*?)\}", r"\1", str(value)))

    settings = Settings.load()

    assert {f"{broker}:19092" for broker in BROKERS} == set(settings.bootstrap_servers)


@pytest.mark.parametrize("name", sorted(OURS))
def test_commands_exist(services, name):
    """Every command exists in this project, with its subcommands and flags."""
    command, words = cli, iter(services[name]["command"])
    for word in words:
        if word.startswith("-"):
            assert word in {flag for p in command.params for flag in p.opts}
            continue
        assert isinstance(command, click.Group), f"{command.name} has no command {word}"
        assert word in command.commands
        command = command.commands[word]

    assert not isinstance(command, click.Group)


def test_three_replicas(services):
    """A block is on two brokers before Kafka says so, and one broker may be lost."""
    wanted = {
        "KAFKA_DEFAULT_REPLICATION_FACTOR": 3,
        "KAFKA_MIN_INSYNC_REPLICAS": 2,
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": 3,
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": 3,
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": 2,
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    }
    for name in BROKERS:
        assert wanted.items() <= services[name]["environment"].items()


def test_one_cluster(services):
    """Three nodes of one KRaft cluster, each of them broker and controller."""
    environments = [services[name]["environment"] for name in sorted(BROKERS)]

    assert [1, 2, 3] == [e["KAFKA_NODE_ID"] for e in environments]
    assert 1 == len({e["CLUSTER_ID"] for e in environments})
    assert {"1@kafka-1:9093,2@kafka-2:9093,3@kafka-3:9093"} == {
        e["KAFKA_CONTROLLER_QUORUM_VOTERS"] for e in environments
    }
    assert 3 == len({e["KAFKA_ADVERTISED_LISTENERS"] for e in environments})


def test_replica_fetch_takes_a_batch(services):
    """A follower fetches the largest batch that the topic takes in one request."""
    for name in BROKERS:
        fetch = services[name]["environment"]["KAFKA_REPLICA_FETCH_MAX_BYTES"]
        assert fetch >= topic_admin.MAX_MESSAGE_BYTES


def test_long_running_services_are_watched(services):
    """Whatever stays up has a health check and comes back; what ends has neither."""
    for name, service in services.items():
        if name in ONE_SHOT:
            assert service["healthcheck"] == {"disable": True}
            assert "restart" not in service
            continue
        assert "unless-stopped" == service["restart"]
        if name in WORKERS:  # the test itself is the image's, see below
            assert {"interval", "timeout", "retries"} <= set(service["healthcheck"])
        else:
            assert "CMD" == service["healthcheck"]["test"][0]


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False), (401, False)])
def test_image_health_check(dockerfile, worker_views, monkeypatch, status, healthy):
    """The image's health check asks /health/, with the token, and believes its status."""
    server, asked = worker_views(status)
    monkeypatch.setenv(variable_of("web_port"), str(server.server_port))
    monkeypatch.setenv(variable_of("web_token"), "open sesame")
    text = re.search(r"^HEALTHCHECK .* CMD (\[.*\])$", dockerfile, re.MULTILINE).group(1)
    _python, *arguments = json.loads(text)

    result = subprocess.run([sys.executable, *arguments], capture_output=True, check=False)

    assert healthy == (result.returncode == 0)
    assert [("/health/", token_headers(Settings.load())["Authorization"])] == asked


def test_order_of_start(services):
    """Nothing starts before what it needs is ready: brokers, then topics, then the rest."""
    healthy = {broker: {"condition": "service_healthy"} for broker in BROKERS}
    for name in ("topics", "kafka-ui"):
        assert healthy == services[name]["depends_on"]
    for name in WORKERS | {"producer"}:
        assert {"topics": {"condition": "service_completed_successfully"}} == (
            services[name]["depends_on"]
        )


def test_state_is_on_named_volumes(compose, services, dockerfile):
    """`docker compose down` keeps every block and every log; the source is only read."""
    mounts = {name: services[name]["volumes"] for name in BROKERS | WORKERS}
    data_dir = re.search(r"STREAMAPP_DATA_DIR=(\S+)", dockerfile).group(1)

    assert {n: [f"{n}:/var/lib/kafka/data"] for n in BROKERS} == {n: mounts[n] for n in BROKERS}
    assert {n: [f"{n}:{data_dir}"] for n in WORKERS} == {n: mounts[n] for n in WORKERS}
    assert BROKERS | WORKERS | {"producer"} == set(compose["volumes"])
    assert ["./data:/data:ro", f"producer:{data_dir}"] == services["producer"]["volumes"]
    assert data_dir == services["producer"]["environment"]["STREAMAPP_STATE_DIR"]


def test_images_are_pinned(services, dockerfile):
    """Foreign images have a version; ours is built here, from a base that has one."""
    for name, service in services.items():
        if name in OURS:
            assert ("streamapp", ".") == (service["image"], service["build"])
        else:
            assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"])
    for base in re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE):
        assert re.fullmatch(r"python:3\.\d+-slim", base)


def test_ports_are_bound_to_loopback(services):
    """Nothing is reachable from the network unless someone says so."""
    ports = [port for service in services.values() for port in service.get("ports", [])]

    assert "127.0.0.1:8080:8080" in ports
    assert [] == [port for port in ports if not port.startswith("127.0.0.1:")]
    assert len(ports) == len({port.split(":")[1] for port in ports})


def test_no_secrets(services):
    """What smells of a secret comes from the caller's environment, never from the file."""
    smell = re.compile(r"PASS|SECRET|TOKEN|CREDENTIAL|JAAS|SASL|API_?KEY", re.IGNORECASE)
    for service in services.values():
        for name, value in service["environment"].items():
            if smell.search(name):
                assert value is None, f"{name} stands in the file"


def test_image_runs_unprivileged(dockerfile):
    """The last stage runs as a user of its own, and stops as the worker expects."""
    last = dockerfile.rpartition("\nFROM ")[2]

    assert "\nUSER streamapp\n" in last
    assert "\nSTOPSIGNAL SIGTERM\n" in last
    assert '\nENTRYPOINT ["streamapp"]\n' in last
    assert "apt-get" not in last
