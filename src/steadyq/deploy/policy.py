"""A trained policy as a robot uses it: observations in, actions out, both in the environment's own units.

NumPy is all that this file needs. ONNX Runtime is imported when an ONNX file is loaded.
"""

import hashlib
import io
import json
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from steadyq.errors import InputError
from steadyq.store.typed import from_json

FORMAT = 2
KEY = "steadyq"
"""Where the JSON lies: in the `metadata_props` of an ONNX file, as bytes among the arrays of an .npz file."""

MOST_BYTES = 2**31
"""Of a file: no ONNX file is larger."""

BLANK = "0" * 64
"""What an ONNX file has in the place of its digest while that is taken."""

OPERATIONS: dict[str, Callable[..., np.ndarray]] = {
    "linear": lambda x, w, b: x @ w + b,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "relu": lambda x: np.maximum(x, np.float32(0)),
    "tanh": np.tanh,
    "sqrt": np.sqrt,
    "reciprocal": np.reciprocal,
    "mean": lambda x: x.mean(-1, keepdims=True),
    "norm": lambda x: np.sqrt(np.square(x).sum(-1, keepdims=True)),
}
"""All that a policy is made of, on rows [B, W]."""


class Part(NamedTuple):
    """One part of an observation, by its name in the environment."""

    name: str
    size: int


@dataclass(frozen=True)
class Spec:
    """What a policy takes and gives, and where it was trained."""

    observations: list[Part]  # in the order in which they are flattened
    action_low: list[float]  # [A], the environment's bounds
    action_high: list[float]
    step_seconds: float | None  # between two actions, where the environment tells
    # recipe, env, run, seed, commit, frame, return if it was evaluated there; parity if exported
    trained: dict[str, Any]

    @property
    def obs_dim(self) -> int:
        """The length of a flat observation."""
        return sum(part.size for part in self.observations)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The bounds as float32 [A], never outside of the float64 ones by their rounding."""
        low, high = np.array(self.action_low, np.float32), np.array(self.action_high, np.float32)
        low = np.where(low < self.action_low, np.nextafter(low, np.float32(np.inf)), low)
        return low, np.where(high > self.action_high, np.nextafter(high, np.float32(-np.inf)), high)


class Program(NamedTuple):
    """A policy as a list of operations: the input is value 0, the n-th operation gives value n, the last is the result.

    steps: `[operation, input, ...]`; an input is the number of an earlier value, or the name of a constant.
    constants: float32, by name.
    """

    steps: list[list[Any]]
    constants: dict[str, np.ndarray]

    def run(self, rows: np.ndarray) -> np.ndarray:
        """The actions [B, A] for observations [B, O]."""
        values = [rows]
        for name, *inputs in self.steps:
            found = (self.constants[key] if isinstance(key, str) else values[key] for key in inputs)
            with np.errstate(all="ignore"):  # a policy that overflows is seen by its actions
                values.append(OPERATIONS[name](*found))
        return values[-1]


@dataclass(frozen=True)
class Policy:
    """A trained policy: `policy(obs) -> action`.

    spec: names, sizes and order of observations, bounds of actions, seconds per step.
    mode: `obs[B, O] -> action[B, A]`, the mean action.
    draw: `(obs[B, O], noise[B, A]) -> action[B, A]` for standard normal noise; None for an exported policy.
    """

    spec: Spec
    mode: Callable[[np.ndarray], np.ndarray]
    draw: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None

    def __call__(self, obs: Any) -> np.ndarray:
        """The mean action, float32 [A] for one observation and [B, A] for a batch.

        Args:
            obs: numbers [O] or [B, O]; or a dict of them by the names in `spec.observations`, of which other keys are
                ignored. Each part of one observation has any shape of its size, of a batch [B, size].

        Raises:
            InputError: a wrong shape, a missing key, or numbers that are not finite.
        """
        rows, alone = self._rows(obs)
        actions = self.mode(rows) if len(rows) else np.empty((0, len(self.spec.action_low)), np.float32)
        return actions[0] if alone else actions

    def sample(self, obs: Any, rng: np.random.Generator) -> np.ndarray:
        """An action drawn from the policy, as it acts in training unless its recipe explores in another way."""
        if self.draw is None:
            raise InputError("an exported policy has its mean action only; sample from steadyq.load_policy(run)")
        rows, alone = self._rows(obs)
        noise = rng.standard_normal((len(rows), len(self.spec.action_low)), dtype=np.float32)
        actions = self.draw(rows, noise) if len(rows) else noise
        return actions[0] if alone else actions

    @staticmethod
    def load(path: Path | str) -> "Policy":
        """An exported policy, whose file is for NumPy (.npz) or ONNX Runtime (.onnx).

        Raises:
            InputError: there is none, or it is damaged or foreign.
        """
        try:
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_BYTES:
                raise InputError(f"the policy {path} is not a file, or too large; give a file of `steadyq export`")
            data = Path(path).read_bytes()
        except OSError as error:
            raise InputError(
                f"cannot read the policy {path} ({error.strerror}); give a file of `steadyq export`"
            ) from None
        return (from_npz if data.startswith(b"PK") else from_onnx)(data, source=str(path))

    def _rows(self, obs: Any) -> tuple[np.ndarray, bool]:
        """Observations as new float32 rows [B, O], and whether it is a single one."""
        spec = self.spec
        if isinstance(obs, Mapping):
            flat = _flat(obs)
            if missing := [part.name for part in spec.observations if part.name not in flat]:
                wanted = ", ".join(part.name for part in spec.observations)
                raise InputError(f"the observation has no {missing[0]!r}; this policy wants {wanted}")
            parts = [_numbers(flat[part.name], part.name) for part in spec.observations]
        else:
            parts = [_numbers(obs, "observation")]
        sizes = [part.size for part in spec.observations] if isinstance(obs, Mapping) else [spec.obs_dim]
        batch = all(array.ndim == 2 and array.shape[1] == size for array, size in zip(parts, sizes, strict=True))
        batch = batch and len({len(array) for array in parts}) == 1
        fits = isinstance(obs, Mapping) or parts[0].ndim == 1
        if not batch and not (fits and all(array.size == size for array, size in zip(parts, sizes, strict=True))):
            wanted = ", ".join(f"{part.name} {part.size}" for part in spec.observations)
            got = " and ".join(str(array.shape) for array in parts)
            raise InputError(
                f"the observation has the shape {got}; give one of {spec.obs_dim} numbers ({wanted}), or rows"
            )
        count = len(parts[0]) if batch else 1
        rows = np.concatenate([array.reshape(count, size) for array, size in zip(parts, sizes, strict=True)], 1)
        if not np.isfinite(rows).all():
            names = [part.name for part in spec.observations for _ in range(part.size)]
            bad = names[int(np.argmin(np.isfinite(rows).all(0)))]
            raise InputError(f"the observation {bad!r} is not finite; a policy needs numbers")
        return rows, not batch


def _flat(obs: Mapping[str, Any], key: str = "") -> dict[str, Any]:
    """A dict of dicts as one, with names such as `arm/position`."""
    flat: dict[str, Any] = {}
    for name, value in obs.items():
        flat |= _flat(value, f"{key}{name}/") if isinstance(value, Mapping) else {f"{key}{name}": value}
    return flat


def _numbers(value: Any, name: str) -> np.ndarray:
    try:
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which is refused
            return np.array(value, np.float32)
    except (TypeError, ValueError):
        raise InputError(f"the observation {name!r} is no array of numbers; give one of floats") from None


def described(spec: Spec, **more: Any) -> str:
    """The JSON of a file."""
    return json.dumps({"format": FORMAT, **_fields(spec), **more})


def digest(data: bytes, written: str) -> str:
    """SHA-256 of an ONNX file with `BLANK` in the place of the digest that is written in it."""
    return hashlib.sha256(data.replace(written.encode(), BLANK.encode())).hexdigest()


def to_npz(spec: Spec, program: Program) -> bytes:
    """The file for NumPy alone: no pickle in it."""
    text = np.frombuffer(described(spec, program=program.steps).encode(), np.uint8)
    file = io.BytesIO()
    np.savez(file, **{KEY: text}, **program.constants)  # type: ignore[arg-type]
    return file.getvalue()


def from_npz(data: bytes, *, source: str) -> Policy:
    """The policy in what `to_npz` gave; `source` is named in errors."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        content = json.loads(arrays.pop(KEY).tobytes())
        program = Program(content.pop("program"), arrays)
        if any(array.dtype != np.float32 or not np.isfinite(array).all() for array in arrays.values()):
            raise ValueError("constants that are not finite float32")
        spec = _spec(content)
        if program.run(np.zeros((2, spec.obs_dim), np.float32)).shape != (2, len(spec.action_low)):
            raise ValueError("actions of another size")
    except Exception as error:  # a damaged archive makes zipfile and NumPy raise anything
        raise _foreign(source, error) from None
    return Policy(spec, program.run)


def from_onnx(data: bytes, *, source: str) -> Policy:
    """The policy in an ONNX file, run by ONNX Runtime on one thread; `source` is named in errors."""
    try:
        import onnxruntime
    except ImportError:
        raise InputError(
            f"{source} needs the package onnxruntime; install it, or export the policy with --numpy"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # threads that wait for each other are slower on one observation
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        content = json.loads(session.get_modelmeta().custom_metadata_map[KEY])
        if digest(data, written := content.pop("sha256")) != written:
            raise ValueError("its SHA-256 is another one than it was written with")
        spec = _spec(content)
    except Exception as error:  # it has a class of its own for each reason, without a name in public
        raise _foreign(source, error) from None
    return Policy(spec, lambda rows: session.run(["actions"], {"obs": rows})[0])


def _fields(spec: Spec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in spec.__dataclass_fields__}


def _spec(content: dict[str, Any]) -> Spec:
    if content.pop("format") != FORMAT:
        raise ValueError(f"another format than {FORMAT}")
    return from_json(Spec, content, "spec")


def _foreign(source: str, error: Exception) -> InputError:
    why = " ".join(str(error).split())[:200]
    return InputError(f"{source} is no policy of this version of steadyq ({why}); export it again")
