"""What an environment is, the suites that there are, and what keeps a run safe from them.

May import: `algorithm` (named randomness), `settings`.
"""
