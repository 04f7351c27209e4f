"""Lets ``python -m streamapp`` be the command line."""

from __future__ import annotations

from streamapp.cli.main import main


if __name__ == "__main__":
    main()
