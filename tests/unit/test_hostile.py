"""Damaged bytes, many of them: each parser takes or refuses them, within little memory.

The seed is in the test's name; `python -m tests.unit.hostile <kind> <seed> <count>` repeats it.
"""

import pathlib
import subprocess
import sys

import pytest


ROOT = pathlib.Path(__file__).parents[2]
COUNTS = {"headers": 500_000, "records": 500_000, "frames": 20_000, "batches": 10_000}
CASES = [
    *(pytest.param(kind, 0, 500, id=f"{kind}-seed0-short") for kind in COUNTS),
    *(
        pytest.param(kind, seed, COUNTS[kind], id=f"{kind}-seed{seed}", marks=pytest.mark.long)
        for kind in COUNTS
        for seed in range(1, 4)
    ),
]
UNBOUNDED = """
import zlib
from streamapp import codec
from tests.unit import hostile
codec._gzip = lambda value, _length: zlib.decompress(value, 31)
hostile.main("frames", 0, 500)
"""
CARELESS = """
from streamapp import records
from tests.unit import hostile
records._decode = lambda decoder, raw: decoder.decode(raw)
hostile.main("records", 0, 500)
"""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux",
    reason="not proven: bounded memory; the limit needs RLIMIT_AS and /proc",
)


def run(*arguments):
    """Run Python in the project's folder."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("kind", "seed", "count"), CASES)
def test_damaged(kind, seed, count):
    """Whatever comes is taken, or refused with the project's own error; nothing else happens."""
    done = run("-m", "tests.unit.hostile", kind, seed, count)
    assert 0 == done.returncode, done.stderr

    taken, refused = map(int, done.stdout.split())
    assert count == taken + refused
    assert min(taken, refused) > count // 20


@pytest.mark.parametrize(
    ("code", "error"), [(UNBOUNDED, "MemoryError"), (CARELESS, "msgspec.")], ids=["memory", "error"]
)
def test_of_the_test(code, error):
    """A parser that takes too much memory, or raises another's error, is found."""
    done = run("-c", code)

    assert 0 != done.returncode
    assert done.stderr.splitlines()[-1].startswith(error)
