"""The Docker engine of the compose test: the one that answers here, or one that the test starts.

Where `docker compose` and an engine answer, they are used, with the images that the files name.
Elsewhere root on Debian starts an engine of its own. It has a network of its own without a way
out, so its ports are nobody else's, and the base images are stand-ins (`tests.compose.images`).
Everybody else skips the test, and reads why.
"""

import contextlib
import os
import shutil
import subprocess
import uuid

from pathlib import Path

import platformdirs
import pytest

from tests.compose import images
from tests.harness import clean_environment
from tests.waiting import wait_for


UNPROVEN = "not proven: docker-compose.yml, run for real"
PACKAGES = ("docker.io", "debootstrap", "iptables")
TOOLS = ("dockerd", "debootstrap", "iptables", "nsenter", "unshare")
START_SECONDS = 60
STOP_SECONDS = 60


class Engine:
    """Where commands are run: their environment, and what they begin with."""

    def __init__(self, environment, inside=()):
        self.environment = clean_environment() | environment
        self.inside = list(inside)

    def run(self, *command, **how):
        """Run *command* beside the engine, and return what became of it."""
        return subprocess.run(
            [*self.inside, *map(str, command)],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            **how,
        )

    def docker(self, *arguments, **how):
        """Run docker with *arguments*; return what it printed, and fail when it fails."""
        done = self.run("docker", *arguments, **how)
        assert 0 == done.returncode, f"docker {arguments}: {done.stdout}{done.stderr}"
        return done.stdout


@contextlib.contextmanager
def engine_or_skip(folder):
    """Give an engine; skip the test where there is none and none can be started."""
    here = Engine({"COMPOSE_PROJECT_NAME": f"streamapp-test-{uuid.uuid4().hex[:8]}"})
    if _answers(here):
        yield here
        return
    _install()
    with _own(folder, here.environment) as engine:
        yield engine


def _answers(engine):
    """Whether an engine and the compose plugin answer already."""
    if shutil.which("docker") is None:
        return False
    asked = (("docker", "info"), ("docker", "compose", "version"))
    return all(engine.run(*command, timeout=60).returncode == 0 for command in asked)


def _install():
    """Install what is missing, where that is possible."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip(f"{UNPROVEN}: no Docker engine with compose answers, and only root starts one")
    if all(shutil.which(tool) for tool in TOOLS):
        return
    if shutil.which("apt-get"):
        quietly = ("apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES)
        for command in (("apt-get", "update", "-qq"), quietly):
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(command, check=False, capture_output=True, timeout=300)
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        pytest.skip(f"{UNPROVEN} without {', '.join(missing)} (Debian: {' '.join(PACKAGES)})")


@contextlib.contextmanager
def _own(folder, environment):
    """Start an engine in a network of its own, with stand-ins for the base images."""
    cache = Path(platformdirs.user_cache_dir("streamapp")) / "compose-test"
    plugin, root = images.prepare(cache)
    plugins = folder / "client" / "cli-plugins"
    plugins.mkdir(parents=True)
    (plugins / "docker-compose").symlink_to(plugin)
    address = f"unix://{folder}/docker.sock"
    with (folder / "dockerd.log").open("wb") as log:
        daemon = subprocess.Popen(
            [*_ALONE, *_daemon(folder, address)], stdout=log, stderr=log, start_new_session=True
        )
    engine = Engine(
        environment
        | {
            "DOCKER_HOST": address,
            "DOCKER_CONFIG": str(folder / "client"),
            "DOCKER_BUILDKIT": "0",  # BuildKit asks a registry for images that are here
        },
        inside=("nsenter", "--net", f"--target={daemon.pid}"),
    )
    try:
        wait_for(
            lambda: daemon.poll() is not None or _answers(engine),
            within=START_SECONDS,
            what="the Docker engine",
        )
        assert daemon.poll() is None, (folder / "dockerd.log").read_text("utf-8", "replace")
        images.load(engine, root, folder)
        yield engine
    finally:
        daemon.terminate()
        daemon.wait(STOP_SECONDS)
        shutil.rmtree(folder / "data", ignore_errors=True)  # images and volumes: gigabytes


_ALONE = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")


def _daemon(folder, address):
    return [
        "dockerd",
        f"--host={address}",
        f"--data-root={folder / 'data'}",
        f"--exec-root={folder / 'exec'}",
        f"--pidfile={folder / 'dockerd.pid'}",
        "--log-level=warn",
    ]
