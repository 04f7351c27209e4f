"""Tests of parts on a real disk, with sockets and processes; no broker."""
