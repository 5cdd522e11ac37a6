"""Ring 1: where keys live and which replicas should move. Pure functions over plain values: no I/O, no clock, no chance."""
