"""JSON of a file that anyone may have written, as the types that the program works with, or refused by name.

A dataclass is a JSON object with exactly its fields, a NamedTuple a list of its fields in order: what `asdict` makes.
"""

import functools
import math
from dataclasses import fields, is_dataclass
from reprlib import repr as short
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def from_json(kind: type[T], value: Any, name: str) -> T:
    """A value of a type made of dataclasses, NamedTuples, `list`, `tuple`, `dict`, `| None`, `Any` and plain types.

    Raises:
        ValueError: it is not one, or a number is not finite. The sentence names the field, as a path that begins with
            `name`.
    """
    return _read(kind, value, name)


def _read(kind: Any, value: Any, name: str) -> Any:
    if kind in (bool, int, float, str):  # most are, and what is asked below takes longer
        return _exactly(kind, value, name)
    parts = get_args(kind)
    if kind is Any or (NoneType in parts and value is None):
        return value
    if NoneType in parts:
        return _read(parts[0], value, name)
    if get_origin(kind) is list:
        return [_read(parts[0], one, name) for one in _exactly(list, value, name)]
    if get_origin(kind) is tuple:  # of any length
        return tuple(_read(list[parts[0]], value, name))  # type: ignore[valid-type]
    if get_origin(kind) is dict:
        return {key: _read(parts[1], one, f"{name}.{short(key)}") for key, one in _exactly(dict, value, name).items()}
    if is_dataclass(kind):
        wanted = [field.name for field in fields(kind)]
        if odd := sorted(_exactly(dict, value, name).keys() ^ wanted):
            raise ValueError(f"`{name}` {'lacks' if odd[0] in wanted else 'has the unknown'} {short(odd[0])}")
        value = [value[key] for key in wanted]
    elif hasattr(kind, "_fields"):
        wanted = kind._fields
        if len(_exactly(list, value, name)) != len(wanted):
            raise ValueError(f"`{name}` is {short(value)}, not [{', '.join(wanted)}]")
    else:
        return _exactly(kind, value, name)
    hints = _hints(kind)
    return kind(*(_read(hints[key], one, f"{name}.{key}") for key, one in zip(wanted, value, strict=True)))


_hints = functools.cache(get_type_hints)  # of a type once: they are evaluated from text


def _exactly(kind: type[T], value: Any, name: str) -> T:
    """A value of this very type: a bool is not an int here, and an int is not a float."""
    if type(value) is not kind:
        raise ValueError(f"`{name}` is {short(value)}, not of the type {kind.__name__}")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError(f"`{name}` is {short(value)}, not a number of 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"`{name}` is {value}, not a finite number")
    return value
