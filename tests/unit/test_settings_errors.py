"""What a message shows of what was given."""

import pytest

from streamapp.settings_errors import shown, without_passwords


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("s3://key:secret@host/a", "s3://***@host/a"),
        ("ftp:/user:secret@host", "ftp:/***@host"),  # as a path it loses a slash
        ("see ftp://u:p/q@r@host/a and b", "see ftp://***@host/a and b"),
        ("a/report 12:30@home.txt", "a/report 12:30@home.txt"),
        ("http://host:80/a", "http://host:80/a"),
        ("nothing", "nothing"),
    ],
)
def test_urls(text, safe):
    """Who logs in at a URL, and how, is in no message; all else is left as it is."""
    assert safe == without_passwords(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("user:secret@host:1", "'***@host:1'"),
        (("a", "u:secret@b:1,c:secret@d:2"), "'a', '***@b:1,***@d:2'"),
        ([], "nothing"),
        (5, "5"),
        ("a\n", r"'a\n'"),
    ],
)
def test_shown(value, text):
    """A value is shown as it was written: no tuple, no password."""
    assert text == shown(value)
