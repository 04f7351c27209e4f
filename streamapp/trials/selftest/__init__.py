"""The self-test on a user's own cluster."""
