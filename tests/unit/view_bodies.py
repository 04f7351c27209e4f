"""JSON bodies of the web views, as a worker answers them."""

NOTHING = {
    "totals": {"files": 0, "complete": 0, "bytes": 0, "persisted_bytes": 0},
    "deliveries": [],
    "matching": 0,
    "offset": 0,
    "files": [],
    "silent": [],
}
FILE = {
    "name": "a\x1b[31m\u202e[red]b",
    "size": 10,
    "blocks": 2,
    "persisted_blocks": 1,
    "percent": 50.0,
    "rate": 5.0,
    "state": "failed",
    "reason": "no\x1b[2J [/red]",
    "failed_blocks": [{"block": 1, "reason": "disk\x07"}],
    "source": "source-1",
}
MACHINE = {
    "machine": "m1",
    "blocks": 3,
    "bytes": 30,
    "rate": 0.0,
    "free_disk": 100,
    "rejected": 1,
    "quarantined": 2,
    "partitions": [],
    "state": "holding",
    "reason": "disk full\x1b[2J",
    "up": True,
    "silent_seconds": 0.0,
}
