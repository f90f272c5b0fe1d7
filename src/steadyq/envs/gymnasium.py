"""Gymnasium environments as `Env`."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from reprlib import repr as short
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np

from steadyq.envs.env import BadStepError, EnvError, Spec, Step, flat, rescaler
from steadyq.envs.mujoco_view import View, start_mujoco
from steadyq.envs.own_code import defined_at, own_lines, sentence
from steadyq.envs.source import Source, find, origin
from steadyq.errors import InputError, Stopped
from steadyq.settings import parse_env

if TYPE_CHECKING:
    import gymnasium
    from gymnasium import spaces


REPEAT = 1
"""Frames per agent step: Gymnasium's tasks have their own."""


OPEN: WeakValueDictionary[int, "gymnasium.Env"] = WeakValueDictionary()
"""The environments that are in use here, each for one thing at a time."""


class GymnasiumEnv:
    """A Gymnasium environment.

    Args:
        env: the environment; its observations are a Box of rank 2 at most, or a Dict of such boxes; its actions a
            bounded Box of real numbers.
        name: what to call it.
        action_repeat: environment steps (frames) per agent step.
        limit: frames after which an episode is cut off; None for what the environment does by itself.
        endless: without that limit, which is then only known.
        lent: it is somebody else's, and is not closed.
    """

    def __init__(
        self,
        env: "gymnasium.Env",
        *,
        name: str,
        action_repeat: int,
        limit: int | None = None,
        endless: bool = False,
        lent: bool = False,
    ):
        from gymnasium import spaces

        bare = type(env.unwrapped)
        for space in ("observation_space", "action_space"):
            if getattr(env, space, None) is None:
                raise InputError(f"{name} has no {space}{defined_at(bare)}; give its class one, of gymnasium.spaces")
        if not _takes_seed(bare.reset):
            raise InputError(
                f"the reset() of {name} takes no seed{defined_at(bare.reset)}; write it as in Gymnasium: "
                f"`def reset(self, *, seed=None, options=None)`"
            )
        actions = env.action_space
        if not isinstance(actions, spaces.Box) or not np.issubdtype(actions.dtype, np.floating):
            raise InputError(
                f"the actions of {name} are {actions}, but steadyq controls with real numbers; choose an environment "
                f"with a Box of floats, or wrap this one so that it takes one"
            )
        observations = tuple(_boxes(env.observation_space, name=name))
        self._rescale = rescaler(actions.low, actions.high, name=name)
        self._env = self._made = env  # a watch may come between the first and us
        if not lent:
            OPEN[id(env)] = env  # by identity: an environment need not be hashable
        self._flatten = partial(spaces.flatten, env.observation_space)  # in the order in which `_boxes` walks
        self._view: View | None = None
        self._limit, self._frames, self._lent = None if endless else limit, 0, lent
        fps = env.metadata.get("render_fps")
        self.spec = Spec(
            name=name,
            suite="gymnasium",
            obs_dim=sum(size for _, size in observations),
            action_dim=int(np.prod(actions.shape)),
            action_repeat=action_repeat,
            episode_frames=min(filter(None, [limit, _own_limit(env)]), default=None),
            observations=observations,
            frame_seconds=1 / float(fps) if fps else None,
            action_low=tuple(actions.low.ravel().tolist()),
            action_high=tuple(actions.high.ravel().tolist()),
        )

    def reset(self, seed: int) -> np.ndarray:
        self._instabilities()[:] = 0  # those of earlier episodes
        answer = self._env.reset(seed=seed)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise self._odd("reset", answer, "(observation, info)")
        self._frames = 0
        self._refuse_instability()
        return self._observation("reset", answer[0])

    def step(self, action: np.ndarray) -> Step:
        control, reward = self._rescale(action), 0.0
        for _ in range(self.spec.action_repeat):
            answer = self._env.step(control)
            if not isinstance(answer, tuple) or len(answer) != 5:
                raise self._odd("step", answer, "(observation, reward, terminated, truncated, info)")
            obs, frame_reward, terminated, truncated, _ = answer
            reward += frame_reward if type(frame_reward) is float else self._number(frame_reward)
            self._frames += 1
            truncated = truncated or self._frames == self._limit
            if terminated or truncated:
                break
        self._refuse_instability()
        return Step(self._observation("step", obs), reward, bool(terminated), bool(truncated) and not terminated)

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
        if not self._lent:
            OPEN.pop(id(self._made), None)
            self._env.close()

    def _observation(self, method: str, obs: Any) -> np.ndarray:
        """An observation as a vector; EnvError if it is none of its space."""
        space = self._env.observation_space
        try:
            vector = flat([self._flatten(obs)]) if obs is not None else np.zeros(0)
        except (LookupError, TypeError, ValueError) as error:
            raise self._odd(method, obs, f"an observation of {space}") from error
        if vector.shape != (self.spec.obs_dim,):
            raise self._odd(method, obs, f"an observation of {space}")
        return vector

    def _number(self, reward: Any) -> float:
        """A reward as a number, which an array of size 1 is too."""
        array = np.asarray(reward)
        if array.size != 1 or array.dtype.kind not in "biuf":
            raise self._odd("step", reward, "a number as reward")
        return float(array.item())

    def _odd(self, method: str, got: Any, wanted: str) -> EnvError:
        """What a method should have returned; the method is the environment's own, not that of a wrapper of it."""
        place = defined_at(getattr(type(self._env.unwrapped), method))
        return EnvError(f"the {method}() of {self.spec.name} returned {_shown(got)}, not {wanted}{place}")

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
        if picture.dtype != np.uint8 or picture.shape[2] not in (3, 4):
            raise InputError(
                f"{self.spec.name} draws pictures of type {picture.dtype} and shape {picture.shape}; let its render() "
                f"return uint8 [height, width, 3]"
            )
        image = Image.fromarray(picture)
        corner = tuple(int(channel) for channel in picture[0, 0])
        return np.asarray(ImageOps.pad(image, (width, height), color=corner))


def names() -> list[str]:
    """Every registered environment id."""
    import gymnasium

    return sorted(gymnasium.registry)


def knows(name: str) -> bool:
    """Whether Gymnasium knows an id; of one in code of one's own, which only that can tell, whether it is well formed.

    An id's version belongs to it: which one is the newest may change within a run.
    """
    if not isinstance(name, str) or ":" in name:
        parse_env(name)
        return True
    import gymnasium

    return name in gymnasium.registry


def make(
    source: Source,
    *,
    action_repeat: int,
    endless: bool,
    max_episode_steps: int | None,
    kwargs: Mapping[str, Any],
    pictures: bool,
) -> GymnasiumEnv:
    """The environment of a source; see `suites.make`."""
    import gymnasium

    name, _, is_env = origin(source)
    made_by: Any = find(source) if isinstance(source, str) else source
    limit = max_episode_steps
    start_mujoco()
    if is_env:
        made = made_by
    elif isinstance(made_by, str):
        limit = limit or gymnasium.spec(made_by).max_episode_steps
        # No checker, which would only warn; and no limit, which is kept here, where it can be lifted: -1 is for none.
        by_id = partial(gymnasium.make, made_by, max_episode_steps=-1, disable_env_checker=True)
        made = _made(name, by_id, {**kwargs, **_drawing(gymnasium.spec(made_by).entry_point, pictures)})
    else:
        made = _made(name, made_by, {**kwargs, **_drawing(made_by, pictures)})
    if not isinstance(made, gymnasium.Env):
        raise InputError(
            f"{name} gives an object of type {type(made).__name__}, not a Gymnasium environment; derive its class from "
            f"gymnasium.Env, or wrap it in one that is"
        )
    if OPEN.get(id(made)) is made:
        raise InputError(
            f"{name} gives the same environment again, and a run needs several; give that environment itself, or with "
            f"--single-env what makes it"
        )
    return GymnasiumEnv(made, name=name, action_repeat=action_repeat, limit=limit, endless=endless, lent=is_env)


def _made(name: str, make: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
    """What a constructor gives; what it raises is a sentence about the user's own code."""
    from gymnasium.error import DependencyNotInstalled

    try:
        return make(**kwargs)
    except DependencyNotInstalled as error:
        raise InputError(f"{name} cannot be made here: {error}") from error
    except (KeyboardInterrupt, Stopped, InputError):
        raise
    except BaseException as error:  # anyone's code: it may even end the process
        inner = error
        while isinstance(inner.__cause__, type(inner)):  # Gymnasium raises it again, without the user's own lines
            inner = inner.__cause__
        if own_lines(inner):
            raise InputError(f"{name} cannot be made: {sentence(inner)}; fix it") from error
        raise InputError(
            f"{name} cannot be made: {sentence(inner)}{defined_at(make)}; give the arguments that it takes as "
            f"--env-kwargs, or in Python a function that makes it"
        ) from error


def _drawing(entry_point: Any, pictures: bool) -> dict[str, str]:
    """The argument that makes an environment draw itself, where it can."""
    from gymnasium.envs.registration import load_env_creator

    if not pictures:
        return {}
    creator = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    metadata = getattr(creator, "metadata", None)  # functions have none
    draws = isinstance(metadata, dict) and "rgb_array" in (metadata.get("render_modes") or ())
    return {"render_mode": "rgb_array"} if draws else {}


def _own_limit(env: "gymnasium.Env") -> int | None:
    """The time limit that an environment keeps by itself, or a wrapper of it, where it is called as in Gymnasium."""
    limit = env.get_wrapper_attr("_max_episode_steps") if env.has_wrapper_attr("_max_episode_steps") else None
    return limit if isinstance(limit, int) and limit > 0 else None


def _takes_seed(reset: Callable[..., Any]) -> bool:
    """Whether an environment's `reset` can be called as Gymnasium does."""
    try:
        parameters = inspect.signature(reset).parameters.values()
    except (TypeError, ValueError):  # not written in Python
        return True
    return any(one.name == "seed" or one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)


def _shown(value: Any) -> str:
    """What an environment returned, in a few words."""
    if isinstance(value, tuple):
        old = " (as before Gymnasium 0.26)" if len(value) == 4 else ""
        return f"{len(value)} values{old}"
    if isinstance(value, np.ndarray) and value.size > 1:
        return f"an array of shape {value.shape}"
    return short(value)


def _boxes(space: "spaces.Space", *, name: str, key: str = "") -> Iterator[tuple[str, int]]:
    """The (key, size) of every Box in an observation space, in the order in which Gymnasium flattens them."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        for part, inner in space.spaces.items():
            yield from _boxes(inner, name=name, key=f"{key}/{part}" if key else str(part))
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
    if 0 in space.shape:
        raise InputError(f"{what} has no numbers: its shape is {space.shape}; leave it out of the observation")
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
