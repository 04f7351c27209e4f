"""Where the files that are sent come from."""
