"""Many runs: what a study file asks for, what of it is done, and workers that make the rest, each run exactly once.

What is true is a run's folder. A worker is the ordinary command as a process of its own; an engine only starts it.
Of the room `run`, only the checks of settings and machines are imported, so that a study refuses what `steadyq train`
would.
"""
