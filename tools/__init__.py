"""Campaigns on real processes: runs that are killed, stopped, repeated and long. `python -m tools.NAME --help`."""
