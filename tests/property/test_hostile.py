"""Damaged bytes, many of them: each parser takes or refuses them, within little memory.

Seeds are in the tests' names or printed: `python -m tests.property.hostile <kind> <seed> <count>`
takes them again.
"""

import pathlib
import subprocess
import sys
import time

import pytest


ROOT = pathlib.Path(__file__).parents[2]
COUNTS = {"headers": 500_000, "records": 500_000, "frames": 20_000, "batches": 10_000}
SEEDS = range(1, 4)
LONG_SECONDS = 15 * 60  # of each kind
UNBOUNDED = """
import zlib
from streamapp.protocol import compression as codec
from tests.property import hostile
codec._gzip = lambda value, _length: zlib.decompress(value, 31)
hostile.main("frames", 0, 500)
"""
CARELESS = """
from streamapp.protocol import messages as records
from tests.property import hostile
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


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", COUNTS)
def test_damaged(kind, seed):
    """Any input is accepted, or refused with an error of this project."""
    count = COUNTS[kind]
    done = run("-m", "tests.property.hostile", kind, seed, count)
    assert 0 == done.returncode, done.stderr

    taken, refused = map(int, done.stdout.split())
    assert count == taken + refused
    assert min(taken, refused) > count // 20


@pytest.mark.long
@pytest.mark.timeout(2 * LONG_SECONDS)
@pytest.mark.parametrize("kind", COUNTS)
def test_damaged_for_long(kind):
    """The same with one seed after another that no run had before."""
    end = time.monotonic() + LONG_SECONDS
    seed = first = time.time_ns()
    while time.monotonic() < end:
        done = run("-m", "tests.property.hostile", kind, seed, COUNTS[kind])
        assert 0 == done.returncode, f"seed {seed}: {done.stderr}"
        seed += 1
    sys.stdout.write(f"{kind}: {(seed - first) * COUNTS[kind]} inputs, seeds from {first} on\n")


@pytest.mark.parametrize(
    ("code", "error"), [(UNBOUNDED, "MemoryError"), (CARELESS, "msgspec.")], ids=["memory", "error"]
)
def test_of_the_test(code, error):
    """A parser that takes too much memory, or raises another's error, is found."""
    done = run("-c", code)

    assert 0 != done.returncode
    assert done.stderr.splitlines()[-1].startswith(error)
