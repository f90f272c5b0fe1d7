"""`python -m steadyq`: the command `steadyq`, for whoever has not installed it."""

from steadyq.cli.main import process

process()
