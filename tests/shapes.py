"""Shapes in signatures, checked while tests run."""

import threading
from collections.abc import Callable
from functools import wraps
from types import CodeType
from typing import Any

import jaxtyping

MODULES = ("actor_critic", "bootstrap", "nn", "policy", "values")
"""Those with shapes in their signatures: in the others the check costs ten times what the tests do."""

WHOLE_RUNS = (
    "test_diagnostics",
    "test_learning",
    "test_loop",
    "test_own_envs",
    "test_own_loop",
    "test_pack",
    "test_probes",
    "test_single_env",
    "test_start",
    "test_state",
    "test_study",
    "test_study_ray",
    "test_survive",
    "test_track",
)
"""Tests that repeat thousands of times what others check once: here the check would take half of the time."""


def check_shapes() -> None:
    """From now on, check every call of a function of these modules. Must come before anything imports them.

    Not of a function that each call of another makes anew, such as the loss within a step: what it calls is checked.
    The numeric tower: an int is welcome where a float is, as for mypy.
    """
    jaxtyped = jaxtyping.jaxtyped
    checks: dict[CodeType, Callable[..., Any]] = {}

    def once(*, typechecker: Any) -> Callable[[Any], Any]:
        check = jaxtyped(typechecker=typechecker)
        off = jaxtyping.config.jaxtyping_disable

        def decorate(made: Any) -> Any:
            depth = made.__qualname__.count("<locals>")
            if off or depth > 1:
                return made
            return shared(made, check, checks) if depth == 1 else check(made)

        return decorate

    jaxtyping.jaxtyped = once
    jaxtyping.install_import_hook(
        [f"steadyq.algorithm.{name}" for name in MODULES],
        "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
    )


called = threading.local()
"""The functions that are about to be called through a check that they share with others."""


def shared(made: Any, check: Callable[[Any], Any], checks: dict[CodeType, Callable[..., Any]]) -> Any:
    """A checked function whose check is that of all functions with its code.

    A recipe makes hundreds of them, and to prepare a check takes milliseconds: more than all that most tests do.
    """

    def pass_on(*args: Any, **named: Any) -> Any:
        return called.waiting.pop()(*args, **named)

    def run(*args: Any, **named: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable:
            return made(*args, **named)
        waiting = called.__dict__.setdefault("waiting", [])
        before = len(waiting)
        waiting.append(made)
        try:
            return checks[made.__code__](*args, **named)
        finally:
            del waiting[before:]  # its arguments may have been refused

    if made.__code__ not in checks:
        checks[made.__code__] = check(wraps(made)(pass_on))
    return wraps(made)(run)
