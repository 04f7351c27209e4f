"""Tests that break something on purpose: what was promised holds afterwards."""
