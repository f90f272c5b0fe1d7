"""What runs mean: folders, tables and published results read; scores, statistics, comparisons and their verdicts.

May import: `store`; `settings` and `algorithm` for the names and defaults of recipes.
"""
