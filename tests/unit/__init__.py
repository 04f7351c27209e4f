"""Tests without a broker, under 10 seconds; they mirror the packages."""
