"""Agents read the topics: blocks to disk, acknowledgements and status to tables."""
