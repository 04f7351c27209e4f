"""Tests that hurt the disk below the store: what was acknowledged is there afterwards."""
