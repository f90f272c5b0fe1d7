"""One HTML page about runs, written once or served while they train.

May import: `results`, `store`.
"""
