"""One HTML page about runs, written once or served while they go on.

May import: `results`, `store`.
"""
