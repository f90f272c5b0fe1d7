"""What is on disk and how it gets there and back: run.json, metrics.csv, checkpoints, snapshots; and the replay.

May import: `algorithm`, `engine` (memory), `settings`.
"""
