"""The log of a worker whose broker is away."""

import logging

from streamapp.logs import NotAgain


def record(name, line, text):
    """A record as the logger *name* makes it."""
    return logging.LogRecord(name, logging.ERROR, "conn.py", line, text, (), None)


def test_library_repeats_itself():
    """The same place of a library is heard once in a while, another place at once."""
    only_once = NotAgain()

    assert only_once.filter(record("aiokafka.conn", 1, "cannot connect to 1"))
    assert not only_once.filter(record("aiokafka.conn", 1, "cannot connect to 2"))
    assert only_once.filter(record("aiokafka.conn", 2, "another"))


def test_library_is_heard_again():
    """After a while a place is heard again: the broker may still be away."""
    impatient = NotAgain(seconds=0.0)

    assert impatient.filter(record("aiokafka.conn", 1, "cannot connect"))
    assert impatient.filter(record("aiokafka.conn", 1, "cannot connect"))


def test_our_own_lines():
    """What concerns files and machines is always logged."""
    only_once = NotAgain()

    assert all(only_once.filter(record("streamapp.intake", 1, "rejected")) for _ in range(3))
