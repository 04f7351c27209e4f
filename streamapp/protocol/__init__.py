"""The records between producers and workers, and their limits. Pure."""
