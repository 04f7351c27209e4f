"""Tests without a broker, half a minute for all; they mirror the packages."""
