"""The frames of one partition in, persisted blocks out; no Faust here."""
