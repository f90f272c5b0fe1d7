"""Where an environment comes from: a name, a class or function that makes one, or the environment itself."""

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from inspect import isclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, Union

from steadyq.envs.own_code import sentence
from steadyq.errors import InputError, Stopped, unknown
from steadyq.settings import parse_env

if TYPE_CHECKING:
    import gymnasium

Source: TypeAlias = Union[str, Callable[[], "gymnasium.Env"], "gymnasium.Env"]
"""A name (see `settings.parse_env`); a class or function, called for each environment that is needed; or the only one.
"""


class Origin(NamedTuple):
    """What is known of a source without making an environment."""

    name: str  # what to call the environment
    words: str | None = None  # what it is, if it is no name
    is_env: bool = False  # it is the environment itself


def origin(source: Source) -> Origin:
    """What to call an environment of this source.

    Raises:
        InputError: it is neither a name, nor a class or function, nor an environment.
    """
    if isinstance(source, str):
        return Origin(source)
    if not isclass(source) and hasattr(source, "step"):
        bare = type(getattr(source, "unwrapped", source))
        spec = getattr(source, "spec", None)
        return Origin(spec.id if spec else _word(bare.__name__), f"an instance of {_path(bare)}", True)
    made_by: Any = source
    if callable(made_by):
        while isinstance(made_by, partial):
            made_by = made_by.func
        kind = "class" if isclass(made_by) else "function"
        return Origin(_word(getattr(made_by, "__name__", type(made_by).__name__)), f"the {kind} {_path(made_by)}")
    parse_env(source)  # raises
    raise AssertionError


def _word(name: str) -> str:
    return re.sub(r"[^\w.-]", "", name)


def _path(made_by: Any) -> str:
    return f"{made_by.__module__}.{getattr(made_by, '__qualname__', type(made_by).__qualname__)}"


def find(name: str) -> str | Callable[..., Any]:
    """What makes the environment of a name: an id of Gymnasium's, or a class or function of one's own code.

    The code is run for that; a module may also lie in the current folder.

    Raises:
        InputError: the code cannot be run, or nobody has registered or defined anything of that name.
    """
    import gymnasium

    code, wanted = parse_env(name)
    before = {*gymnasium.registry}
    module = _run(code, name) if code else None
    if wanted in gymnasium.registry:
        return wanted
    if module is None:
        raise unknown("environment", name, before, see="steadyq list envs")
    found = getattr(module, wanted, None)
    if callable(found):
        return found
    if isinstance(found, gymnasium.Env):
        raise InputError(
            f"{name} is an environment, not what makes one; name its class, or a function that returns one"
        )
    registers = [
        spec.id
        for spec in gymnasium.registry.values()
        if spec.id not in before or f"{_module_of(spec.entry_point)}.".startswith(f"{module.__name__}.")
    ]
    defines = [
        key
        for key, value in vars(module).items()
        if isclass(value) and issubclass(value, gymnasium.Env) and value.__module__ == module.__name__
    ]
    known = [f"{code}:{one}" for one in (*registers, *defines)]
    if not known:
        raise InputError(
            f"{code} registers no environment and defines none, so there is no {wanted!r} in it; derive a class from "
            f"gymnasium.Env there, or register one"
        )
    raise unknown("environment", name, known)


def _module_of(entry_point: Any) -> str:
    return entry_point.partition(":")[0] if isinstance(entry_point, str) else getattr(entry_point, "__module__", "")


def _run(code: str, name: str) -> ModuleType:
    """The module of one's own code, run once in a process."""
    is_file = code.endswith(".py")
    key = str(Path(code).resolve()) if is_file else code
    if key in sys.modules:  # else nothing is to be looked for in the current folder
        return sys.modules[key]
    folder = str(Path(key).parent) if is_file else os.getcwd()
    if folder not in sys.path:
        sys.path.append(folder)  # where `python` and `python -m` look too; last, so that it hides nothing
    try:
        return _run_file(code, key) if is_file else importlib.import_module(code)
    except (KeyboardInterrupt, Stopped, InputError):
        raise
    except BaseException as error:  # anyone's code: it may even end the process
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{code}.".startswith(f"{missing}."):
            raise InputError(
                f"there is no module {code!r} to import for {name!r}; install it, go to its folder, or put its folder "
                f"on PYTHONPATH"
            ) from error
        raise InputError(f"{code} cannot be imported for {name!r}: {sentence(error)}") from error


def _run_file(path: str, key: str) -> ModuleType:
    if not Path(path).is_file():
        raise InputError(f"there is no file {path} in {os.getcwd()}; go to the folder that it was named from")
    spec = importlib.util.spec_from_file_location(key, key)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[key] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[key]
        raise
    return module
