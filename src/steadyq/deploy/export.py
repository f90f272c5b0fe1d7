"""`steadyq export`: a policy as a file that needs no PyTorch, compared with the run's own before it is written."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter_ns
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from steadyq import output
from steadyq.algorithm.random import Purpose, generator
from steadyq.deploy.load import Loaded, load
from steadyq.deploy.policy import BLANK, KEY, Policy, Program, Spec, described, digest, from_npz, from_onnx, to_npz
from steadyq.deploy.program import trace
from steadyq.errors import InputError
from steadyq.store import checkpoint, disk
from steadyq.store.folder import REPLAY, seed_folder
from steadyq.store.replay import Replay
from steadyq.store.snapshot import replay_sizes, replays_of

TOLERANCE = 1e-5
"""Of a policy in another form, in halves of an action's range; the sums of float32 come in another order there."""

STATES = 1_000
CALLS, WARM_UP = 1_000, 100

OPSET, IR_VERSION = 18, 8
"""The oldest form of the file that has this opset, so that older readers take it too."""

NODES = {
    "linear": "Gemm",
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "max": "Max",
    "min": "Min",
    "relu": "Relu",
    "tanh": "Tanh",
    "sqrt": "Sqrt",
    "reciprocal": "Reciprocal",
    "mean": "ReduceMean",
    "norm": "ReduceL2",
}
"""ONNX's names of a program's operations."""


def export(
    run: Path,
    *,
    onnx: Path | None = None,
    numpy: Path | None = None,
    seed: int | None = None,
    which: str = "last",
    timed: bool = False,
    clock: Callable[[], int] = perf_counter_ns,
) -> None:
    """Write a run's policy for ONNX Runtime, for NumPy alone, or both, and report how near they are to the run's own.

    Args:
        run: the run folder.
        onnx: the ONNX file to write.
        numpy: the .npz file to write.
        seed: which of its agents; the first if None.
        which: `last` checkpoint, `best` evaluation, or the frame of an evaluation.
        timed: print how long each form takes for one observation.
        clock: nanoseconds.

    Raises:
        InputError: nothing was asked for, a file that cannot be written, no such run, seed or checkpoint, packages that
            are missing, or a form that differs from the run's own policy; nothing was written.
    """
    wanted = {ending: path for ending, path in ((".onnx", onnx), (".npz", numpy)) if path is not None}
    if not wanted:
        raise InputError("there is nothing to write; give policy.onnx, or --numpy policy.npz")
    for ending, path in wanted.items():
        check(path, ending)
    loaded = load(run, seed=seed, checkpoint=which)
    obs = states(run, loaded)
    program = trace(loaded.agent, loaded.state, loaded.policy.spec)
    forms, files = {"run folder (PyTorch)": loaded.policy}, list[tuple[Path, bytes]]()
    for ending, path in wanted.items():
        data, forms[FORMS[ending].words] = checked(program, loaded.policy, obs, source=path)
        files.append((path, data))
    for path, data in files:
        disk.give(path, data)
    for (path, data), policy in zip(files, list(forms.values())[1:], strict=True):
        trained = policy.spec.trained
        print(
            f"{path}: {len(data) / 1e3:,.0f} kB, frame {trained['frame']:,} of seed {trained['seed']}; differs from "
            f"the run's policy by {trained['parity']:.1e} of half an action's range at most ({len(obs):,} states)"
        )
    if timed:
        table = Table("form", "p50, µs", "p99, µs", box=None, title=f"one observation, {CALLS:,} calls")
        for name, policy in forms.items():
            table.add_row(name, *(f"{time:.0f}" for time in latency(policy, obs, clock=clock)))
        output.console().print(table)


def states(run: Path, loaded: Loaded) -> np.ndarray:
    """Observations [n, O] from a run's own newest replay, `STATES` of them if it has so many.

    Raises:
        InputError: it has none, or cannot be read.
    """
    record, place = loaded.record, seed_folder(run, loaded.seed)
    saved = checkpoint.load(place)
    checkpoint.verify(place, saved, sizes=replay_sizes(record))
    if not saved.replays[REPLAY].segments:
        raise InputError(f"{run} has no transitions yet on which to check an export; train it for longer")
    replay = replays_of(record, loaded.seed)[REPLAY]
    checkpoint.fill(place, saved, {REPLAY: replay})
    return observations(replay, seed=loaded.seed)


def observations(replay: Replay, *, seed: int) -> np.ndarray:
    """Observations [n, O] of a replay, `STATES` of them if it has so many."""
    rng = generator(seed, Purpose.SHOW)
    ages = rng.choice(replay.size, min(STATES, replay.size), replace=False).astype(np.int64)
    return replay.sample(ages).obs.numpy()


def to_onnx(spec: Spec, program: Program) -> bytes:
    """The ONNX file: `obs` [batch, O] float32 in, `actions` [batch, A] out."""
    from onnx import TensorProto, checker, helper, numpy_helper

    def name(key: int | str) -> str:
        return key if isinstance(key, str) else "obs" if key == 0 else "actions" if key == last else f"v{key}"

    last = len(program.steps)
    nodes = []
    for number, (operation, *inputs) in enumerate(program.steps, 1):
        axes = ["last_axis"] if operation in ("mean", "norm") else []
        nodes.append(helper.make_node(NODES[operation], [*map(name, inputs), *axes], [name(number)]))
    arrays: dict[str, np.ndarray] = {**program.constants}
    if any("last_axis" in node.input for node in nodes):
        arrays["last_axis"] = np.array([-1], np.int64)
    graph = helper.make_graph(
        nodes,
        "policy",
        [helper.make_tensor_value_info("obs", TensorProto.FLOAT, ["batch", spec.obs_dim])],
        [helper.make_tensor_value_info("actions", TensorProto.FLOAT, ["batch", len(spec.action_low)])],
        [numpy_helper.from_array(np.ascontiguousarray(array), key) for key, array in arrays.items()],
    )
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="steadyq")
    helper.set_model_props(model, {KEY: described(spec, sha256=BLANK)})
    checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data.replace(BLANK.encode(), digest(data, BLANK).encode())


def latency(policy: Policy, obs: np.ndarray, *, clock: Callable[[], int]) -> tuple[float, float]:
    """The median and the 99th percentile of the time that one observation takes, in microseconds."""
    times = []
    for number in range(WARM_UP + CALLS):
        started = clock()
        policy(obs[number % len(obs)])
        times.append((clock() - started) / 1e3)
    p50, p99 = np.percentile(times[WARM_UP:], [50, 99])
    return float(p50), float(p99)


class Form(NamedTuple):
    """A kind of file that a policy can be written as."""

    words: str
    write: Callable[[Spec, Program], bytes]
    read: Callable[..., Policy]


FORMS = {".onnx": Form("ONNX Runtime", to_onnx, from_onnx), ".npz": Form("NumPy", to_npz, from_npz)}
"""By the ending of the file's name."""


def check(path: Path, *endings: str) -> None:
    """InputError if a file cannot be written: its ending is another one than these, or packages are missing."""
    if path.suffix.lower() not in endings:
        other = ", or --numpy policy.npz" if endings == (".onnx",) else ""
        raise InputError(f"{path} cannot be written; give a file ending in {' or '.join(endings)}{other}")
    output.check(path)
    if path.suffix.lower() == ".onnx":
        check_packages()


def checked(program: Program, policy: Policy, obs: np.ndarray, *, source: Path) -> tuple[bytes, Policy]:
    """A file's content, which states how far it is from the policy, and what is read from it again.

    Args:
        program: the policy's, of `trace`.
        policy: which it has to agree with.
        obs: [n, O], where it has to.
        source: the file; its ending decides the form.

    Raises:
        InputError: an action differs by more than `TOLERANCE`.
    """
    spec, (_, write, read) = policy.spec, FORMS[source.suffix.lower()]
    half = (np.array(spec.action_high) - np.array(spec.action_low)) / 2
    half[half == 0] = 1
    there = read(write(spec, program), source=str(source))
    error = float((np.abs(np.float64(there(obs)) - policy(obs)) / half).max())
    if not error <= TOLERANCE:
        raise InputError(
            f"{source} was not written: its actions would differ from the policy's own by {error:.1e} of half their "
            f"range, more than {TOLERANCE:.0e}; try another checkpoint, and report it"
        )
    trained: dict[str, Any] = {**spec.trained, "parity": error, "parity_states": len(obs)}
    data = write(replace(spec, trained=trained), program)
    return data, read(data, source=str(source))


def check_packages() -> None:
    """InputError without what it takes to write an ONNX file and to compare it."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"an ONNX file needs the packages onnx and onnxruntime ({error}); `pip install onnx "
            f"onnxruntime`, or give --numpy alone"
        ) from None
