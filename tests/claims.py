"""What other machines of the group have, for workers in memory."""

from streamapp.receiver.context import Claim


class FakeClaims:
    """Claims that a test sets; `catch_ups` counts how often they were to be the newest."""

    def __init__(self):
        self.known = {}
        self.revoked = set()  # revoked, and not known here before it catches up
        self.catch_ups = 0
        self.is_reachable = True

    def claim(self, file_id, block, sha256, *, machine="other"):
        """Let another machine have a block."""
        self.known[file_id, block] = Claim(machine, "f" * 32, sha256)

    def of(self, file_id, block):
        """As `Recognition`."""
        return self.known.get((file_id, block))

    async def catch_up(self):
        """As `Recognition`."""
        self.catch_ups += 1
        if self.is_reachable:
            for key in self.revoked:
                self.known.pop(key, None)
        return self.is_reachable
