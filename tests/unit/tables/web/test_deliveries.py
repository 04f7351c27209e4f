"""The newest run of each producer, apart from all history."""

import msgspec

from streamapp.tables.rows import FileRow
from streamapp.tables.web.deliveries import MAX_DELIVERIES, Deliveries, Delivery


def row(source, run_at, *, blocks=2, persisted=0, announced="sent"):
    """A file of blocks of 10 bytes."""
    return FileRow(
        name="n",
        source=source,
        run_at=run_at,
        size=10 * blocks,
        blocks=blocks,
        block_size=10,
        run_counts=(persisted,),
        announced=announced,
    )


def test_newest_run():
    """Files of older runs, and files that no run announced, are history."""
    found = Deliveries()
    for each in [
        row("a", 5.0, persisted=2),
        row("a", 7.0, persisted=1),
        row("a", 6.0),
        row("a", 7.0, announced="failed"),
        row("a", 7.0, persisted=2),
        row("b", 9.0),
        row("c", 0.0),
    ]:
        found.note(each)

    assert [
        {
            "source": "b",
            "run_at": 9.0,
            "files": 1,
            "complete": 0,
            "failed": 0,
            "bytes": 20,
            "persisted_bytes": 0,
        },
        {
            "source": "a",
            "run_at": 7.0,
            "files": 3,
            "complete": 1,
            "failed": 1,
            "bytes": 60,
            "persisted_bytes": 30,
        },
    ] == found.newest


def test_merge():
    """The parts of several workers are added up, of the newest run alone."""
    parts = []
    for rows in ([row("a", 5.0), row("b", 1.0)], [row("a", 7.0)], [row("a", 7.0), row("a", 5.0)]):
        part = Deliveries()
        for each in rows:
            part.note(each)
        parts.append(msgspec.convert(part.newest, list[Delivery]))
    whole = Deliveries()
    for part in parts:
        whole.merge(part)

    assert [("a", 7.0, 2, 40), ("b", 1.0, 1, 20)] == [
        (d["source"], d["run_at"], d["files"], d["bytes"]) for d in whole.newest
    ]


def test_any_number_of_names():
    """Of many invented names, only a limited number is listed."""
    found = Deliveries()
    for number in range(MAX_DELIVERIES + 5):
        found.note(row(f"s{number}", 1.0 + number))

    assert MAX_DELIVERIES == len(found.newest)
    assert f"s{MAX_DELIVERIES + 4}" == found.newest[0]["source"]
