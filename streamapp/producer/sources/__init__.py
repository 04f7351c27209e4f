"""Sources of the files to send: scanning a folder, and reading its files."""
