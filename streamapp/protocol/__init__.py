"""What travels between producers and workers, and its limits. Pure."""
