"""What `docs/survive.md` says of runs that are killed, stopped, repeated and long, tried on real processes."""
