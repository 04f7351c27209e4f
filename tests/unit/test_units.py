"""Sizes and durations: what people write is read exactly, what is shown can be read."""

import math

import pytest

from hypothesis import given
from hypothesis import strategies as st

from streamapp import units
from streamapp.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1000", 1000),
        (1000, 1000),
        ("512B", 512),
        ("8MiB", 8 << 20),
        ("128 mib", 128 << 20),
        (" 1GB ", 10**9),
        ("1.5 GiB", 3 << 29),
        ("1.001KB", 1001),
        ("2TiB", 2 << 40),
        ("999999999999999999", 10**18 - 1),
    ],
)
def test_size(text, size):
    """A size is bytes, or a number with a decimal or a binary unit, and is read exactly."""
    assert size == units.parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0"),
        (1000, "1000"),
        (1024, "1KiB"),
        (1536, "1536"),
        (128 << 20, "128MiB"),
        (3 << 29, "1536MiB"),
        (5 << 30, "5GiB"),
        (2048 << 40, "2048TiB"),
    ],
)
def test_exact_size(size, text):
    """A size in the largest unit of which it is a whole number."""
    assert text == units.exact_size(size)


@given(st.integers(0, 10**15), st.integers(0, 50))
def test_exact_size_is_read_back(number, shift):
    """A formatted size can be parsed again, with the same value."""
    assert number << shift == units.parse_size(units.exact_size(number << shift))


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "-1", "+1", "1e3", "1K", "1M", "MiB", "1 Mi B", "1,5MiB", "0x10", "1_000"),
        *(
            "1.5",
            "1.5B",
            ".5MiB",
            "1.MiB",
            "inf",
            "nan",
            "٣",
            "9" * 400,
            "9" * 5000,
            "9" * 400 + ".5",
        ),
        None,
    ],
)
def test_no_size(text):
    """A text that is no size is refused with a short message that explains the format."""
    with pytest.raises(SettingsError, match="is no size: write") as caught:
        units.parse_size(text)

    assert len(str(caught.value)) < 200


@given(st.integers(0, 10**18 - 1))
def test_bytes_are_their_own_size(size):
    """Plain bytes are taken as they are, whatever their number."""
    assert size == units.parse_size(str(size))


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1023.6, "1.0 KiB"),
        (1024, "1.0 KiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (128 << 20, "128.0 MiB"),
        (3 << 49, "1.5 PiB"),
        (-2048, "-2.0 KiB"),
    ],
)
def test_shown_size(size, text):
    """A size is shown in the largest unit that leaves at least 1.0, also after rounding."""
    assert text == units.format_size(size)


def test_shown_rate():
    """A rate is a size for each second."""
    assert "2.0 MiB/s" == units.format_rate(2 << 20)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (4.24, "4.2 s"),
        (187, "3 min 07 s"),
        (3599, "59 min 59 s"),
        (7500, "2 h 05 min"),
        (math.inf, "unknown"),
        (math.nan, "unknown"),
    ],
)
def test_shown_duration(seconds, text):
    """A duration is shown with what matters of it; one that has no end is unknown."""
    assert text == units.format_duration(seconds)


@pytest.mark.parametrize(("number", "text"), [(0, "0 files"), (1, "1 file"), (2, "2 files")])
def test_counted(number, text):
    """One is not several."""
    assert text == units.counted(number, "file")
