"""Shapes in signatures, checked while tests run."""

from collections.abc import Callable
from typing import Any

import jaxtyping

MODULES = ("actor_critic", "bootstrap", "nn", "policy", "values")
"""Those with shapes in their signatures: in the others the check costs ten times what the tests do."""

WHOLE_RUNS = ("test_diagnostics", "test_learning", "test_loop", "test_probes", "test_survive")
"""Tests that repeat thousands of times what others check once: here the check would take half of the time."""


def check_shapes() -> None:
    """From now on, check every call of a function of these modules. Must come before anything imports them.

    Not of a function that each call of another makes anew, such as the loss within a step: to prepare its check each
    time takes longer than the step, and what it calls is checked. The numeric tower: an int is welcome where a float
    is, as for mypy.
    """
    jaxtyped = jaxtyping.jaxtyped

    def once(*, typechecker: Any) -> Callable[[Any], Any]:
        check = jaxtyped(typechecker=typechecker)
        off = jaxtyping.config.jaxtyping_disable
        return lambda made: made if off or made.__qualname__.count("<locals>") > 1 else check(made)

    jaxtyping.jaxtyped = once
    jaxtyping.install_import_hook(
        [f"steadyq.algorithm.{name}" for name in MODULES],
        "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
    )
