"""Names of experiments with `crossq_wn`."""

ROUNDED, FULL = "-precision=bfloat16", "-precision=float32"


def named(utd: int, options: str = "") -> str:
    """The name of an experiment with `crossq_wn`; options sorted as a name has them."""
    return f"crossq_wn-utd{utd}{options}"
