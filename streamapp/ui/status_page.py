"""Renders the views' answers for a terminal: reasons to wait, deliveries, files and machines.

File names and reasons are data, so control characters are shown as escapes. Notes on partial
numbers and on what the group waits for come before the numbers.
"""

from __future__ import annotations

import time

from typing import TYPE_CHECKING, Any, Final

from rich.cells import cell_len, chop_cells
from rich.console import Group
from rich.table import Table
from rich.text import Text

from streamapp.protocol.filenames import printable
from streamapp.units import counted, format_duration, format_rate, format_size


if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.console import RenderableType

Answer = dict[str, Any]
"""What `status_view.ask_all` returns."""

MAX_DELIVERIES: Final = 3
NARROW: Final = 100
"""A terminal with fewer columns has no room for the number of blocks."""

SOURCE_CELLS: Final = 16
SHORTEST_NAME: Final = 16
SHORTEST_STATE: Final = 9
GAP: Final = 2
"""Columns between two columns of a table."""

_STATE_SHARE: Final = 0.45
_STYLES: Final = {
    "complete": "green",
    "failed": "red",
    "changed": "red",
    "holding": "yellow",
    "superseded": "dim",
}


def page(answer: Answer, *, width: int, asked_for: str = "") -> Group:
    """Return the page of *answer* for a terminal of *width* columns.

    *asked_for* describes the query if it did not ask for all files.
    """
    parts: list[RenderableType] = [*first_lines(answer), Text()]
    files = answer["files"]
    if files:
        parts.append(_files(files, width))
    elif asked_for:
        parts.append(Text(f"No file {asked_for}"))
    if width < NARROW:
        parts += [_file_problem(file) for file in files if _reasons(file)]
    hidden = answer["matching"] - len(files)
    if hidden:
        parts.append(Text(f"and {counted(hidden, 'more file')}: --limit, --search"))
    if files or hidden or asked_for:
        parts.append(Text())
    machines = answer["machines"]
    up = sum(machine["up"] for machine in machines)
    parts.append(Text(f"{up} of {counted(len(machines), 'machine')} up", style="bold"))
    return Group(*parts, _machines(machines))


def first_lines(answer: Answer) -> Iterator[Text]:
    """Yield the lines above the tables."""
    totals = answer["totals"]
    if answer["silent"]:
        who = ", ".join(map(printable, answer["silent"]))
        text = f"at least {counted(totals['complete'], 'file')} complete; the part of {who} is "
        yield Text(f"{text}not shown", style="red")
    for reason in answer.get("waiting", ()):
        yield Text(f"waiting: {printable(reason)}", style="yellow")
    for delivery in deliveries(answer):
        what = f"delivery of {printable(delivery['source'])} since {_time(delivery['run_at'])}"
        yield Text(f"{what}: {_progress(delivery)}", style="bold")
    yield Text(f"{'all that is shown' if answer['silent'] else 'all files'}: {_progress(totals)}")


def deliveries(answer: Answer) -> list[Mapping[str, Any]]:
    """Return the deliveries that are in progress, or else the newest one."""
    found: list[Mapping[str, Any]] = answer.get("deliveries", [])
    under_way = [d for d in found if d["complete"] + d["failed"] < d["files"]]
    return (under_way or found[:1])[:MAX_DELIVERIES]


def line(answer: Answer) -> str:
    """Return the state of all in one line."""
    machines = answer["machines"]
    parts = [text.plain for text in first_lines(answer)]
    parts.append(f"{sum(m['up'] for m in machines)} of {counted(len(machines), 'machine')} up")
    return "; ".join(parts)


def cut_middle(text: str, cells: int) -> str:
    """Return *text* cut to at most *cells* columns, with its beginning and its last part."""
    if cell_len(text) <= cells:
        return text
    room = max(cells - 1, 2)
    last = cell_len("/" + text.rpartition("/")[2])
    tail = _last_cells(text, last if last <= room * 2 // 3 else room // 2)
    head = chop_cells(text, room - cell_len(tail))[0]
    return f"{head}…{tail}"


def _last_cells(text: str, cells: int) -> str:
    end = len(text)
    while end and cell_len(text[end - 1 :]) <= cells:
        end -= 1
    return text[end:]


def _files(files: list[Answer], width: int) -> Table:
    is_narrow = width < NARROW
    source_cells = SOURCE_CELLS // 2 if is_narrow else SOURCE_CELLS
    columns: dict[str, list[str]] = {
        "source": [cut_middle(printable(f["source"]), source_cells) for f in files],
        "size": [format_size(f["size"]) for f in files],
        "blocks": [f"{f['persisted_blocks']}/{f['blocks']}" for f in files],
        "done": [f"{int(f['percent'])} %" for f in files],
        "rate": [format_rate(f["rate"]) if f["rate"] else "" for f in files],
    }
    if is_narrow:
        del columns["blocks"]
    if not any(columns["rate"]):
        del columns["rate"]
    states = [_file_state(file, with_reasons=not is_narrow) for file in files]
    taken = sum(GAP + max(map(cell_len, (name, *texts))) for name, texts in columns.items())
    room = width - taken - GAP
    longest = max(cell_len(state.plain) for state in states)
    state_cells = max(SHORTEST_STATE, min(longest, int(room * _STATE_SHARE)))
    name_cells = max(SHORTEST_NAME, room - state_cells)
    table = _table()
    table.add_column("file", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="left" if name == "source" else "right", no_wrap=True)
    table.add_column("state", max_width=state_cells)
    for number, file in enumerate(files):
        texts = (
            cut_middle(printable(file["name"]), name_cells),
            *(c[number] for c in columns.values()),
        )
        table.add_row(*map(Text, texts), states[number])
    return table


def _reasons(file: Mapping[str, Any]) -> str:
    failed = ", ".join(f"block {f['block']}: {f['reason']}" for f in file["failed_blocks"][:3])
    return printable("; ".join(filter(None, (file["reason"], failed))))


def _file_state(file: Mapping[str, Any], *, with_reasons: bool) -> Text:
    parts = (printable(file["state"]), _reasons(file) if with_reasons else "")
    return Text("; ".join(filter(None, parts)), style=_STYLES.get(file["state"], ""))


def _file_problem(file: Mapping[str, Any]) -> Text:
    return Text(
        f"{printable(file['state'])}: {printable(file['name'])}: {_reasons(file)}",
        style=_STYLES.get(file["state"], ""),
    )


def _machines(machines: list[Answer]) -> Table:
    table = _table()
    table.add_column("machine", overflow="fold")
    for name in ("kept", "rate", "free disk"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state", overflow="fold")
    for machine in machines:
        table.add_row(
            Text(printable(machine["machine"])),
            _kept(machine),
            format_rate(machine["rate"]) if machine["rate"] else "",
            format_size(machine["free_disk"]),
            _machine_state(machine),
        )
    return table


def _kept(machine: Mapping[str, Any]) -> str:
    """Return what its disks have; an older worker reports what it persisted since its start."""
    blocks = machine.get("kept_blocks") or machine["blocks"]
    size = machine.get("kept_bytes") or machine["bytes"]
    return f"{counted(blocks, 'block')}, {format_size(size)}"


def _machine_state(machine: Mapping[str, Any]) -> Text:
    if machine["state"] == "stopped":
        return Text("stopped", style="dim")
    if not machine["up"] or machine.get("silent"):
        silent = f"silent for {format_duration(machine['silent_seconds'])}"
        return Text(silent, style="yellow" if machine["up"] else "red")
    said = [machine["state"], machine["reason"]]
    if not machine["partitions"]:
        said.append("idle: more machines than partitions")
    if ahead := machine.get("clock_ahead"):
        way = "ahead of" if ahead > 0 else "behind"
        said.append(f"its clock is {format_duration(abs(ahead))} {way} ours")
    for count, what in (("rejected", "block"), ("quarantined", "record")):
        if machine[count]:
            done = "rejected" if what == "block" else "set aside"
            said.append(f"{counted(machine[count], what)} {done}")
    style = _STYLES.get(machine["state"], "green")
    return Text(printable("; ".join(filter(None, said))), style=style)


def _progress(totals: Mapping[str, Any]) -> str:
    text = (
        f"{totals['complete']} of {counted(totals['files'], 'file')} complete, "
        f"{format_size(totals['persisted_bytes'])} of {format_size(totals['bytes'])}"
    )
    others = {"failed": totals.get("failed", 0), "superseded": totals.get("superseded", 0)}
    return ", ".join([text, *(f"{count} {what}" for what, count in others.items() if count)])


def _time(seconds: float) -> str:
    when = time.localtime(seconds)
    is_today = when[:3] == time.localtime()[:3]
    return time.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M:%S", when)


def _table() -> Table:
    return Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="dim")
