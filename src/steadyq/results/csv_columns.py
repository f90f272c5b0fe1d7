"""Columns of CSV files, plain or compressed with gzip, read by their names."""

import csv
import gzip
import io
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from steadyq.errors import InputError
from steadyq.results.untrusted import check_file

MOST_BYTES = 2**30
"""Of a table, as text: its rows take several times that in memory."""


def read_columns(path: Path, columns: Mapping[str, Callable[[str], Any]]) -> Iterator[tuple[Any, ...]]:
    """The fields of these columns, converted, row after row; other columns are left alone.

    Args:
        path: the file.
        columns: by name what turns its text into a value, with a ValueError where it cannot.

    Raises:
        InputError: there is no such file, it lacks a column, or a line is malformed. It is named.
    """
    lines = csv.reader(io.TextIOWrapper(io.BytesIO(_text(path)), encoding="utf-8-sig", newline=""), strict=True)
    try:
        header = next(lines, [])
        missing = [name for name in columns if name not in header]
        if missing:
            raise InputError(
                f"{path} begins with {','.join(header)[:80]!r} and has no column {missing[0]!r}; "
                f"wanted {','.join(columns)}"
            )
        places = [(header.index(name), convert) for name, convert in columns.items()]
        for row in filter(None, lines):  # without blank lines
            if len(row) != len(header):
                raise ValueError(f"{len(row)} fields instead of {len(header)}")
            yield tuple([convert(row[place]) for place, convert in places])
    except (ValueError, csv.Error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"line {lines.line_num} of {path} cannot be read ({error}); fix or remove that line") from None


def _text(path: Path) -> bytes:
    check_file(path, most=MOST_BYTES)
    try:
        data = path.read_bytes()
        if data.startswith(b"\x1f\x8b"):
            data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error}); restore the file") from None
    if len(data) > MOST_BYTES:
        raise InputError(f"{path} unpacks to more than the {MOST_BYTES:,} bytes that are read; split or remove it")
    return data


def whole(text: str) -> int:
    """A whole number, which may be written as a float: tables of pandas do so.

    Raises:
        ValueError: it is not one.
    """
    try:
        return int(text)
    except ValueError:
        value = float(text)
        if not value.is_integer():
            raise ValueError(f"not a whole number: {text}") from None
        return int(value)


def finite(text: str) -> float:
    """A float that is a number.

    Raises:
        ValueError: it is not.
    """
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"a value that is not finite: {text}")
    return value
