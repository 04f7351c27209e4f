"""Trials of the promises: the demonstration and the self-test."""
