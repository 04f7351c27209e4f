"""Kafka's jars: fetched once, remembered, and fetched again when they are not whole."""

import sys
import types
import zipfile

from dataclasses import dataclass
from pathlib import Path

import pytest

from streamapp.broker import jars
from streamapp.errors import BrokerError


@dataclass
class Artifact:
    """Stands for one of jgo's; counts how often it is downloaded."""

    path: Path
    name: str = "kafka"
    downloads: int = 0

    @property
    def context(self):
        """Where jgo finds other artifacts."""
        return self

    def project(self, _group, name):
        """Another artifact, beside this one."""
        return Artifact(self.path.with_name(f"{name}.jar"), name)

    def at_version(self, _version):
        """One version of it."""
        return self

    def artifact(self):
        """Its main file."""
        return self

    def resolve(self):
        """Download it, unless something is there."""
        if not self.path.exists():
            self.downloads += 1
            with zipfile.ZipFile(self.path, "w") as jar:
                jar.writestr("META-INF/MANIFEST.MF", "")
        return self.path


@pytest.fixture
def central(tmp_path, monkeypatch):
    """A jgo that knows of one artifact, and counts how often it is asked."""
    jgo = types.ModuleType("jgo")
    jgo.asked = []
    jgo.only = Artifact(tmp_path / "kafka.jar")
    jgo.resolve = lambda coordinates: jgo.asked.append(coordinates) or [jgo.only]
    monkeypatch.setitem(sys.modules, "jgo", jgo)
    return jgo


def test_fetched_once(tmp_path, central):
    """The second time nobody is asked; Kafka's own tools are among the jars."""
    cache = tmp_path / "cache" / "jars.json"

    first = jars.classpath(cache)

    assert [tmp_path / "kafka.jar", tmp_path / "kafka-tools.jar"] == first
    assert first == jars.classpath(cache)
    assert 1 == len(central.asked)


@pytest.mark.parametrize("content", ["", "[]", '{"of": "another Kafka", "jars": ["a.jar"]}'])
def test_unusable_cache(tmp_path, central, content):
    """A cache that cannot be read, or is of another version, is made anew."""
    cache = tmp_path / "jars.json"
    cache.write_text(content)

    assert jars.classpath(cache) == jars.classpath(cache)
    assert 1 == len(central.asked)


def test_missing_jar(tmp_path, central):
    """A jar that somebody deleted is fetched again."""
    cache = tmp_path / "jars.json"
    jars.classpath(cache)[0].unlink()

    assert all(jar.is_file() for jar in jars.classpath(cache))
    assert 2 == central.only.downloads


def test_interrupted_download(tmp_path, central):
    """A jar that was cut short is not used, but fetched again."""
    central.only.path.write_bytes(b"PK\x03\x04 the rest never came")

    assert all(zipfile.is_zipfile(jar) for jar in jars.classpath(tmp_path / "jars.json"))
    assert 1 == central.only.downloads


def test_no_network(tmp_path, central):
    """Without a network one line says what was wanted, what failed and what to do."""

    def refuse(_coordinates):
        raise ConnectionError("no route to host\nand much more")

    central.resolve = refuse

    with pytest.raises(BrokerError, match=r"Kafka 4.*no route to host.*--brokers") as caught:
        jars.classpath(tmp_path / "jars.json")

    assert "\n" not in str(caught.value)
    assert not (tmp_path / "jars.json").exists()


def test_no_jgo(tmp_path, monkeypatch):
    """Without jgo the error says what to install."""
    monkeypatch.setitem(sys.modules, "jgo", None)

    with pytest.raises(BrokerError, match=r"pip install 'streamapp\[local\]'"):
        jars.classpath(tmp_path / "jars.json")
