"""A clock that a test sets."""


class Clock:
    """Returns the time that the test has set, in seconds."""

    def __init__(self, now=0.0):
        self.now = now

    def __call__(self):
        """Return the time."""
        return self.now
