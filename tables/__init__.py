"""The tables, which are stored in RocksDB, the folds that write them, and the web views."""
