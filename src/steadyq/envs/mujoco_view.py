"""Pictures of MuJoCo models, with OpenGL where it works and by casting rays where it does not.

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
from weakref import WeakSet

import numpy as np

from steadyq.errors import InputError

Backend = Literal["egl", "glfw", "osmesa", "cgl", "software"]

_OFF = ("disable", "disabled", "off", "false", "0")  # what MuJoCo takes for "no OpenGL" in MUJOCO_GL
_TRIAL = """
import importlib, sys, mujoco
context = importlib.import_module("mujoco." + sys.argv[1]).GLContext(64, 64)
context.make_current()
renderer = mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), 150)
mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, renderer)
works = renderer.currentBuffer == mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value
renderer.free()
context.free()
sys.exit(not works)
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

    The trial makes a context and a frame buffer in a process of its own, because a broken OpenGL library can take the
    whole process with it. The environment variable `MUJOCO_GL` decides as it does for MuJoCo: `egl`, `glfw`, `osmesa`,
    or `disabled` for software.
    """
    for name in _candidates():
        trial = [sys.executable, "-c", _TRIAL, name]
        environment = {**os.environ, "MUJOCO_GL": "disabled"}  # the trial imports its back end itself
        try:
            done = subprocess.run(trial, env=environment, capture_output=True, timeout=60, check=False)
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
        import mujoco

        self._model, self._camera = model, camera
        self._options = mujoco.MjvOption()
        self._scene = mujoco.MjvScene(model, maxgeom=10_000)
        self._opengl: _OpenGL | None = None

    def picture(self, data: Any, *, height: int, width: int) -> np.ndarray:
        """Draw `data` (a `mujoco.MjData`) as uint8 [H, W, 3]."""
        import mujoco

        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(self._model, data, self._options, None, self._camera, everything, self._scene)
        if backend() == "software":
            from steadyq.envs.raycast import draw

            return draw(self._model, data, self._scene, height=height, width=width)
        if self._opengl is None or not self._opengl.fits(height=height, width=width):
            self.close()
            self._opengl = _OpenGL(self._model, height=height, width=width)
        return self._opengl.draw(self._scene, height=height, width=width)

    def close(self) -> None:
        """Free what the OpenGL driver holds; the next picture makes it anew."""
        if self._opengl is not None:
            self._opengl.close()
            self._opengl = None


class _OpenGL:
    """MuJoCo's own renderer in an offscreen buffer of at least `height` x `width`."""

    def __init__(self, model: Any, *, height: int, width: int):
        import mujoco

        buffer = model.vis.global_
        buffer.offheight, buffer.offwidth = max(buffer.offheight, height), max(buffer.offwidth, width)
        self._model, self._height, self._width = model, buffer.offheight, buffer.offwidth
        self._context = importlib.import_module(f"mujoco.{backend()}").GLContext(self._width, self._height)
        self._context.make_current()
        self._renderer = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._renderer)
        if not _open:
            # Python's exit runs this before MuJoCo ends its display (last registered, first run): a context freed
            # later than that prints a traceback.
            atexit.register(_close_all)
        _open.add(self)

    def fits(self, *, height: int, width: int) -> bool:
        return height <= self._height and width <= self._width

    def draw(self, scene: Any, *, height: int, width: int) -> np.ndarray:
        import mujoco

        self._context.make_current()
        for i in range(self._model.nhfield):
            mujoco.mjr_uploadHField(self._model, self._renderer, i)  # tasks draw new terrain at every reset
        area = mujoco.MjrRect(0, 0, width, height)
        upside_down = np.empty((height, width, 3), np.uint8)
        mujoco.mjr_render(area, scene, self._renderer)
        mujoco.mjr_readPixels(upside_down, None, area, self._renderer)
        return np.ascontiguousarray(upside_down[::-1])

    def close(self) -> None:
        self._context.make_current()
        self._renderer.free()
        self._context.free()
        _open.discard(self)


_open: WeakSet[_OpenGL] = WeakSet()


def _close_all() -> None:
    for opengl in list(_open):
        opengl.close()
