"""Tests in memory, under 10 seconds; they mirror the packages."""
