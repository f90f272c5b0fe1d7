"""The story of one run, from its settings to its last checkpoint.

May import: `algorithm`, `engine`, `envs`, `store`, `examine`, `settings`.
"""
