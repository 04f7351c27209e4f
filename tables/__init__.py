"""State, and what reads it: tables kept in RocksDB, folds, and the web views."""
