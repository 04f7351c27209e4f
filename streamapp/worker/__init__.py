"""The Faust side of a worker: start, transport, tables, watchdog, shutdown."""
