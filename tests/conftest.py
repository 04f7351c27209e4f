"""What all tests share: where the project is, and a real Apache Kafka where one is needed."""

import signal

from pathlib import Path

import pytest

from streamapp.broker import Cluster
from tests import harness


HERE = Path(__file__).resolve().parent
ON_KAFKA = {HERE / "kafka", HERE / "faults"}
FAILED = pytest.StashKey[bool]()

# A shell that starts the tests with `&` has them ignore Ctrl-C, and `nohup` has them ignore a
# closed terminal. What they start would inherit that, and tests send these signals.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items):
    """Mark every test of the folders that need a real Kafka."""
    for item in items:
        if ON_KAFKA & set(item.path.parents):
            item.add_marker(pytest.mark.kafka)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Remember that a test failed: then the logs of what it started are shown."""
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


@pytest.fixture(scope="session", autouse=True)
def _user_data(tmp_path_factory):
    """What a user's own folder holds, a producer's key, is that of the tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("user-data")))
        yield


@pytest.fixture(scope="session")
def project():
    """The folder that holds the whole project."""
    return HERE.parent


@pytest.fixture(scope="session")
def kafka(tmp_path_factory):
    """The address of one broker, started once, on a free port."""
    with Cluster(tmp_path_factory.mktemp("kafka")) as cluster:
        yield cluster.bootstrap


@pytest.fixture(scope="session")
def kafka3(tmp_path_factory):
    """A cluster of three brokers; a test that harms one puts it right again."""
    with Cluster(tmp_path_factory.mktemp("kafka3"), nodes=3) as cluster:
        yield cluster


@pytest.fixture
def site(kafka, tmp_path, request):
    """One broker without topics of earlier tests, and all that a test starts there."""
    with harness.Site(kafka, tmp_path) as site:
        yield site
        site.failed = request.node.stash[FAILED]


@pytest.fixture
def site3(kafka3, tmp_path, request):
    """The same on three brokers."""
    with harness.Site(kafka3.bootstrap, tmp_path) as site:
        yield site
        site.failed = request.node.stash[FAILED]
