"""A policy's mean action as a list of a dozen operations, read off the agent itself: so every recipe can be exported.

The agent acts once on one observation while PyTorch writes down what it computes. All of that is about rows: each value
has one row per observation, and every operation keeps to its row, so what one observation went through is right for any
number. Runs of additions and multiplications by constants are put off and joined, in float64: normalisers and batch
norms end up in the weights of the linear layer before or after them.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import make_fx

from steadyq.algorithm.agent import Agent
from steadyq.algorithm.types import State
from steadyq.deploy.policy import Program, Spec
from steadyq.engine.compiled import TRACING
from steadyq.errors import InputError

aten = torch.ops.aten

RESHAPED = (aten.unsqueeze.default, aten.squeeze.dim, aten.view.default, aten._unsafe_view.default)


class Waiting(NamedTuple):
    """A value that is not computed yet: `(x w) gain + offset`, or `x gain + offset` without w."""

    x: int
    w: np.ndarray | None = None  # [I, O]
    gain: np.ndarray = np.ones(())  # [] or [O]
    offset: np.ndarray = np.zeros(())


Value = Waiting | np.ndarray
"""Of rows, or a constant."""


class Writer:
    """A program that grows: what was written, and the constants so far."""

    def __init__(self) -> None:
        self.steps: list[list[Any]] = []
        self.constants: dict[str, np.ndarray] = {}
        self.written: dict[int, tuple[Waiting, int]] = {}  # by identity; the value is kept so that it stays its own

    def write(self, name: str, *inputs: Value) -> Waiting:
        """One operation on values, whose number is the new one."""
        self.steps.append([name, *[self.place(value) for value in inputs]])
        return Waiting(len(self.steps))

    def place(self, value: Value) -> int | str:
        """The number of a value, which is computed now if it was not, or the name of a constant."""
        if not isinstance(value, Waiting):
            self.constants[name := f"c{len(self.constants)}"] = np.asarray(value, np.float32)
            return name
        if id(value) not in self.written:
            self.written[id(value)] = value, self._compute(value)
        return self.written[id(value)][1]

    def _compute(self, value: Waiting) -> int:
        x, w, gain, offset = value
        if w is not None:
            return self.write("linear", Waiting(x), w * gain, np.broadcast_to(offset, w.shape[1:])).x
        if (gain != 1).any():
            x = self.write("mul", Waiting(x), gain).x
        if (offset != 0).any():
            x = self.write("add", Waiting(x), offset).x
        return x


def trace(agent: Agent, state: State, spec: Spec) -> Program:
    """The mean action of an agent, from raw observations to the environment's own units.

    Raises:
        InputError: the recipe computes something that no policy has needed so far.
    """
    with TRACING, torch.no_grad():  # a step may be compiling in another thread
        traced = make_fx(lambda obs: agent.mode(state, obs))(torch.zeros(spec.obs_dim))
    writer, values = Writer(), dict[Node, Value]()
    result = next(node for node in traced.graph.nodes if node.op == "output").args[0]
    traced.graph.eliminate_dead_code()
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            values[node] = Waiting(0)
        elif node.op == "get_attr":
            values[node] = getattr(traced, str(node.target)).detach().double().numpy()
        elif node.op == "call_function" and _is_needed(node):
            values[node] = _value(node, values, writer)
    low, high = np.array(spec.action_low), np.array(spec.action_high)
    actions = _affine(values[result], "mul", (high - low) / 2, writer)
    actions = _affine(actions, "add", (high + low) / 2, writer)
    floor, ceiling = spec.bounds()
    writer.write("min", writer.write("max", actions, floor), ceiling)
    return Program(writer.steps, writer.constants)


def _is_needed(node: Node) -> bool:
    """Not what only lends its shape."""
    return any(user.target is not aten.full_like.default for user in node.users)


def _value(node: Node, values: dict[Node, Value], writer: Writer) -> Value:
    """What one operation of PyTorch's gives."""
    target, args = node.target, node.args
    if target is aten.full_like.default:
        return np.full(node.meta["val"].shape[-1:], args[1], np.float64)
    inputs = [values[arg] if isinstance(arg, Node) else arg for arg in args]
    rows = [value for value in inputs if isinstance(value, Waiting)]
    if target is aten.cat.default and isinstance(args[0], list | tuple):
        return _joined([values[arg] for arg in args[0] if isinstance(arg, Node)], node, writer)
    if not rows:  # a constant: weights times gains and the like
        given = [torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value for value in inputs]
        return target(*given, **node.kwargs).numpy()  # type: ignore[operator]
    x = rows[0]
    if target is aten._to_copy.default and node.kwargs.get("dtype") in (torch.float32, torch.float64):
        return x  # a program has one type
    if target in RESHAPED and node.meta["val"].shape[-1] == node.meta["val"].numel():
        return x
    if target is aten.mm.default and isinstance(inputs[1], np.ndarray):
        return _product(x, inputs[1], writer)
    if target in (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor) and not node.kwargs:
        return _binary(target.__name__.split(".")[0], inputs[0], inputs[1], writer)
    if target in (aten.relu.default, aten.tanh.default):
        return writer.write(target.__name__.split(".")[0], x)
    if target is aten.rsqrt.default:
        return writer.write("reciprocal", writer.write("sqrt", x))
    if target is aten.pow.Tensor_Scalar and args[1] == 2:
        return writer.write("mul", x, x)
    if target is aten.mean.dim and args[1:] == ([-1], True):
        return writer.write("mean", x)
    if target is aten.linalg_vector_norm.default and args[1:] == (2, [-1], True):
        return writer.write("norm", x)
    if target is aten.clamp.default:
        for name, bound in zip(("max", "min"), (*args[1:], None), strict=False):
            x = x if bound is None else writer.write(name, x, np.array(bound))
        return x
    raise InputError(f"this recipe's policy computes {target}, which cannot be exported; add it to deploy/program.py")


def _binary(name: str, left: Any, right: Any, writer: Writer) -> Value:
    """The sum, difference, product or quotient of rows and rows, or of rows and a constant."""
    if isinstance(left, Waiting) and isinstance(right, Waiting):
        return writer.write(name, left, right)
    if isinstance(left, Waiting):
        return _affine(left, name, np.array(right, np.float64), writer)
    if name in ("add", "mul"):
        return _affine(right, name, np.array(left, np.float64), writer)
    return writer.write(name, np.array(left, np.float64), right)


def _affine(value: Value, name: str, constant: np.ndarray, writer: Writer) -> Value:
    """A value and a constant, joined with what it waits for already."""
    assert isinstance(value, Waiting)
    constant = constant.reshape(constant.shape[-1:])  # a leading axis of one row
    if name == "sub" and value.x == 0 and value.w is None:
        return writer.write("sub", value, constant)  # first of all, as a raw observation may lie far from 0
    if name in ("add", "sub"):
        return value._replace(offset=value.offset + (constant if name == "add" else -constant))
    factor = constant if name == "mul" else 1 / constant
    return value._replace(gain=value.gain * factor, offset=value.offset * factor)


def _product(value: Waiting, w: np.ndarray, writer: Writer) -> Waiting:
    """Rows times a matrix, into which goes what they wait for."""
    if value.w is not None:
        value = Waiting(int(writer.place(value)))
    gain, offset = (np.broadcast_to(part, len(w)) for part in (value.gain, value.offset))
    return Waiting(value.x, gain[:, None] * w, offset=offset @ w)


def _joined(parts: list[Value], node: Node, writer: Writer) -> Waiting:
    """Rows with constants next to them: a product with ones and zeros, which is exact."""
    place, width, x = 0, node.meta["val"].shape[-1], None
    offset = np.zeros(width)
    for part, arg in zip(parts, node.args[0], strict=True):  # type: ignore[arg-type]
        size = arg.meta["val"].shape[-1]
        if isinstance(part, Waiting) and x is None:
            x, w = part, np.eye(size, width, place)
        elif isinstance(part, np.ndarray):
            offset[place : place + size] = part
        else:
            raise InputError(
                "this recipe's policy joins two rows, which cannot be exported; add it to deploy/program.py"
            )
        place += size
    assert x is not None
    product = _product(x, w, writer)
    return product._replace(offset=product.offset + offset)
