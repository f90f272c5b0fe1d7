"""What one policy is worth: episodes played, Q-bias, diagnoses.

May import: `algorithm`, `engine`, `envs`, `store`, `settings`.
"""
