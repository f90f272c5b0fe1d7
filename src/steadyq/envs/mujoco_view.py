"""Pictures of MuJoCo models, by `mujoco.Renderer` where OpenGL works and by casting rays where it does not.

Every MuJoCo environment, whatever suite it comes from, has an `MjModel` and an `MjData`; both ways of drawing need only
these and a camera. Nothing here touches OpenGL before the first picture is asked for.
"""

import atexit
import importlib
import logging
import os
import platform
import subprocess
import sys
from functools import cache
from typing import Any, Literal
from unittest.mock import patch
from weakref import WeakSet

import numpy as np

from steadyq.errors import InputError

Backend = Literal["egl", "glfw", "osmesa", "cgl", "software"]

_OFF = ("disable", "disabled", "off", "false", "0")  # what MuJoCo takes for "no OpenGL" in MUJOCO_GL
_TRIAL = """
import sys, mujoco
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><geom size="1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 64, 64) as renderer:
    renderer.update_scene(data)
    drawn = renderer.render().any()
sys.exit(not drawn)
"""


_LOGGER = logging.getLogger("absl")  # where dm_control sends MuJoCo's warnings


def start_mujoco() -> None:
    """Import MuJoCo, with its warnings in Python's log; by itself it writes them to a file in the working directory.

    Raises:
        InputError: the environment variable MUJOCO_GL names an OpenGL that does not work here.
    """
    try:
        import mujoco
    except Exception as error:  # an OpenGL library that is broken raises anything
        refuse_mujoco_gl(error)
        raise
    mujoco.set_mju_user_warning(_LOGGER.warning)
    if _is_of_use not in _LOGGER.filters:
        _LOGGER.addFilter(_is_of_use)


def refuse_mujoco_gl(error: Exception) -> None:
    """Blame MUJOCO_GL for an import that failed, if it was set."""
    wish = os.environ.get("MUJOCO_GL")
    if wish is not None:
        raise InputError(f"MuJoCo does not start with MUJOCO_GL={wish} ({error!r}); unset the variable") from error


def _is_of_use(record: logging.LogRecord) -> bool:
    """Drop what users cannot change: the cheetahs of both suites are written in MuJoCo's old language."""
    return "attribute 'settotalmass' is deprecated" not in record.getMessage()


def _candidates() -> list[Backend]:
    """The OpenGL back ends worth a trial here: the one MUJOCO_GL names, else what such a machine usually has."""
    wish = os.environ.get("MUJOCO_GL", "").lower().strip()
    if wish in _OFF:
        return []
    known: tuple[Backend, ...] = ("egl", "glfw", "osmesa", "cgl")
    if wish in known:
        return [name for name in known if name == wish]
    if platform.system() == "Darwin":
        return ["cgl"]
    if platform.system() == "Windows":
        return ["glfw"]
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return ["egl", "glfw"] if display else ["egl"]  # OSMesa prints a traceback at exit: only for those who ask for it


@cache
def backend() -> Backend:
    """What draws the pictures on this machine: the first OpenGL back end that passes a trial, else `"software"`.

    The trial draws a picture in a process of its own, because a broken OpenGL library can take the whole process with
    it. The environment variable `MUJOCO_GL` decides as it does for MuJoCo: `egl`, `glfw`, `osmesa`, or `disabled` for
    software.
    """
    for name in _candidates():
        trial = [sys.executable, "-c", _TRIAL]
        try:
            done = subprocess.run(
                trial, env={**os.environ, "MUJOCO_GL": name}, capture_output=True, timeout=60, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            return name
    return "software"


class View:
    """One model seen through one camera.

    Args:
        model: the `mujoco.MjModel`.
        camera: the `mujoco.MjvCamera` to look through.
    """

    def __init__(self, model: Any, camera: Any):
        self._model, self._camera = model, camera
        self._context: Any = None
        self._renderer: Any = None
        self._made_for: tuple[int, int, bytes] | None = None

    def picture(self, data: Any, *, height: int, width: int) -> np.ndarray:
        """Draw `data` (a `mujoco.MjData`) as uint8 [H, W, 3]."""
        if backend() == "software":
            from steadyq.envs.raycast import draw

            return draw(self._model, data, self._camera, height=height, width=width)
        wanted = (height, width, self._model.hfield_data.tobytes())  # tasks make new terrain, which is in the driver
        if wanted != self._made_for:
            self.close()
            self._open(height=height, width=width)
            self._made_for = wanted
        self._renderer.update_scene(data, self._camera)
        return self._renderer.render()

    def _open(self, *, height: int, width: int) -> None:
        """Start MuJoCo's renderer with the back end that passed its trial; by itself it takes the one of its import."""
        import mujoco
        from mujoco.rendering.classic import gl_context

        buffer = self._model.vis.global_
        buffer.offheight, buffer.offwidth = max(buffer.offheight, height), max(buffer.offwidth, width)
        context = self._context = importlib.import_module(f"mujoco.{backend()}").GLContext(width, height)
        with patch.object(gl_context, "GLContext", lambda width, height: context):
            self._renderer = mujoco.Renderer(self._model, height, width)
        if not _open:
            # Python's exit runs this before MuJoCo ends its display (last registered, first run): a context freed
            # later than that prints a traceback.
            atexit.register(_close_all)
        _open.add(self)

    def close(self) -> None:
        """Free what the OpenGL driver holds; the next picture makes it anew."""
        if self._renderer is not None:
            self._context.make_current()  # it may be another view's, whose objects would be freed
            self._renderer.close()
            self._context = self._renderer = self._made_for = None
            _open.discard(self)


_open: WeakSet[View] = WeakSet()


def _close_all() -> None:
    for view in list(_open):
        view.close()
