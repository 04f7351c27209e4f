"""Messages about invalid settings, in plain words and without passwords.

Pure code. pydantic's own messages show regular expressions, and sizes in bytes.
"""

from __future__ import annotations

import re

from typing import TYPE_CHECKING, Any, Final

from streamapp.units import counted, format_size


if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_SHOWN: Final = 200

_IN_URL: Final = re.compile(r"(:/+)[^\s'\"]*@")
_IN_ADDRESS: Final = re.compile(r"[^\s'\",/]*:(?!/)[^\s'\",]*@")
_LIMITS: Final = {
    "greater_than": ("gt", "more than {}"),
    "greater_than_equal": ("ge", "{} or more"),
    "less_than": ("lt", "less than {}"),
    "less_than_equal": ("le", "{} or less"),
}
_KINDS: Final = {
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a number that is not infinite",
    "bool_parsing": "true or false",
    "string_type": "a text",
}


def without_passwords(text: str) -> str:
    """Return *text* with user and password hidden in each URL."""
    return _IN_URL.sub(r"\1***@", text)


def shown(value: object) -> str:
    """Return the *value* of a setting as a message may show it: short, without passwords."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(shown, value)) or "nothing"
    text = _IN_ADDRESS.sub("***@", without_passwords(str(value)))
    return (repr(text) if isinstance(value, str) else text)[:MAX_SHOWN]


def expectation(problem: Mapping[str, Any], *, is_size: bool) -> str:
    """Return what was expected by pydantic's *problem*; *is_size*: its limits are bytes."""
    kind, context = problem["type"], problem.get("ctx", {})
    if kind in _LIMITS:
        name, text = _LIMITS[kind]
        limit = format_size(context[name]) if is_size else f"{context[name]:g}"
        return f"expected {text.format(limit)}"
    if kind in _KINDS:
        return f"expected {_KINDS[kind]}"
    if kind in {"literal_error", "enum"}:
        return f"expected {context['expected']}"
    if kind in {"too_short", "string_too_short"}:
        return f"expected at least {counted(context['min_length'], 'character')}"
    return str(problem["msg"]).removeprefix("Value error, ")
