"""The command line: one line says what is wrong, and the exit code says who must act."""

import errno
import os
import re

from pathlib import Path

import click
import pytest

from click.testing import CliRunner

from streamapp import errors, settings
from streamapp.cli.groups import DEBUG_VARIABLE, ReportingGroup
from streamapp.cli.main import cli
from streamapp.errors import SettingsError, StreamAppError
from streamapp.integrity import machines
from streamapp.settings import Settings, flag_of
from streamapp.ui import status_view


CLASSES = [
    c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, StreamAppError)
]
LEAST = {"demo": ["--data", "/nowhere"]}


def commands(group=cli, path=()):
    """Yield every command with the words that name it."""
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """Nothing of the machine that runs the tests is in force."""
    for name in list(os.environ):
        if name.startswith("STREAMAPP_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def invoke(*arguments, command=cli):
    """Run a command as a terminal does."""
    return CliRunner().invoke(command, arguments, prog_name="streamapp")


def failing(error, *, nested=False):
    """Return a command line on which `fail` raises *error*."""

    @click.group(cls=ReportingGroup)
    def top():
        """Top."""

    @click.group()
    def inner():
        """Inner."""

    top.add_command(inner, "inner")

    @(inner if nested else top).command()
    def fail():
        """Fail."""
        raise error

    return top


# --- help and settings


@pytest.mark.parametrize(("words", "command"), list(commands()), ids=lambda value: str(value)[:40])
def test_help(words, command):
    """Every command and every option says what it is for."""
    done = invoke(*words, "--help")

    assert (0, "") == (done.exit_code, done.stderr)
    assert (command.help or "").strip()
    assert [] == [
        option.name
        for option in command.params
        if isinstance(option, click.Option) and not (option.help or option.hidden)
    ]


@pytest.mark.parametrize(
    "words",
    [(), *(words for words, command in commands() if isinstance(command, click.Group))],
    ids=" ".join,
)
def test_list_of_commands(words):
    """What a command is for is said in whole where commands are listed."""
    _, _, listed = invoke(*words, "--help").output.partition("Commands:")

    assert listed
    assert "..." not in listed


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (None, "Group distributed-processors knows no machine store-9: nothing to forget\n"),
        (0, "Machine store-9 is forgotten; to be sent again: 0 blocks of it\n"),
    ],
)
def test_forget(count, said, monkeypatch):
    """A mistyped machine is not said to be forgotten."""
    monkeypatch.setattr(machines, "forget", lambda *_, **__: count)

    assert said == invoke("machines", "forget", "store-9").stdout


@pytest.mark.parametrize(("words", "command"), list(commands()), ids=lambda value: str(value)[:40])
def test_flags_are_settings(words, command):
    """A flag that has a setting's name has its meaning, and no default of its own."""
    for option in command.params:
        if option.name in Settings.model_fields and option.opts == [settings.flag_of(option.name)]:
            assert option.default in {None, ()}, words
            assert not settings.is_secret(option.name)
            assert str(Settings.model_fields[option.name].description) in option.help
            assert option.type.name != "integer", "settings check themselves"


def test_settings_that_have_a_flag():
    """Every setting but the secrets is a flag of some command."""
    flags = {option.name for _, command in commands() for option in command.params}

    assert [] == [n for n in Settings.model_fields if n not in flags and not settings.is_secret(n)]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["producer", "--block-size", "big"], "--block-size, STREAMAPP_BLOCK_SIZE"),
        (["producer", "--compression", "lzma"], "--compression, STREAMAPP_COMPRESSION"),
        (["producer", "--max-attempts", "0"], "--max-attempts, STREAMAPP_MAX_ATTEMPTS"),
        (["producer", "--data-folder", "\0"], "--data-folder, STREAMAPP_DATA_FOLDER"),
        (["worker", "--machine-id", "a/b"], "--machine-id, STREAMAPP_MACHINE_ID"),
        (["worker", "--group-id", "a b"], "--group-id, STREAMAPP_GROUP_ID"),
        (["worker", "--max-blocks", "x"], "--max-blocks, STREAMAPP_MAX_BLOCKS"),
        (["worker", "--web-port", "0"], "--web-port, STREAMAPP_WEB_PORT"),
        (["worker", "--web-port", "65536"], "--web-port, STREAMAPP_WEB_PORT"),
        (["worker", "--web-host", "0.0.0.0"], "STREAMAPP_WEB_TOKEN"),  # noqa: S104
        (["worker", "--session-timeout", "601"], "--session-timeout, STREAMAPP_SESSION_TIMEOUT"),
        (["worker", "--block-timeout", "nan"], "--block-timeout, STREAMAPP_BLOCK_TIMEOUT"),
        (["worker", "--data-dir", ""], "--data-dir, STREAMAPP_DATA_DIR"),
        (["worker", "--data-dir", f"a{os.pathsep}b"], "--data-dir, STREAMAPP_DATA_DIR"),
        (["worker", "--brokers", "nowhere"], "--brokers, STREAMAPP_BROKERS"),
        (["status", "--web-port", "x"], "--web-port, STREAMAPP_WEB_PORT"),
        (["status", "--limit", "0"], "--limit"),
        (["status", "--state", "lost"], "superseded"),
        (["status", "--state", "sent", "--failed"], "exclude each other"),
        (["topics", "check", "--brokers", ","], "--brokers, STREAMAPP_BROKERS"),
        (["topics", "create", "--replication", "0"], "--replication, STREAMAPP_REPLICATION"),
        (["broker", "start", "--port", "70000"], "--port"),
        (["demo", "--data", "nowhere"], "--data"),
        (["worker", "--no-such-flag"], "--no-such-flag"),
        (["no-such-command"], "no-such-command"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_bad_value(words, named):
    """What is wrong is named with its flag and its variable, in one line, with exit code 2."""
    done = invoke(*words)
    lines = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]

    assert 2 == done.exit_code, done.output
    assert [done.stderr.splitlines()[-1]] == lines
    assert named in lines[0]
    assert "Traceback" not in done.output


def counting_once():
    """Yield every command with each of its options that counts once, as it is written."""
    for words, command in commands():
        for option in command.params:
            if isinstance(option, click.Option) and not option.multiple:
                value = [] if option.is_flag else ["1"]
                yield (*words, *2 * [option.opts[0], *value]), option.opts[0]


@pytest.mark.parametrize(("words", "flag"), list(counting_once()), ids=lambda v: str(v)[:60])
def test_given_twice(words, flag):
    """An option that counts once and is given twice is refused, by every command."""
    done = invoke(*words)

    assert 2 == done.exit_code, done.output
    assert f"Error: {flag} is given 2 times, and would count once" in done.stderr


def test_two_folders(tmp_path):
    """Two data folders are refused with the way to send both; what may come twice is not."""
    done = invoke("producer", "--data-folder", "a", "--data-folder=b")
    assert (2, True) == (done.exit_code, "once for each folder" in done.stderr)

    done = invoke("verify", "--data-dir", str(tmp_path), "--data-dir", str(tmp_path / "b"))
    assert "times" not in done.stderr


def test_bad_variable(monkeypatch):
    """A variable that is wrong is named as well as its flag is."""
    monkeypatch.setenv("STREAMAPP_WEB_PORT", "x")
    done = invoke("status")

    assert 2 == done.exit_code
    assert "STREAMAPP_WEB_PORT" in done.stderr
    assert "'x'" in done.stderr


def test_config_hides_secrets(monkeypatch):
    """What is in force is printed with where it is from; a secret is not."""
    monkeypatch.setenv("STREAMAPP_WEB_TOKEN", "canary-canary")
    Path("streamapp.toml").write_text('machine_id = "from-file"\n')
    done = invoke("config")

    assert 0 == done.exit_code
    assert "canary" not in done.output
    assert "STREAMAPP_WEB_TOKEN" in done.output
    assert "from-file" in done.output


# --- options


@pytest.mark.parametrize("command", [["worker"], ["producer"], ["topics", "create"]])
def test_help_names_what_is_expected(command):
    """The help says of each number whether it is a size, seconds, hours, a port or a count."""
    done = invoke(*command, "--help")
    numbers = {
        flag_of(name)
        for name, field in Settings.model_fields.items()
        if isinstance(field.default, int | float) and not isinstance(field.default, bool)
    }

    assert not numbers & set(re.findall(r"(--[a-z-]+) TEXT", done.output))


@pytest.mark.parametrize(("columns", "width"), [(None, 160), ("70", 70)])
def test_status_in_a_file(monkeypatch, columns, width):
    """What goes to no terminal is not broken at 80 columns, unless somebody wants that."""
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    widths = []
    monkeypatch.setattr(status_view, "show", lambda _, console, __: widths.append(console.width))
    assert 0 == invoke("status").exit_code

    assert [width] == widths


def test_environment():
    """Flags that are given become the variables that say the same; others are left alone."""
    flags = {
        "machine_id": "m",
        "max_blocks": None,
        "brokers": ("a:1", "b:2,c:3"),
        "data_dir": ("x", "y"),
        "data_folder": None,
        "state_dir": Path("z"),
    }

    assert {
        "STREAMAPP_MACHINE_ID": "m",
        "STREAMAPP_BROKERS": "a:1,b:2,c:3",
        "STREAMAPP_DATA_DIR": f"x{os.pathsep}y",
        "STREAMAPP_STATE_DIR": str(Path("z").resolve()),
    } == settings.as_environment(flags)
    assert {} == settings.as_environment({"brokers": (), "machine_id": None})


def test_environment_says_what_the_flags_say(monkeypatch):
    """A worker that reads the variables has the settings of the flags."""
    flags = {
        "machine_id": "m",
        "brokers": ("a:1", "b:2"),
        "data_dir": ("x y", "z"),
        "min_free": "1GiB",
        "max_blocks": "3",
    }
    for name, value in settings.as_environment(flags).items():
        monkeypatch.setenv(name, value)

    assert Settings.load(**flags).model_dump() == Settings.load().model_dump()


def test_folder_with_a_separator():
    """A folder that would become two in the variable is refused, not taken for two."""
    with pytest.raises(SettingsError, match="STREAMAPP_DATA_DIR"):
        settings.as_environment({"data_dir": (f"a{os.pathsep}b",)})


# --- errors


def test_password_is_not_shown():
    """A password in a URL is in no message of this program or of click."""
    for words in (
        ["producer", "--data-folder", "s3://user:canary@host/a"],
        ["demo", "--data", "s3://user:canary@host/a"],
        ["topics", "check", "--brokers", "user:canary@host:1"],
    ):
        done = invoke(*words)
        assert done.exit_code
        assert "canary" not in done.output
        assert "***@host" in done.output
    done = invoke("fail", command=failing(ValueError("ftp://user:canary@host")))
    assert "canary" not in done.output


@pytest.mark.parametrize("error", CLASSES)
@pytest.mark.parametrize("nested", [False, True])
def test_exit_codes(error, nested):
    """Each class of the tree has its exit code, and its message is the line that is shown."""
    words = ["inner", "fail"] if nested else ["fail"]
    done = invoke(*words, command=failing(error("what, where"), nested=nested))

    assert error.exit_code == done.exit_code
    assert "Error: what, where\n" == done.stderr


@pytest.mark.parametrize(
    "error", [ValueError("bad\n\tvalue"), RecursionError("deep"), OSError(5, "I/O"), KeyError("k")]
)
def test_unforeseen(error, monkeypatch):
    """What nobody foresaw is one line and exit code 70; the traceback is for who asks for it."""
    done = invoke("fail", command=failing(error))
    assert 70 == done.exit_code
    assert 1 == len(done.stderr.splitlines())
    assert type(error).__name__ in done.stderr
    assert DEBUG_VARIABLE in done.stderr

    monkeypatch.setenv(DEBUG_VARIABLE, "1")
    done = invoke("fail", command=failing(error))
    assert 70 == done.exit_code
    assert "Traceback" in done.stderr


def test_reader_that_leaves():
    """Who reads only the first lines gets no error for it."""
    done = invoke("fail", command=failing(BrokenPipeError(errno.EPIPE, "Broken pipe")))

    assert 1 == done.exit_code
    assert "unforeseen" not in done.output


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 1), (EOFError(), 1), (SystemExit(7), 7)]
)
def test_what_is_no_error(error, code):
    """Ctrl-C and a deliberate exit are no unforeseen errors."""
    done = invoke("fail", command=failing(error))

    assert code == done.exit_code
    assert "unforeseen" not in done.output
