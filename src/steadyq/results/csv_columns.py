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


def read_columns(path: Path, columns: Mapping[str, Callable[[str], Any]]) -> Iterator[tuple[Any, ...]]:
    """The fields of these columns, converted, row after row; other columns are left alone.

    Args:
        path: the file.
        columns: by name what turns its text into a value, with a ValueError where it cannot.

    Raises:
        InputError: there is no such file, it lacks a column, or a line is malformed. It is named.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}); give a CSV file or the folder of a run") from None
    binary = io.BytesIO(data)
    compressed = data.startswith(b"\x1f\x8b")
    file = io.TextIOWrapper(gzip.GzipFile(fileobj=binary) if compressed else binary, encoding="utf-8", newline="")
    lines = csv.reader(file, strict=True)
    try:
        header = next(lines, [])
        missing = [name for name in columns if name not in header]
        if missing:
            raise InputError(
                f"{path} begins with {','.join(header)[:80]!r} and has no column {missing[0]!r}; "
                f"wanted {','.join(columns)}"
            )
        places = [(header.index(name), convert) for name, convert in columns.items()]
        for row in lines:
            if len(row) != len(header):
                raise ValueError(f"{len(row)} fields instead of {len(header)}")
            yield tuple([convert(row[place]) for place, convert in places])
    except (ValueError, csv.Error, EOFError, OSError, zlib.error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"line {lines.line_num} of {path} cannot be read ({error}); mend or remove that line"
        ) from None


def finite(text: str) -> float:
    """A float that is a number.

    Raises:
        ValueError: it is not.
    """
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"a value that is not finite: {text}")
    return value
