"""The error tree: what its docstring draws is what there is."""

import re

import pytest

from streamapp import errors


DRAWN = [
    (len(match[1]), match[2], int(match[3]))
    for match in re.finditer(r"^( *)[*+-] (\w+) +exit (\d+)", errors.__doc__, re.MULTILINE)
]
CLASSES = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, Exception)]


def parent_in_drawing(name):
    """Return the name of the class that *name* is drawn below."""
    place = next(i for i, (_, drawn, _) in enumerate(DRAWN) if drawn == name)
    return next((drawn for left, drawn, _ in DRAWN[place::-1] if left < DRAWN[place][0]), None)


def test_drawing_is_complete():
    """Every class is drawn once, and nothing is drawn that is not there."""
    assert sorted(c.__name__ for c in CLASSES) == sorted(name for _, name, _ in DRAWN)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_class_is_as_drawn(cls):
    """A class has the parent and the exit code that the drawing gives it, and says who acts."""
    code = next(code for _, name, code in DRAWN if name == cls.__name__)

    assert code == cls.exit_code
    assert parent_in_drawing(cls.__name__) == {"Exception": None}.get(
        cls.__base__.__name__, cls.__base__.__name__
    )
    assert cls.__doc__


def test_exit_codes_tell_classes_apart():
    """No two classes say one code, unless one of them is the other's parent."""
    declared = [c.exit_code for c in CLASSES if "exit_code" in vars(c)]

    assert sorted(set(declared)) == sorted(declared)
    assert all(0 < code < 256 for code in declared)
