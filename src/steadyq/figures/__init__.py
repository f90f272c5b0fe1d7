"""Pictures of results: the paper's figures and the learning curve of one run.

May import: `results`, `store`.
"""
