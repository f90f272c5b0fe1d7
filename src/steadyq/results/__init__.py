"""What runs mean: run folders and tables read, scores, statistics, comparisons and their verdicts.

May import: `store`; `settings` and `algorithm` for the names and defaults of recipes.
"""
