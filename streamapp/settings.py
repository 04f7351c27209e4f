"""Every setting with its name, type, default and meaning.

A setting is a flag (``--machine-id``; secrets have none), a variable
(``STREAMAPP_MACHINE_ID``) and a key of the config file (``machine_id``), in that order of
precedence. The config file is TOML, at ``STREAMAPP_CONFIG`` or ``streamapp.toml`` in the
current folder. Settings are read once, validated and frozen. An error names the setting, the
value and what was expected.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import functools
import ipaddress
import logging
import os
import re
import socket
import stat
import tomllib

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from streamapp.errors import SettingsError
from streamapp.protocol import fileplan
from streamapp.protocol.compression import Compression
from streamapp.protocol.frames import MAX_BLOCK_BYTES, MAX_FRAME_BYTES, MAX_FRAMES
from streamapp.settings_errors import expectation, shown, without_passwords
from streamapp.units import GIB, KIB, MIB, SIZE_WORDS, exact_size, format_size, parse_size


if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

ENV_PREFIX: Final = "STREAMAPP_"
CONFIG_VARIABLE: Final = "STREAMAPP_CONFIG"
CONFIG_FILE: Final = "streamapp.toml"
REPEATED: Final = {"brokers": ",", "data_dir": os.pathsep}
"""Settings whose flag may be given several times, and what joins the values in the variable."""

OTHER_VARIABLES: Final = frozenset({CONFIG_VARIABLE, "STREAMAPP_DEBUG", "STREAMAPP_JAVA"})
"""Variables that begin with `ENV_PREFIX` and are no settings."""

logger = logging.getLogger(__name__)


_NOT_GIVEN: Final = (None, "", ())
_HOST: Final = re.compile(r"[A-Za-z0-9._:\[\]-]+")
_MODE: Final = re.compile(r"0?6[046][046]")
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
_NAME: Final = re.compile(r"[A-Za-z0-9._:-]{1,253}")
_PREFIX: Final = re.compile(r"[A-Za-z0-9._-]{0,100}")


def _size(value: object) -> int:
    try:
        return parse_size(str(value))
    except SettingsError as error:
        raise ValueError(f"expected {SIZE_WORDS}") from error


def _rate(value: object) -> int:
    return _size(str(value).removesuffix("/s"))


def _folders(value: object) -> object:
    """Split the list of folders that a variable has: ``A:B``, on Windows ``A;B``."""
    if isinstance(value, str):
        return [part for part in value.split(os.pathsep) if part]
    return [value] if isinstance(value, Path) else value


def _folder(value: object) -> object:
    """Refuse "", which Python takes for the current folder, and what JSON cannot represent."""
    if not str(value) or re.search("[\0\ud800-\udfff]", str(value)):
        message = "a folder's name must be there, and be Unicode without NUL"
        raise ValueError(message)
    return value


def _brokers(value: object) -> object:
    """Join the values of several flags, each of which may be a list with commas."""
    parts = value if isinstance(value, (list, tuple)) else [value]
    return ",".join(p.strip() for part in parts for p in str(part).split(",") if p.strip())


def _addresses(brokers: str) -> str:
    for address in brokers.split(","):
        host, _, port = address.rpartition(":")
        if not _HOST.fullmatch(host) or not _PORT.fullmatch(port) or int(port) >= 1 << 16:
            one = "" if address == brokers else f" ({shown(address):.100} is none)"
            message = f"expected host:port, several with commas{one}"
            raise ValueError(message)
    return brokers


def _mode(value: str) -> str:
    if not _MODE.fullmatch(value):
        message = (
            "expected three octal digits, the owner's a 6, those of group and others 0, 4 or 6, "
            "as in 0640"
        )
        raise ValueError(message)
    return value


def _identifier(name: str) -> str:
    if not re.fullmatch(fileplan.IDENTIFIER, name):
        message = (
            "expected 1 to 200 of the characters A-Z a-z 0-9 . _ -, the first a letter or digit"
        )
        raise ValueError(message)
    return name


def _prefix(name: str) -> str:
    if not _PREFIX.fullmatch(name):
        message = "expected at most 100 of the characters A-Z a-z 0-9 . _ -"
        raise ValueError(message)
    return name


def _host(name: str) -> str:
    if not _NAME.fullmatch(name):
        message = "expected a host name or an address, without scheme, port and path"
        raise ValueError(message)
    return name


def _different(folders: list[Path]) -> list[Path]:
    if len({os.path.abspath(folder) for folder in folders}) < len(folders):  # noqa: PTH100
        message = "a folder is given twice"
        raise ValueError(message)
    return folders


@dataclasses.dataclass(frozen=True)
class Metavar:
    """What the help of a flag shows for its value."""

    text: str


_IN_BYTES: Final = Metavar("SIZE")

Size = Annotated[int, BeforeValidator(_size), _IN_BYTES]
Rate = Annotated[int, BeforeValidator(_rate), _IN_BYTES]
Identifier = Annotated[str, AfterValidator(_identifier)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds = Annotated[Positive, Metavar("SECONDS")]
Token = Annotated[SecretStr, Field(min_length=8)]
Host = Annotated[str, AfterValidator(_host), Metavar("HOST")]
Folder = Annotated[Path, BeforeValidator(_folder), Metavar("FOLDER")]
FileMode = Annotated[str, AfterValidator(_mode)]


class Settings(BaseSettings):
    """The settings in force, read once and frozen."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        regex_engine="python-re",
        validate_default=True,
    )

    # --- who and where
    machine_id: Identifier = Field(
        default_factory=socket.gethostname, description="Name of this machine."
    )
    group_id: Identifier = Field(
        "distributed-processors",
        description="Group of machines that share the blocks; each further group gets all of them.",
    )
    brokers: Annotated[
        str,
        NoDecode,
        BeforeValidator(_brokers),
        AfterValidator(_addresses),
        Metavar("HOST:PORT"),
    ] = Field("127.0.0.1:9092", description="Kafka brokers, host:port, several with commas.")

    # --- producer
    data_folder: Folder | None = Field(None, description="Folder whose files are sent.")
    block_size: Annotated[Size, Field(ge=KIB, le=MAX_BLOCK_BYTES)] = Field(
        128 * MIB, description="Size of a block: the unit of storage, hash and retry."
    )
    frame_size: Annotated[Size, Field(ge=KIB, le=MAX_FRAME_BYTES)] = Field(
        MIB, description="Most bytes of a block in one Kafka record; less where the topic wants it."
    )
    compression: Compression = Field(
        Compression.AUTO, description="Compression of frames: auto, zstd, gzip or none."
    )
    max_attempts: Annotated[int, Field(ge=1, le=1000)] = Field(
        5, description="How often a block is sent before it is reported as failed."
    )
    ack_grace: Seconds = Field(
        15.0,
        description="Seconds an acknowledgement may lag behind the group's commit before "
        "the block is sent again.",
    )
    retry_base: Seconds = Field(1.0, description="Seconds before the first repeat; then doubled.")
    readers: Annotated[int, Field(ge=1, le=64)] = Field(
        3, description="Blocks that are read, hashed and sent at once."
    )
    send_buffer: Annotated[Size, Field(ge=4 * MIB, le=2 * GIB)] = Field(
        32 * MIB, description="Most bytes that wait in memory for Kafka."
    )

    window: Annotated[Size, Field(ge=1)] | None = Field(
        None, description="Most bytes that are sent and not persisted yet; default: no limit."
    )
    release: bool = Field(
        False,  # noqa: FBT003 - a field's default
        description="Have Kafka delete what every group has, while sending.",
    )
    ignore_retention: bool = Field(
        False,  # noqa: FBT003 - a field's default
        description="Send even if Kafka's retention may delete blocks before they are read.",
    )

    links: Literal["fail", "skip", "follow"] = Field(
        "fail",
        description="Links to files outside the data folder: fail, skip (and list) or follow.",
    )
    special: Literal["skip", "fail"] = Field(
        "skip",
        description="Pipes, sockets, devices, links to folders or to nothing: skip (and list) "
        "or fail.",
    )

    # --- worker
    data_dir: Annotated[
        list[Folder],
        NoDecode,
        BeforeValidator(_folders),
        Field(min_length=1),
        AfterValidator(_different),
    ] = Field(
        [Path()],
        description="Where processed_data_<machine> goes; several: placed by free room.",
    )
    state_dir: Folder | None = Field(
        None,
        description=(
            "Where a worker's tables live (default: inside its first data folder), and a "
            "producer's key (default: the user's data folder)."
        ),
    )
    max_blocks: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Stop cleanly after this many blocks."
    )
    min_free: Size = Field(256 * MIB, description="Free disk space that the worker never touches.")
    file_mode: FileMode = Field(
        "0640",
        description="Permissions of stored files, whatever the umask is; whoever may read them "
        "may enter their folders.",
    )
    block_timeout: Seconds = Field(
        60.0, description="Seconds without a new frame after which an unfinished block is given up."
    )
    heartbeat: Seconds = Field(3.0, description="Seconds between two status records of a worker.")
    session_timeout: Annotated[Seconds, Field(ge=6, le=600)] = Field(
        30.0, description="Seconds after which Kafka gives a silent worker's blocks to others."
    )
    watchdog_patience: Seconds = Field(
        120.0,
        description="Seconds with records to do and no progress before the worker ends itself; "
        "at least twice the block timeout.",
    )
    recovery_patience: Seconds = Field(
        600.0, description="Seconds until the tables must be recovered; then they are wiped."
    )
    scrub_rate: Annotated[Rate, Field(ge=0)] = Field(
        20 * MIB,  # a TiB in 15 hours, a few per cent of any disk and of one core
        description="Bytes a second at which stored blocks are read again and verified; 0: never.",
    )
    scrub_every: Annotated[float, Field(ge=0.0001, le=876_000), Metavar("HOURS")] = Field(
        24.0, description="Hours between the starts of two readings of all stored blocks."
    )
    web_host: Host = Field("127.0.0.1", description="Address that the web views listen on.")
    web_port: Annotated[int, Field(ge=1, lt=1 << 16), Metavar("PORT")] = Field(
        6066, description="Port of the web views."
    )
    web_advertise: Host | None = Field(
        None, description="Host name by which other workers reach the web views."
    )
    web_token: Token | None = Field(
        None, description="Token the web views ask for; needed when they leave loopback."
    )

    # --- topics
    topic_prefix: Annotated[str, AfterValidator(_prefix)] = Field(
        "", description="What the topics' names begin with: separates two users of a cluster."
    )
    replication: Annotated[int, Field(ge=1, le=32)] | None = Field(
        None, description="Replicas of new topics; default: 3, or as many as there are brokers."
    )
    retention_hours: Annotated[Positive, Field(ge=0.01, le=876_000), Metavar("HOURS")] = Field(
        72.0, description="Hours that new data-blocks topics keep what was sent."
    )
    retention_size: Annotated[Size, Field(ge=1)] | None = Field(
        None, description="Bytes a partition of a new data-blocks topic keeps; default: no limit."
    )

    _flags: frozenset[str] = PrivateAttr(default=frozenset())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources in their precedence: flags, variables, config file."""
        toml = TomlConfigSettingsSource(settings_cls, toml_file=config_file())
        return init_settings, env_settings, toml

    @model_validator(mode="after")
    def _web_is_guarded(self) -> Self:
        if not is_loopback(self.web_host) and self.web_token is None:
            message = (
                f"{label_of('web_host')}: {self.web_host} is reachable by others: "
                f"set {label_of('web_token')}, or bind to 127.0.0.1"
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _frames_fit(self) -> Self:
        if 2 * self.frame_size > self.send_buffer:  # librdkafka would wait for ever
            message = (
                f"{label_of('frame_size')}: {format_size(self.frame_size)}, expected at most "
                f"half of {label_of('send_buffer')}, {format_size(self.send_buffer)}"
            )
            raise ValueError(message)
        if self.block_size > MAX_FRAMES * self.frame_size:
            message = (
                f"{label_of('block_size')}: {format_size(self.block_size)} is more than "
                f"{MAX_FRAMES} frames of {label_of('frame_size')}, {format_size(self.frame_size)}"
            )
            raise ValueError(message)
        return self

    @classmethod
    def load(cls, **flags: Any) -> Self:  # noqa: ANN401 - flags are checked by the model
        """Return the settings in force; *flags* that are None or empty count as not given.

        Raises:
            SettingsError: a setting is missing or invalid.
        """
        for warning in warnings():
            _warn_once(warning)
        given = {name: value for name, value in flags.items() if value not in _NOT_GIVEN}
        if os.environ.get(CONFIG_VARIABLE) and not config_file().is_file():
            message = f"{CONFIG_VARIABLE}: there is no file {config_file()}"
            raise SettingsError(message)
        try:
            settings = cls(**given)
        except ValidationError as error:
            raise SettingsError(_describe(error)) from error
        except (OSError, ValueError) as error:
            message = f"config file {config_file()}: {error}"
            raise SettingsError(message) from error
        settings._flags = frozenset(given)
        return settings

    @property
    def bootstrap_servers(self) -> list[str]:
        """The brokers, one ``host:port`` each."""
        return self.brokers.split(",")

    @property
    def data_roots(self) -> list[Path]:
        """The machine's data folders, ``processed_data_<machine>`` each."""
        return [folder / f"processed_data_{self.machine_id}" for folder in self.data_dir]

    @property
    def tables_dir(self) -> Path:
        """The folder of this worker's RocksDB databases."""
        return self.state_dir or self.data_roots[0] / ".streamapp"

    def origins(self) -> dict[str, tuple[str, str]]:
        """Return the value of every setting as text, secrets hidden, and its source."""
        in_file = _keys_of(config_file())
        variables = {name.upper() for name, value in os.environ.items() if value}
        found = {}
        for name in type(self).model_fields:
            origin = "default"
            if name in self._flags:
                origin = "flag"
            elif variable_of(name) in variables:
                origin = variable_of(name)
            elif name in in_file:
                origin = str(config_file())
            found[name] = (without_passwords(_written(name, getattr(self, name))), origin)
        return found


def warnings() -> list[str]:
    """Return warnings about variables and the config file; none of them is an error."""
    known = {variable_of(name) for name in Settings.model_fields} | OTHER_VARIABLES
    found = []
    for name in sorted(os.environ):
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known:
            ends = [other.removeprefix(ENV_PREFIX) for other in known]
            near = difflib.get_close_matches(name.upper().removeprefix(ENV_PREFIX), ends, n=1)
            meant = f": is {ENV_PREFIX}{near[0]} meant?" if near else ""
            found.append(f"the variable {name} is not used, no setting has that name{meant}")
    path = config_file()
    if secrets := [name for name in sorted(_keys_of(path)) if is_secret(name)]:
        mode = path.stat().st_mode
        if os.name == "posix" and mode & stat.S_IROTH:
            found.append(
                f"every user of this machine can read {', '.join(secrets)} in {path}: "
                f"chmod o-r {path}"
            )
    return found


@functools.lru_cache(maxsize=100)
def _warn_once(warning: str) -> None:
    """Log *warning*; settings are read several times in a process."""
    logger.warning("%s", warning)


def config_file() -> Path:
    """Return where the config file is, whether or not it exists."""
    return Path(os.environ.get(CONFIG_VARIABLE) or CONFIG_FILE)


def variable_of(name: str) -> str:
    """Return the environment variable of the setting *name*."""
    return f"{ENV_PREFIX}{name.upper()}"


def flag_of(name: str) -> str:
    """Return the command line flag of the setting *name*."""
    return f"--{name.replace('_', '-')}"


def is_secret(name: str) -> bool:
    """Return whether the setting *name* is never shown, and has no flag: `ps` shows those."""
    field = Settings.model_fields.get(name)
    return field is not None and Token in get_args(field.annotation)


def label_of(name: str) -> str:
    """Return the setting *name* as errors call it: key, flag and variable."""
    flag = "" if is_secret(name) else f"{flag_of(name)}, "
    return f"{name} ({flag}{variable_of(name)})"


def metavar_of(name: str) -> str:
    """Return what the help of the setting's flag shows for its value.

    That is its unit (``SIZE``, ``SECONDS``), its choices (``[fail|skip]``), or its type.
    """
    field = Settings.model_fields[name]
    parts = [*field.metadata, *_parts(field.annotation)]
    for part in parts:
        if isinstance(part, Metavar):
            return part.text
    if choices := [part for part in parts if isinstance(part, str)]:
        return f"[{'|'.join(choices)}]"
    return "INTEGER" if int in parts else "TEXT"


def is_size(name: str) -> bool:
    """Return whether the value of the setting *name* is a number of bytes."""
    return metavar_of(name) == _IN_BYTES.text


def _parts(annotation: Any) -> Iterator[Any]:  # noqa: ANN401 - types have no common type
    """Yield *annotation*, and at any depth its types, their metadata and their choices."""
    yield annotation
    choices = annotation if isinstance(annotation, enum.EnumType) else get_args(annotation)
    for part in choices:
        yield from _parts(part)


def as_environment(flags: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables that have the values of *flags*, without those that are not given.

    Raises:
        SettingsError: the name of a folder cannot stand in a list of folders.
    """
    return {
        variable_of(name): _joined(name, value) if name in REPEATED else _text(value)
        for name, value in flags.items()
        if value is not None and value != ()
    }


def _joined(name: str, values: Iterable[object]) -> str:
    texts = [_text(value) for value in values]
    for text in texts:
        if REPEATED[name] == os.pathsep and os.pathsep in text:
            message = f"{label_of(name)}: {text!r} has {os.pathsep!r} in it, which parts folders"
            raise SettingsError(message)
    return REPEATED[name].join(texts)


def _text(value: object) -> str:
    return str(value.resolve()) if isinstance(value, Path) else str(value)


def default_text(name: str) -> str:
    """Return the default of the setting *name* as people write it."""
    field = Settings.model_fields[name]
    if field.default_factory is not None:
        return "this host's name"
    default = field.default
    if isinstance(default, list):
        return "the current folder"
    return _written(name, default)


def _written(name: str, value: object) -> str:
    """Return the setting's *value* as a flag or a variable takes it; empty for none."""
    if value is None:
        return ""
    if isinstance(value, list):
        return os.pathsep.join(map(str, value))
    return exact_size(value) if isinstance(value, int) and is_size(name) else str(value)


def is_loopback(host: str) -> bool:
    """Return whether *host* can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _keys_of(path: Path) -> set[str]:
    try:
        return set(tomllib.loads(path.read_text("utf-8")))
    except (OSError, ValueError):  # said when it is read for the settings
        return set()


def _describe(error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False):
        name = str(problem["loc"][0]) if problem["loc"] else ""
        text = expectation(problem, is_size=name in Settings.model_fields and is_size(name))
        if not name:
            lines.append(text)
        elif name not in Settings.model_fields:
            lines.append(f"{name}: no such setting (in {config_file()})")
        else:
            found = "a secret" if is_secret(name) else shown(problem["input"])
            lines.append(f"{label_of(name)}: {text}, found {found}")
    return "; ".join(lines)
