"""Whole files out of blocks."""
