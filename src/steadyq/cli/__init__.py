"""The command `steadyq`: one file per family of commands, nothing heavy imported before it is needed.

May import: all of it.
"""
