"""The documents describe what the code does: a change of one needs a change of the other."""

import hashlib
import importlib
import itertools
import json
import re

import msgspec
import pytest

from streamapp import errors, settings
from streamapp.kafka import topic_admin
from streamapp.producer.purge import RELEASE_SECONDS
from streamapp.protocol import compression, filenames, fileplan, frames, messages, routing, topics
from streamapp.protocol.frames import BlockMeta, Frame, Seal
from streamapp.protocol.messages import BlockAck, FailedBlock, FileStatus, Heartbeat, Quarantined
from streamapp.settings import Settings
from streamapp.tables.rows import FileRow
from streamapp.tables.web import progress
from streamapp.tables.web.deliveries import Delivery
from streamapp.units import MIB
from streamapp.worker.aiokafka_overrides import batches


RECORDS = [BlockAck, FileStatus, FailedBlock, Heartbeat, Quarantined]
CLASSES = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, Exception)]
EXAMPLE = b"Hello, Kafka!"
PROOF = bytes(range(16))


@pytest.fixture(scope="module")
def documents(project):
    """Every document, by its path below docs."""
    folder = project / "docs"
    return {str(p.relative_to(folder)): p.read_text("utf-8") for p in folder.rglob("*.md")}


@pytest.fixture(scope="module")
def protocol(documents):
    """The protocol."""
    return documents["protocol.md"]


def section(text, heading):
    """Return the part of *text* below the line *heading*, up to the next heading."""
    assert f"\n{heading}\n" in text, heading
    return re.split(r"^#+ ", text.split(f"\n{heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def rows(text):
    """Return the cells of every table row in *text*, code marks taken off."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[c.strip().strip("`") for c in re.split(r"(?<!\\)\|", row)[1:-1]] for row in lines]
    return [row for row in cells if set("".join(row)) - set("-:")]


def layout(text):
    """Return (offset, size, name) of every field in a table of bytes."""
    return [(int(r[0]), int(r[1]), r[2]) for r in rows(text) if (r[0] + r[1]).isdigit()]


def spaced(raw, sizes):
    """Return *raw* in hexadecimal, with a space between fields of *sizes* bytes."""
    at = [sum(sizes[:n]) for n in range(len(sizes) + 1)]
    return " ".join(raw[start:end].hex() for start, end in itertools.pairwise(at))


def example():
    """Return the worked example: 13 bytes in blocks of 8, the first block in two frames."""
    file = {"source": "laptop", "name": "logs/hello.txt", "size": 13}
    mtime_ns, block_size, frame_size = 1_700_000_000_000_000_000, 8, 5
    file_id = fileplan.file_id(**file, mtime_ns=mtime_ns, block_size=block_size)
    meta = BlockMeta(
        name=file["name"],
        file_size=13,
        blocks=2,
        block_size=block_size,
        start=0,
        size=8,
        mtime_ns=mtime_ns,
        source="laptop",
        sent_ns=mtime_ns + 10**9,
        ctime_ns=mtime_ns,
    )
    width = topics.BLOCK_PARTITIONS
    seal = Seal(hashlib.sha256(EXAMPLE[:8]).digest(), 2, PROOF)
    lines = [
        f"file id              {file_id}",
        f"partition, block 0   {fileplan.block_partition(file_id, 0, width)}",
        f"partition, block 1   {fileplan.block_partition(file_id, 1, width)}",
    ]
    for number, meta_, seal_ in [(0, meta, None), (1, None, seal)]:
        piece = EXAMPLE[:8][number * frame_size :][:frame_size]
        frame = Frame(
            file_id=file_id,
            block=0,
            attempt=1,
            frame=number,
            offset=number * frame_size,
            length=len(piece),
            meta=meta_,
            seal=seal_,
        )
        headers = dict(frames.encode(frame))
        lines += [
            "",
            f"frame {number}",
            f"  key                {frame.key.decode()}",
            "  header `frame`     " + spaced(headers["frame"], [4, 1, 1, 1, 1, 16]),
            "                     " + spaced(headers["frame"][24:], [4, 8, 4, 4, 8]),
        ]
        if meta_:
            lines += ["  header `block`     " + headers["block"].decode()]
        if seal_:
            lines += ["  header `seal`      " + spaced(headers["seal"], [32, 4, 16])]
        lines += [f"  value              {bytes(compression.encode(piece, frame.codec)).hex()}"]
    ack = BlockAck(
        file_id=file_id,
        block=0,
        blocks=2,
        group="distributed-processors",
        machine="worker-1",
        outcome="persisted",
        attempt=1,
        size=8,
        sha256=seal.sha256.hex(),
        name=file["name"],
        file_size=13,
        block_size=block_size,
        source="laptop",
        mtime_ns=str(mtime_ns),
        ctime_ns=str(mtime_ns),
        proof=PROOF.hex(),
        at=1_700_000_002.5,
    )
    lines += [
        "",
        "acknowledgement",
        f"  key                {ack.key.decode()}",
        f"  partition          {routing.partition_of(file_id.encode())}",
        f"  value              {messages.encode(ack).decode()}",
    ]
    digests = [hashlib.sha256(EXAMPLE[:8]).digest(), hashlib.sha256(EXAMPLE[8:]).digest()]
    return "\n".join([*lines, "", f"file digest          {fileplan.file_digest(digests)}"])


def test_example(protocol):
    """The worked example is what the code writes, byte by byte."""
    assert example() in protocol


@pytest.mark.parametrize("header", [frames.FRAME_HEADER, frames.SEAL_HEADER])
def test_layout(protocol, header):
    """A table of bytes has no gap, and is as long as what the code writes."""
    fields = layout(section(protocol, f"### Header `{header}`"))
    size = {frames.FRAME_HEADER: frames._FRAME.size, frames.SEAL_HEADER: frames._SEAL.size}[header]
    ends = [offset + length for offset, length, _ in fields]

    assert [0, *ends[:-1]] == [offset for offset, _, _ in fields]
    assert size == ends[-1]


def test_layout_in_the_code(protocol):
    """The module that writes the frame's header draws the table that the protocol has."""
    drawn = re.findall(r"^    (\d+) +(\d+) +(\w+)", frames.__doc__, re.MULTILINE)
    said = layout(section(protocol, f"### Header `{frames.FRAME_HEADER}`"))

    assert [(int(o), int(s)) for o, s, _ in drawn] == [(o, s) for o, s, _ in said]


@pytest.mark.parametrize("field", BlockMeta.__struct_fields__)
def test_meta(protocol, field):
    """Every field of the block's metadata is described."""
    found = section(protocol, f"### Header `{frames.META_HEADER}`")

    assert field in [row[0] for row in rows(found)]


@pytest.mark.parametrize("codec_", frames.Codec)
@pytest.mark.parametrize("flags", [frames.Flag])
def test_numbers(protocol, codec_, flags):
    """Every codec and flag has the number that the protocol gives it."""
    numbers = {(row[0], row[1]) for row in rows(protocol)}

    assert (str(codec_.value), codec_.name.lower()) in numbers
    assert {(str(flag.value), flag.name.lower()) for flag in flags} <= numbers


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r.__name__)
def test_record(protocol, record):
    """Every record's table has its fields and their defaults, no more and no fewer."""
    said = {row[0]: row[2] for row in rows(section(protocol, f"### {record.__name__}"))[1:]}
    there = {"kind": "required"} if record.__struct_config__.tag else {}
    for field in msgspec.structs.fields(record):
        default = "required" if field.required else msgspec.json.encode(field.default).decode()
        there[field.encode_name] = default

    assert there == said


def test_topics(protocol):
    """Every topic's row has its width and each of its settings."""
    said = {row[0]: row for row in rows(section(protocol, "## Topics"))}
    default = Settings(machine_id="m", group_id="group")
    for spec in [*topic_admin.specs(default), *topic_admin.changelogs(default)]:
        row = said[spec.name]

        assert str(spec.partitions) == row[1]
        assert {f"{k}={v}" for k, v in spec.config.items()} == set(re.split(r"[` ]+", row[-1]))


def test_limits(protocol):
    """Every limit is the number that the code has."""
    found = rows(section(protocol, "## Limits"))[1:]
    modules = {"frames": frames, "filenames": filenames, "messages": messages, "batches": batches}

    assert len(found) > 10
    for name, value, _ in found:
        module, constant = name.split(".")
        assert int(value.replace(",", "")) == getattr(modules[module], constant), name


def test_settings(documents):
    """The table of settings has every setting, as the code has it, and in its order."""
    expected = []
    for name, field in Settings.model_fields.items():
        flag = "none" if settings.is_secret(name) else f"`{settings.flag_of(name)}`"
        default = settings.default_text(name) or "none"
        expected.append(
            f"| {flag} | `{settings.variable_of(name)}` | `{name}` | {default} "
            f"| {field.description} |"
        )
    found = [
        line for line in documents["settings.md"].splitlines() if f"`{settings.ENV_PREFIX}" in line
    ]

    assert expected == [line for line in found if line.startswith("|")]


def test_examples_of_views(documents):
    """The examples of the views' answers have the fields of the records that they are made of.

    tests/kafka/test_documents.py compares them with what a running worker answers.
    """
    examples = re.findall(r"```json\n(.*?)```", documents["views.md"], re.DOTALL)
    files, one_file, _, machines, *_ = map(json.loads, examples)
    of_machines = {field.encode_name for field in msgspec.structs.fields(Heartbeat)}

    assert set(progress.file_json("0" * 32, FileRow())) == set(one_file) == set(files["files"][0])
    assert set(Delivery.__struct_fields__) == set(files["deliveries"][0])
    assert of_machines <= set(machines["machines"][0])


def test_disk_of_kafka(documents):
    """The formula for Kafka's disk has the widths and sizes of new topics."""
    text = documents["operations.md"]
    hours = Settings.model_fields["retention_hours"].default
    segments = f"{topics.BLOCK_PARTITIONS} x {topic_admin.SEGMENT_BYTES // MIB} MiB"

    assert f"`retention_hours` ({hours:.0f})" in text
    assert f"compression + {segments})" in text
    assert f"*replicas* is {topic_admin.WANTED_REPLICAS}," in text
    assert f"every {RELEASE_SECONDS:.0f} seconds" in text


def test_config_variable(documents):
    """The document says how the config file is found."""
    assert f"`{settings.CONFIG_VARIABLE}`" in documents["settings.md"]
    assert f"`{settings.CONFIG_FILE}`" in documents["settings.md"]


def test_exit_codes(documents):
    """The table of exit codes has every class with its code, and nothing else but success."""
    said = {(row[0], row[1]) for row in rows(documents["errors.md"])[1:]}

    assert {("0", "success")} | {(str(c.exit_code), c.__name__) for c in CLASSES} == said


def test_decisions(documents):
    """Every decision is in the index, under its own title, and fits on a page."""
    decisions = {n: t for n, t in documents.items() if re.fullmatch(r"adr/\d{4}-[a-z-]+\.md", n)}

    assert len(decisions) >= 4
    for name, text in decisions.items():
        number, title = re.match(r"# (\d+)\. (.+)\n", text).groups()

        assert int(number) == int(name[4:8])
        assert f"[{title}]({name[4:]})" in documents["adr/README.md"]
        assert len(text.splitlines()) <= 40


@pytest.fixture(scope="module")
def pages(project, documents):
    """Every document and every page outside docs, by its path in the project."""
    outside = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "tests/README.md"]
    texts = {name: (project / name).read_text("utf-8") for name in outside}
    return texts | {f"docs/{name}": text for name, text in documents.items()}


def test_links(project, pages):
    """A link from one page to another leads somewhere."""
    for name, text in pages.items():
        folder = (project / name).parent
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (folder / target).exists(), f"{name}: {target}"


def test_paths(project, pages):
    """A file of the project that a page names exists."""
    folders = "streamapp|agents|tables|tests|bench|docs"
    for name, text in pages.items():
        for path in re.findall(rf"`((?:{folders})/[\w./-]+)`", text):
            assert (project / path).exists(), f"{name}: {path}"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_map_is_linked(pages, name):
    """A newcomer finds the map of the code."""
    assert "](docs/architecture.md)" in pages[name]


def named(package, name):
    """Return what the dotted *name* below *package* names; raise if there is nothing."""
    found = importlib.import_module(package)
    for part in name.split("."):
        if not hasattr(found, part):
            importlib.import_module(f"{found.__name__}.{part}")
        found = getattr(found, part)
    return found


def test_architecture_names_what_exists(project, documents, faust_app):  # noqa: ARG001
    """Every path and every function that the map of the code names exists."""
    spans = set(re.findall(r"`([^`\n]+)`", documents["architecture.md"]))
    rooms = {path.stem for path in (project / "streamapp").iterdir()}
    paths = {span for span in spans if re.fullmatch(r"[a-z][\w/]*/[\w./]*|[\w/]+\.(py|cfg)", span)}
    names = {
        span
        for span in spans
        if re.fullmatch(r"\w+(\.\w+)+", span) and span.split(".")[0] in rooms - {"app"}
    }

    assert len(paths) > 20
    assert len(names) > 40
    assert [] == sorted(path for path in paths if not (project / path).exists())
    for name in sorted(names):
        assert named("streamapp", name) is not None, name


def test_architecture_has_every_room(project, documents):
    """The map of the code has every package and every module at the top of the program."""
    tree = section(documents["architecture.md"], "## The tree")
    packages = {path.parent.name for path in (project / "streamapp").glob("*/__init__.py")}
    own = {"agents", "tables"}
    rooms = {f"{room}/" for room in own} | {f"streamapp/{room}/" for room in packages - own}
    modules = {f"streamapp/{path.name}" for path in (project / "streamapp").glob("[a-z]*.py")}

    assert [] == sorted(room for room in rooms | modules if f"`{room}`" not in tree)
