"""Gymnasium environments as `Env`."""

import importlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from steadyq.envs.env import BadStepError, Spec, Step, flat, rescaler
from steadyq.envs.mujoco_view import View, start_mujoco
from steadyq.errors import InputError
from steadyq.settings import parse_env

if TYPE_CHECKING:
    import gymnasium
    from gymnasium import spaces


REPEAT = 1
"""Frames per agent step: Gymnasium's tasks have their own."""


class GymnasiumEnv:
    """A Gymnasium environment.

    Args:
        env: the environment, owned by this one from now on; its observations are a Box of rank 2 at most, or a Dict of
            such boxes; its actions a bounded Box of real numbers.
        name: what to call it.
        action_repeat: environment steps (frames) per agent step.
    """

    def __init__(self, env: "gymnasium.Env", *, name: str, action_repeat: int):
        from gymnasium import spaces
        from gymnasium.wrappers import FlattenObservation

        actions = env.action_space
        if not isinstance(actions, spaces.Box) or not np.issubdtype(actions.dtype, np.floating):
            raise InputError(
                f"the actions of {name} are {actions}, but steadyq controls with real numbers; choose an environment "
                f"with a Box of floats, or wrap this one so that it takes one"
            )
        observations = tuple(_boxes(env.observation_space, name=name))
        self._rescale = rescaler(actions.low, actions.high, name=name)
        self._env = FlattenObservation(env)  # a Dict in the order of its keys, the one that `_boxes` walks
        self._view: View | None = None
        limit = env.spec.max_episode_steps if env.spec is not None else None
        fps = env.metadata.get("render_fps")
        self.spec = Spec(
            name=name,
            suite="gymnasium",
            obs_dim=sum(size for _, size in observations),
            action_dim=int(np.prod(actions.shape)),
            action_repeat=action_repeat,
            episode_frames=limit,
            observations=observations,
            frame_seconds=1 / fps if fps else None,
            action_low=tuple(actions.low.ravel().tolist()),
            action_high=tuple(actions.high.ravel().tolist()),
        )

    def reset(self, seed: int) -> np.ndarray:
        self._instabilities()[:] = 0  # those of earlier episodes
        obs, _ = self._env.reset(seed=seed)
        self._refuse_instability()
        return flat([obs])

    def step(self, action: np.ndarray) -> Step:
        control, reward = self._rescale(action), 0.0
        for _ in range(self.spec.action_repeat):
            obs, frame_reward, terminated, truncated, _ = self._env.step(control)
            reward += float(frame_reward)
            if terminated or truncated:
                break
        self._refuse_instability()
        return Step(flat([obs]), reward, bool(terminated), bool(truncated) and not terminated)

    def render(self, *, height: int, width: int) -> np.ndarray:
        import mujoco

        bare: Any = self._env.unwrapped
        if isinstance(getattr(bare, "model", None), mujoco.MjModel):
            if self._view is None:
                self._view = View(bare.model, _camera(bare))
            return self._view.picture(bare.data, height=height, width=width)
        return self._own_picture(height=height, width=width)

    def close(self) -> None:
        if self._view is not None:
            self._view.close()
        self._env.close()

    def _instabilities(self) -> np.ndarray:
        """How often MuJoCo has met NaN or huge positions, velocities, accelerations and controls; [0] elsewhere."""
        import mujoco

        data = getattr(self._env.unwrapped, "data", None)
        if not isinstance(data, mujoco.MjData):
            return np.zeros(0)
        return data.warning.number[mujoco.mjtWarning.mjWARN_BADQPOS.value :]  # a view; the last of its warnings

    def _refuse_instability(self) -> None:
        """BadStepError if the physics diverged: MuJoCo starts again from its model, with finite numbers."""
        if self._instabilities().any():
            raise BadStepError(f"the simulation of {self.spec.name} has diverged (MuJoCo met NaN, Inf or huge values)")

    def _own_picture(self, *, height: int, width: int) -> np.ndarray:
        """What the environment draws of itself, made to fit with a margin in the colour of its corner."""
        from gymnasium.error import DependencyNotInstalled
        from PIL import Image, ImageOps

        try:
            picture = self._env.render() if self._env.render_mode == "rgb_array" else None
        except DependencyNotInstalled as error:
            raise InputError(f"{self.spec.name} cannot draw itself here: {error}") from error
        if not isinstance(picture, np.ndarray) or picture.ndim != 3:
            raise InputError(
                f"{self.spec.name} draws no pictures of itself; for films of it, register a class whose metadata lists "
                f'"rgb_array" among the render_modes and whose render() returns uint8 [height, width, 3]'
            )
        image = Image.fromarray(picture)
        corner = tuple(int(channel) for channel in picture[0, 0])
        return np.asarray(ImageOps.pad(image, (width, height), color=corner))


def names() -> list[str]:
    """Every registered environment id."""
    import gymnasium

    return sorted(gymnasium.registry)


def knows(name: str) -> bool:
    """Whether Gymnasium knows an id; of `module:Name-v0`, which only its module can tell, whether it is well formed.

    An id's version belongs to it: which one is the newest may change within a run.
    """
    if not isinstance(name, str) or ":" in name:
        parse_env(name)
        return True
    import gymnasium

    return name in gymnasium.registry


def make(name: str, *, action_repeat: int, endless: bool) -> GymnasiumEnv:
    """The environment of an id; see `suites.make`. LookupError if nobody knows it."""
    return GymnasiumEnv(load_gymnasium(name, endless=endless), name=name, action_repeat=action_repeat)


def load_gymnasium(name: str, *, endless: bool = False) -> "gymnasium.Env":
    """The environment of an id, after importing the module of `module:Name-v0`, able to draw itself if it ever is.

    The module may also lie in the current folder.

    Args:
        name: the id.
        endless: without Gymnasium's time limit; one that the environment keeps by itself stays.

    Raises:
        LookupError: nobody knows the id.
        InputError: its module, or something it needs, cannot be imported.
    """
    import gymnasium
    from gymnasium.envs.registration import load_env_creator
    from gymnasium.error import DependencyNotInstalled

    module, env_id = parse_env(name)
    if module and module not in sys.modules:  # else nothing is to be looked for in the current folder
        if (here := os.getcwd()) not in sys.path:
            sys.path.append(here)  # where `python -m` looks too; last, so that it hides nothing
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise  # the module is there; something that it imports is not
            raise InputError(
                f"there is no module {module!r} to import for {name!r}; install it, go to its folder, or put its "
                f"folder on PYTHONPATH"
            ) from error
    if not knows(env_id):
        raise LookupError(env_id)
    start_mujoco()
    try:
        entry = gymnasium.spec(env_id).entry_point
        creator = load_env_creator(entry) if isinstance(entry, str) else entry
        metadata = getattr(creator, "metadata", None)  # functions have none
        draws = isinstance(metadata, dict) and "rgb_array" in (metadata.get("render_modes") or ())
        limit = -1 if endless else None  # -1: none, None: the registered one
        drawing: dict[str, Any] = {"render_mode": "rgb_array"} if draws else {}
        return gymnasium.make(env_id, max_episode_steps=limit, **drawing)
    except (DependencyNotInstalled, ImportError) as error:
        raise InputError(f"{name} cannot be made here: {error}") from error


def _boxes(space: "spaces.Space", *, name: str, key: str = "") -> Iterator[tuple[str, int]]:
    """The (key, size) of every Box in an observation space, in the order in which Gymnasium flattens them."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        for part, inner in space.spaces.items():
            yield from _boxes(inner, name=name, key=f"{key}/{part}" if key else part)
        return
    what = f"the observation {key!r} of {name}" if key else f"the observation of {name}"
    if not isinstance(space, spaces.Box):
        raise InputError(
            f"{what} is {space}, but steadyq learns from vectors of real numbers (Box, or Dict of Box); wrap the "
            f"environment so that it gives one, e.g. with gymnasium.wrappers.FlattenObservation (one-hot for Discrete)"
        )
    if len(space.shape) > 2 or (len(space.shape) == 2 and space.dtype == np.uint8):
        raise InputError(
            f"{what} is an image of shape {space.shape}, but steadyq learns from vectors; wrap the environment so "
            f"that it gives the state, or features of the image"
        )
    yield key or "observation", int(np.prod(space.shape))


def _camera(env: Any) -> Any:
    """A camera that follows the body where the model has one, else the one that the environment sets up."""
    import mujoco

    renderer = getattr(env, "mujoco_renderer", None)
    camera = mujoco.MjvCamera()
    number = getattr(renderer, "camera_id", -1)
    if number < 0:  # Gymnasium then takes a free camera, out of whose sight a cheetah runs
        number = mujoco.mj_name2id(env.model, mujoco.mjtObj.mjOBJ_CAMERA.value, "track")
    if number >= 0:
        camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, number
        return camera
    mujoco.mjv_defaultFreeCamera(env.model, camera)
    for field, value in (getattr(renderer, "default_cam_config", None) or {}).items():
        setattr(camera, field, value)
    if camera.trackbodyid > 0:
        camera.type = mujoco.mjtCamera.mjCAMERA_TRACKING
    return camera
