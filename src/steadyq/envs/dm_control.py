"""The tasks of dm_control's suite as `Env`."""

import os
import re
import sys
from collections.abc import Mapping
from functools import cache
from math import ceil, inf, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steadyq.envs.env import Spec, Step, flat, rescaler
from steadyq.envs.mujoco_view import View, refuse_mujoco_gl, start_mujoco
from steadyq.errors import InputError

if TYPE_CHECKING:
    from dm_control.rl.control import Environment


REPEAT = 2
"""Frames per agent step, as most authors have it on DeepMind Control."""


class DmControl:
    """A dm_control environment.

    Args:
        env: the environment, owned by this one from now on.
        name: what to call it.
        action_repeat: control steps (frames) per agent step.
        endless: without its time limit, which is then only known.
    """

    def __init__(self, env: "Environment", *, name: str, action_repeat: int, endless: bool = False):
        self._env = env
        self._view: View | None = None
        actions = env.action_spec()
        low, high = (
            np.broadcast_to(bound, actions.shape).astype(actions.dtype) for bound in (actions.minimum, actions.maximum)
        )
        self._rescale = rescaler(low, high, name=name)
        observations = tuple((key, np.size(value)) for key, value in env.reset().observation.items())
        limit = env._step_limit  # dm_control has no public name for it
        if endless:
            env._step_limit = inf  # what the suite itself sets where a task has no limit
        self.spec = Spec(
            name=name,
            suite="dmc",
            obs_dim=sum(size for _, size in observations),
            action_dim=low.size,
            action_repeat=action_repeat,
            episode_frames=ceil(limit) if isfinite(limit) else None,
            observations=observations,
            frame_seconds=env.control_timestep(),
            action_low=tuple(low.ravel().tolist()),
            action_high=tuple(high.ravel().tolist()),
        )

    def reset(self, seed: int) -> np.ndarray:
        # All that a task draws comes from here. A new one instead of `seed()`: tasks may keep what they were made with.
        self._env.task._random = np.random.RandomState(seed)
        return flat(self._env.reset().observation.values())

    def step(self, action: np.ndarray) -> Step:
        control, reward = self._rescale(action), 0.0
        for _ in range(self.spec.action_repeat):
            frame = self._env.step(control)
            reward += float(frame.reward)
            if frame.last():
                break
        terminated = frame.last() and frame.discount == 0.0  # a time limit ends an episode with discount 1
        return Step(flat(frame.observation.values()), reward, terminated, frame.last() and not terminated)

    def render(self, *, height: int, width: int) -> np.ndarray:
        physics = self._env.physics
        if self._view is None:
            self._view = View(physics.model.ptr, _camera(physics.model.ptr))
        return self._view.picture(physics.data.ptr, height=height, width=width)

    def close(self) -> None:
        if self._view is not None:
            self._view.close()
        self._env.close()


@cache
def tasks() -> tuple[str, ...]:
    """Every task of the suite as `domain-task`, read off its source: to import the suite takes half a second."""
    import dm_control  # which imports nothing by itself

    found = []
    for path in sorted(Path(dm_control.__file__).with_name("suite").glob("*.py"), key=lambda path: path.stem):
        text = path.read_text(encoding="utf-8")
        found += [f"{path.stem}-{task}" for task in re.findall(r"^@SUITE\.add\([^)]*\)\s+def (\w+)", text, re.M)]
    return tuple(found)


def names() -> list[str]:
    """Every task."""
    return list(tasks())


def knows(name: str) -> bool:
    """Whether this is a task of the suite."""
    return name in tasks()


def make(
    name: str,
    *,
    action_repeat: int,
    endless: bool,
    max_episode_steps: int | None,
    kwargs: Mapping[str, Any],
    pictures: bool,
) -> DmControl:
    """A task of the suite, which can always be drawn; see `suites.make`."""
    if kwargs:
        raise InputError(f"{name} is a task of DeepMind Control, which takes no arguments; leave --env-kwargs out")
    env = load(name)
    if max_episode_steps is not None:
        env._step_limit = max_episode_steps
    return DmControl(env, name=name, action_repeat=action_repeat, endless=endless)


def load(name: str) -> "Environment":
    """The task `domain-task` of the suite."""
    domain, task = name.split("-")
    env = _suite().load(domain, task)
    # quadruped-escape hands its terrain to OpenGL at every reset if there is any: there is none, see `_suite`.
    env.physics._make_rendering_contexts = lambda: None
    return env


def _suite() -> Any:
    """`dm_control.suite`, imported without looking for OpenGL unless MUJOCO_GL asks for some.

    Left to itself dm_control loads OpenGL at import, which warns where there is no display. Its own renderer is not
    needed here (see `mujoco_view`).
    """
    start_mujoco()  # before MUJOCO_GL is set, which it reads: so it keeps its renderer for those who want it
    if "dm_control._render" in sys.modules or "MUJOCO_GL" in os.environ:
        try:
            from dm_control import suite
        except Exception as error:  # an OpenGL library that is broken raises anything
            refuse_mujoco_gl(error)
            raise
        return suite

    os.environ["MUJOCO_GL"] = "disabled"
    try:
        from dm_control import suite
    finally:
        del os.environ["MUJOCO_GL"]
    return suite


def _camera(model: Any) -> Any:
    """The camera to film a task with: from the side if the model has that, else one that follows, else its first."""
    import mujoco

    camera = mujoco.MjvCamera()
    if not model.ncam:
        mujoco.mjv_defaultFreeCamera(model, camera)
        return camera
    names = [model.camera(number).name for number in range(model.ncam)]
    sides = [names.index(name) for name in ("side", "x") if name in names]
    following = np.flatnonzero(model.cam_mode == mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM.value).tolist()
    camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, [*sides, *following, 0][0]
    return camera
