"""Settings: where they come from, and what is said of those that are wrong."""

import os
import re

from pathlib import Path

import pytest

from pydantic import ValidationError

from streamapp import settings
from streamapp.errors import SettingsError
from streamapp.settings import Settings


CANARY = "canary-99"


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """Nothing of the machine that runs the tests is in force."""
    for name in Settings.model_fields:
        monkeypatch.delenv(settings.variable_of(name), raising=False)
    monkeypatch.delenv(settings.CONFIG_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)


def refused(**flags):
    """Return what is said of *flags*."""
    with pytest.raises(SettingsError) as caught:
        Settings.load(**flags)
    return str(caught.value)


def test_precedence(monkeypatch):
    """A flag is before a variable, a variable before the config file, that before the default."""
    for name, value in [("machine_id", "of-file"), ("group_id", "of-file"), ("brokers", "f:1")]:
        with Path("streamapp.toml").open("a") as file:
            file.write(f'{name} = "{value}"\n')
    monkeypatch.setenv("STREAMAPP_MACHINE_ID", "of-variable")
    monkeypatch.setenv("STREAMAPP_GROUP_ID", "of-variable")
    found = Settings.load(machine_id="of-flag")

    assert {
        "machine_id": ("of-flag", "flag"),
        "group_id": ("of-variable", "STREAMAPP_GROUP_ID"),
        "brokers": ("f:1", "streamapp.toml"),
        "web_port": ("6066", "default"),
    }.items() <= found.origins().items()


def test_origins_can_be_typed():
    """The value of every setting, as it is printed, is the same setting when it is given again."""
    found = Settings.load(window=1536, min_free="1.5GiB", data_dir=[Path("a"), Path("b")])
    texts = {name: text for name, (text, _) in found.origins().items()}

    assert ("128MiB", "1536", "1536MiB") == tuple(
        texts[name] for name in ("block_size", "window", "min_free")
    )
    assert found.model_dump() == Settings.load(**texts).model_dump()


@pytest.mark.parametrize("nothing", [None, "", ()])
def test_not_given(monkeypatch, nothing):
    """A flag or variable that is empty counts as not given, and is not the current folder."""
    monkeypatch.setenv("STREAMAPP_DATA_FOLDER", "")
    monkeypatch.setenv("STREAMAPP_MAX_BLOCKS", "")
    found = Settings.load(brokers=nothing, data_folder=nothing)

    assert ("127.0.0.1:9092", None, None) == (found.brokers, found.data_folder, found.max_blocks)


def test_other_config_file(monkeypatch, tmp_path):
    """The variable names the config file; one that is not there is a mistake, not a default."""
    monkeypatch.setenv("STREAMAPP_CONFIG", str(tmp_path / "other.toml"))
    assert "STREAMAPP_CONFIG: there is no file" in refused()

    (tmp_path / "other.toml").write_text('web_port = 7000\ndata_dir = ["a", "b"]\n')
    found = Settings.load()
    assert (7000, [Path("a"), Path("b")]) == (found.web_port, found.data_dir)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"= =", "config file streamapp.toml: "),
        (b"\xff", "config file streamapp.toml: "),
        (b"machine = 'm'", "machine: no such setting (in streamapp.toml)"),
        (b"[streamapp]\nmachine_id = 'm'", "streamapp: no such setting (in streamapp.toml)"),
        (b"machine_id = 5", "machine_id (--machine-id, STREAMAPP_MACHINE_ID): "),
    ],
)
def test_bad_config_file(content, said):
    """A config file that cannot be read, or has a key that is none, is an error that says so."""
    Path("streamapp.toml").write_bytes(content)

    assert refused().startswith(said)


WRONG = [
    *(("machine_id", value) for value in ("a b", "..", "../m", "é", "a\n", "-m", "x" * 201)),
    ("group_id", "g:0"),
    *(
        ("brokers", value)
        for value in ("a", "a:", ":1", "a:0", "a:65536", "a:²", "a b:1", "a:1;b:2")
    ),
    ("brokers", "PLAINTEXT://a:1"),
    ("brokers", "user@a:1"),
    ("brokers", "a:" + "9" * 5000),
    *(("block_size", value) for value in ("0", "-1", "5GiB", "many", "9" * 5000, "1.5")),
    *(("frame_size", value) for value in ("1", "17MiB")),
    ("compression", "lz4"),
    ("max_attempts", "0"),
    *(("ack_grace", value) for value in ("0", "-1", "inf", "nan", "soon")),
    ("retry_base", "inf"),
    ("readers", "65"),
    ("send_buffer", "1MiB"),
    ("data_folder", "a\0b"),
    ("data_dir", "a\0b"),
    ("state_dir", "\udcff"),
    ("max_blocks", "0"),
    ("min_free", "-1"),
    *(("file_mode", value) for value in ("640x", "0100", "0440", "0750", "0662", "rw", "416")),
    ("block_timeout", "0"),
    ("heartbeat", "nan"),
    *(("session_timeout", value) for value in ("5", "601", "inf")),
    *(("web_port", value) for value in ("0", "65536")),
    *(("replication", value) for value in ("0", "33")),
    *(("retention_hours", value) for value in ("0", "1e-9", "1e9", "inf")),
    *(("retention_size", value) for value in ("0", "-1")),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_wrong_value(name, value):
    """An impossible value is refused; the error names flag, variable and value, and is short."""
    said = refused(**{name: value})

    assert f"{name} ({settings.flag_of(name)}, {settings.variable_of(name)}): " in said
    assert f"found {value!r:.100}"[:100] in said.replace("[", "")
    assert len(said) < 700


@pytest.mark.parametrize(("name", "value"), [*WRONG, ("topic_prefix", "a b"), ("brokers", ("a",))])
def test_plain_words(name, value):
    """No message has a regular expression, a tuple or words of the library in it."""
    said = refused(**{name: value}).replace(settings.shown(value), "")

    assert not re.search(r"pattern|[\[{^\\]|\('|Input|String|Value error", said), said


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("block_size", "1", "expected 1.0 KiB or more, found '1'"),
        ("block_size", "5GiB", "expected 4.0 GiB or less"),
        ("block_size", "12x", "KiB, MiB, GiB, TiB, KB, MB, GB or TB, found '12x'"),
        ("file_mode", "777", "expected three octal digits, the owner's a 6, those"),
        ("brokers", "localhost", "expected host:port, several with commas, found 'localhost'"),
        ("web_port", "65536", "expected less than 65536"),
        ("max_blocks", "x", "expected a whole number"),
        ("ack_grace", "0", "expected more than 0,"),
        ("retry_base", "nan", "expected a number that is not infinite"),
        ("release", "x", "expected true or false"),
        ("web_advertise", f"ftp://u:{CANARY}@h", "expected a host name or an address"),
        ("links", "x", "expected 'fail', 'skip' or 'follow'"),
        ("web_token", "x", "expected at least 8 characters, found a secret"),
        ("data_dir", ("a", "./a"), "a folder is given twice, found 'a', './a'"),
        ("brokers", "user:canary-99@host:1", "several with commas, found '***@host:1'"),
        ("brokers", "a:1,user:canary-99@b:1", "commas ('***@b:1' is none), found"),
        ("data_folder", "s3://user:canary-99@host\0", "found 's3://***@host"),
    ],
)
def test_expectation(name, value, said):
    """The message says what was expected, sizes with their unit; a password is not in it."""
    found = refused(**{name: value})

    assert said in found
    assert CANARY not in found


def warned(caplog):
    """Return what is warned about when the settings are read; and only once."""
    settings._warn_once.cache_clear()
    caplog.clear()
    Settings.load()
    Settings.load()
    return [record.getMessage() for record in caplog.records]


def test_unknown_variable(monkeypatch, caplog):
    """A variable that is no setting is warned about, also when a setting is refused later."""
    for name in settings.OTHER_VARIABLES - {settings.CONFIG_VARIABLE}:
        monkeypatch.setenv(name, "1")
    assert [] == warned(caplog)

    monkeypatch.setenv("STREAMAPP_MASHINE_ID", "m")
    monkeypatch.setenv("STREAMAPP_XYZ", "")
    assert [
        (
            "the variable STREAMAPP_MASHINE_ID is not used, no setting has that name: "
            "is STREAMAPP_MACHINE_ID meant?"
        ),
        "the variable STREAMAPP_XYZ is not used, no setting has that name",
    ] == warned(caplog)

    settings._warn_once.cache_clear()
    caplog.clear()
    refused(readers="x")
    assert 2 == len(caplog.records)


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such rights")
@pytest.mark.parametrize(
    ("content", "mode", "is_said"),
    [
        ('web_token = "canary-99"', 0o644, True),
        ('web_token = "canary-99"', 0o640, False),
        ('machine_id = "m"', 0o644, False),
    ],
)
def test_readable_secret(caplog, content, mode, is_said):
    """A secret in a file that every user can read is warned about, with what mends it."""
    path = Path("streamapp.toml")
    path.write_text(content)
    path.chmod(mode)
    said = warned(caplog)

    assert is_said == any("chmod o-r streamapp.toml" in text for text in said)
    assert CANARY not in str(said)


def test_origins_without_passwords():
    """What is in force is printed without a password."""
    assert CANARY not in str(Settings.load(data_folder=f"s3://u:{CANARY}@h").origins())


def test_wrong_variable(monkeypatch):
    """A wrong variable is said as a wrong flag is; several wrong settings are said at once."""
    monkeypatch.setenv("STREAMAPP_WEB_PORT", "x")
    said = refused(readers="y")

    assert "web_port (--web-port, STREAMAPP_WEB_PORT): " in said
    assert "found 'x'" in said
    assert "readers (--readers, STREAMAPP_READERS): " in said


@pytest.mark.parametrize("shown", [repr, str, lambda s: str(s.origins()), lambda s: s.model_dump()])
def test_secret(shown):
    """A secret is in nothing that is shown."""
    found = Settings.load(web_token=CANARY)

    assert CANARY == found.web_token.get_secret_value()
    assert CANARY not in str(shown(found))


@pytest.mark.parametrize("value", ["canary", [CANARY]])
def test_wrong_secret(value):
    """A secret that is wrong is not in the error, nor in the one that caused it; it has no flag."""
    with pytest.raises(SettingsError) as caught:
        Settings.load(web_token=value)

    assert str(caught.value).startswith("web_token (STREAMAPP_WEB_TOKEN): ")
    assert "canary" not in f"{caught.value} {caught.value.__cause__}"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])  # noqa: S104
def test_web_is_guarded(monkeypatch, host):
    """Web views that others can reach want a token, and an empty one is none."""
    monkeypatch.setenv("STREAMAPP_WEB_TOKEN", "")
    said = refused(web_host=host)

    assert f"web_host (--web-host, STREAMAPP_WEB_HOST): {host} is reachable by others" in said
    assert host == Settings.load(web_host=host, web_token=CANARY).web_host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback(host):
    """Web views that only this machine can reach need no token."""
    assert host == Settings.load(web_host=host).web_host


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"frame_size": "16MiB", "send_buffer": "16MiB"}, "at most half of send_buffer"),
        ({"block_size": "4GiB", "frame_size": "1KiB"}, "more than 1048576 frames"),
    ],
)
def test_together(flags, said):
    """Settings that cannot work together are refused: a send that could never begin or end."""
    assert said in refused(**flags)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a:1", ["a:1"]),
        ("a:1, b:2,", ["a:1", "b:2"]),
        (("a:1", "b:2,c:3"), ["a:1", "b:2", "c:3"]),
        ("[::1]:9092", ["[::1]:9092"]),
    ],
)
def test_brokers(given, expected):
    """Brokers come with commas, with several flags, or both."""
    assert expected == Settings.load(brokers=given).bootstrap_servers


def test_folders(monkeypatch):
    """Several data folders travel in one variable as a path list does."""
    monkeypatch.setattr(settings.os, "pathsep", ":")
    monkeypatch.setenv("STREAMAPP_DATA_DIR", "/a::/b")
    found = Settings.load(machine_id="m")

    assert [Path("/a/processed_data_m"), Path("/b/processed_data_m")] == found.data_roots
    assert Path("/a/processed_data_m/.streamapp") == found.tables_dir
    assert Path("/s") == Settings.load(state_dir="/s").tables_dir


def test_frozen():
    """What is in force does not change while the program runs."""
    with pytest.raises(ValidationError, match="frozen"):
        Settings.load().web_port = 1


def test_unknown():
    """A flag that is no setting is refused."""
    assert "nothing: no such setting" in refused(nothing=1)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_described(name):
    """Every setting has a description that is a sentence, and a default that people can read."""
    assert re.fullmatch(r"[A-Z].*\.", Settings.model_fields[name].description)
    assert "[" not in settings.default_text(name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("machine_id", "this host's name"),
        ("block_size", "128MiB"),
        ("data_dir", "the current folder"),
        ("web_port", "6066"),
        ("compression", "auto"),
        ("max_blocks", ""),
    ],
)
def test_default_text(name, text):
    """Defaults are shown as people write them."""
    assert text == settings.default_text(name)
