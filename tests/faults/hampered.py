"""A worker on a disk that a test fills and slows.

    python -m tests.faults.hampered worker …

The variable ``TESTS_DISK`` names a file of JSON, which is read again at each use: ``free`` is
how many bytes are free, ``write_seconds`` how long each write takes.
"""

import json
import os
import time

from pathlib import Path

from streamapp.cli.main import main
from streamapp.store import dirfd, writer


DISK = "TESTS_DISK"


def now():
    """Return what the test wants of the disk now."""
    return json.loads(Path(os.environ[DISK]).read_text("utf-8"))


def hamper():
    """Have the store see the disk that the test wants."""
    write = writer.BlockWriter.write

    def slowly(self, *args, **kwargs):
        time.sleep(now()["write_seconds"])
        return write(self, *args, **kwargs)

    dirfd.free_bytes = lambda _fd: now()["free"]
    writer.BlockWriter.write = slowly


if __name__ == "__main__":
    hamper()
    main()
