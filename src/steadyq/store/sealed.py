"""A *sealed* file: named tensors and JSON values with a digest over all of it, written whole or not at all.

It is a safetensors file (no code can hide in one) which has, under the key `steadyq` of its header's metadata, three
lines:
    `steadyq KIND 2`, e.g. `steadyq checkpoint 2`
    the SHA-256 over the other two lines and every tensor: name, type, shape, bytes (see `digest`)
    what belongs to the tensors, as JSON
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from steadyq.store import disk
from steadyq.store.disk import FileError

if TYPE_CHECKING:
    import torch

VERSION = 2
SEAL = "steadyq"

Arrays = dict[str, np.ndarray]


def write(path: Path, kind: str, tensors: Mapping[str, "np.ndarray | torch.Tensor"], values: dict[str, Any]) -> None:
    """Seal tensors and JSON values into one file."""
    disk.write(path, seal(kind, tensors, values))


def seal(kind: str, tensors: Mapping[str, "np.ndarray | torch.Tensor"], values: dict[str, Any]) -> bytes:
    """The content of such a file."""
    arrays = {name: _array(name, tensor) for name, tensor in tensors.items()}
    text = json.dumps(values, allow_nan=False)
    lines = "\n".join([_format(kind), digest(kind, text, arrays), text])
    # One key: safetensors writes several in an order that changes from one process to the next.
    return safetensors.numpy.save(arrays, {SEAL: lines})


def read(path: Path, kind: str) -> tuple[Arrays, dict[str, Any], str]:
    """The arrays, JSON values and digest of a sealed file, after comparing the digest; errors as of `disk.read`."""
    data = disk.read(path)
    try:
        arrays = safetensors.numpy.load(data)  # checks every size, and that no byte is left over
    except (SafetensorError, KeyError, ValueError) as error:
        raise FileError(f"{path} is cut, damaged or no safetensors file ({error})") from None
    sha256, text = _unseal(path, data[8 : 8 + int.from_bytes(data[:8], "little")], kind)
    if digest(kind, text, arrays) != sha256:
        raise FileError(f"{path} is damaged: its SHA-256 is not the one it was sealed with")
    return arrays, _values(path, text), sha256


def peek(path: Path, kind: str) -> dict[str, Any]:
    """The JSON values of a sealed file without its tensors and without comparing the digest: enough to clean up by."""
    size = min(int.from_bytes(disk.read(path, size=8), "little"), 100_000_000)  # safetensors' own limit
    _, text = _unseal(path, disk.read(path, size=8 + size)[8:], kind)
    return _values(path, text)


def place(folder: Path, frame: int) -> Path:
    """Where a folder has the sealed file of a frame."""
    return folder / f"{frame:012d}.safetensors"


def frames(folder: Path) -> list[int]:
    """The frames that the sealed files in a folder are named by, ascending. Their content is not looked at."""
    return sorted(int(name[:12]) for name in disk.names(folder) if re.fullmatch(r"[0-9]{12}\.safetensors", name))


def common_frames(folders: Iterable[Path]) -> list[int]:
    """The frames that each of these folders has a file of, ascending."""
    common: set[int] | None = None
    for folder in folders:
        found = {*frames(folder)}
        common = found if common is None else common & found
        if not common:
            break
    return sorted(common or ())


def _unseal(path: Path, header: bytes, kind: str) -> tuple[str, str]:
    """The digest and the JSON text in the header of a safetensors file, if it is a sealed one of this kind."""
    try:
        metadata = json.loads(header)["__metadata__"]
        seal = metadata.get(SEAL, "")
    except (ValueError, RecursionError):
        raise FileError(f"{path} is cut, damaged or no safetensors file") from None
    except (KeyError, TypeError, AttributeError):
        seal = ""
    lines = seal.split("\n") if isinstance(seal, str) else []
    if lines[:1] != [_format(kind)] or len(lines) != 3:
        got = repr(lines[0][:80]) if lines and lines[0] else "no format of ours"
        raise FileError(f"{path} has {got}; this version of steadyq reads {_format(kind)!r} here")
    return lines[1], lines[2]


def _values(path: Path, text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise FileError(f"{path}: the JSON in it is damaged or no object")
    return values


def _format(kind: str) -> str:
    return f"steadyq {kind} {VERSION}"


def digest(kind: str, text: str, arrays: Arrays) -> str:
    """SHA-256 over the JSON line [format, json] and, array by array, the line [name, dtype, shape] and the bytes.

    Arrays come in the order of their names. Lines are JSON with ", " between items, ASCII only, and end with a newline.
    """
    sha256 = hashlib.sha256(_line([_format(kind), text]))
    for name, array in sorted(arrays.items()):
        sha256.update(_line([name, array.dtype.name, list(array.shape)]))
        sha256.update(array.data if array.size else b"")
    return sha256.hexdigest()


def json_digest(content: Mapping[str, Any]) -> str:
    """The SHA-256 that run.json has as `sha256`: of the rest of it as JSON, keys sorted at every level."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _line(values: list[Any]) -> bytes:
    return json.dumps(values).encode() + b"\n"


def _array(name: str, tensor: "np.ndarray | torch.Tensor") -> np.ndarray:
    """A tensor as an array with its elements in order, without a copy where none is needed."""
    array = tensor if isinstance(tensor, np.ndarray) else tensor.detach().cpu().numpy()
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} has the type {array.dtype}; only numbers and booleans can be saved")
    return np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")  # keeps 0-d, unlike ascontiguousarray


def tensors(arrays: Arrays) -> "dict[str, torch.Tensor]":
    """Tensors of their own, as arrays from a file may be read-only."""
    import torch  # which those who only look at a file need not wait for

    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
