"""Pictures of behaviour: an episode as frames, frames as a video or as a film strip."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from steadyq import output
from steadyq.envs.env import Env, Spec
from steadyq.envs.mujoco_view import backend as backend  # what draws MuJoCo here
from steadyq.errors import InputError

ENDLESS = 1_000
"""Agent steps recorded of an episode that no time limit ends."""

_WIDEST = 1_600  # pixels of a film strip
_GAP, _MARGIN = 4, 12  # pixels


def record(
    env: Env,
    act: Callable[[np.ndarray], np.ndarray],
    *,
    seed: int,
    height: int = 240,
    width: int = 320,
    every: int = 1,
) -> tuple[list[np.ndarray], float]:
    """Play one episode and draw it.

    Args:
        env: the environment; left wherever the episode ends.
        act: `obs[O] -> action[A]`.
        seed: names the start.
        height: pixels of a frame.
        width: pixels of a frame.
        every: agent steps between frames.

    Returns:
        The frames, uint8 [H, W, 3] each, the first before any step; and the sum of the rewards.

    Raises:
        InputError: the environment cannot be drawn here.
    """
    steps = ENDLESS if env.spec.episode_frames is None else None
    obs, ret, length, ended = env.reset(seed), 0.0, 0, False
    frames = [env.render(height=height, width=width)]
    while not ended and length != steps:
        step = env.step(act(obs))
        obs, ret, length, ended = step.obs, ret + step.reward, length + 1, step.terminated or step.truncated
        if length % every == 0:
            frames.append(env.render(height=height, width=width))
    return frames, ret


def frames_per_second(spec: Spec, *, every: int = 1) -> float:
    """How many frames `record` draws per second of the environment's time; 30 where it has no clock."""
    return 1 / (spec.frame_seconds * spec.action_repeat * every) if spec.frame_seconds else 30.0


def video(frames: Sequence[np.ndarray], path: Path | str, *, fps: float) -> None:
    """Write frames as an MP4 that every browser plays (H.264, 4:2:0).

    Raises:
        InputError: no frames, or a place that cannot be written.
    """
    import imageio.v3

    _prepare(frames, Path(path))
    height, width = frames[0].shape[:2]
    even = ((0, height % 2), (0, width % 2), (0, 0))  # 4:2:0 halves both sides
    imageio.v3.imwrite(
        path,
        np.stack([np.pad(frame, even, mode="edge") for frame in frames]),
        extension=".mp4",
        plugin="FFMPEG",
        fps=fps,
        codec="libx264",
        pixelformat="yuv420p",
        macro_block_size=2,
        ffmpeg_log_level="error",
    )


def film_strip(
    frames: Sequence[np.ndarray], path: Path | str, *, fps: float, title: str = "", count: int = 8, columns: int = 4
) -> None:
    """Write `count` frames, evenly spaced in time, as one PNG of at most 1,600 pixels' width.

    Args:
        frames: uint8 [H, W, 3] each.
        path: the file.
        fps: frames per second, for the time written on each.
        title: one line above the frames.
        count: how many to show, the first and the last among them; all of them if there are fewer.
        columns: how many side by side.

    Raises:
        InputError: no frames, or a place that cannot be written.
    """
    from PIL import Image, ImageDraw, ImageFont

    _prepare(frames, Path(path))
    chosen = np.unique(np.linspace(0, len(frames) - 1, count).round().astype(int))
    columns = min(columns, len(chosen))
    height, width = frames[0].shape[:2]
    scale = min(1.0, (_WIDEST - 2 * _MARGIN - (columns - 1) * _GAP) / columns / width)
    height, width = int(height * scale), int(width * scale)
    rows, large, small = -(-len(chosen) // columns), ImageFont.load_default(20), ImageFont.load_default(13)
    top = _MARGIN + (32 if title else 0)
    size = (
        2 * _MARGIN + columns * width + (columns - 1) * _GAP,
        top + rows * height + (rows - 1) * _GAP + _MARGIN,
    )
    strip = Image.new("RGB", size, "white")
    brush = ImageDraw.Draw(strip, "RGBA")
    brush.text((_MARGIN, _MARGIN - 2), title, font=large, fill=(32, 36, 44))
    for place, number in enumerate(chosen):
        row, column = divmod(place, columns)
        x, y = _MARGIN + column * (width + _GAP), top + row * (height + _GAP)
        strip.paste(Image.fromarray(frames[number]).resize((width, height), Image.Resampling.LANCZOS), (x, y))
        label = f"{number / fps:.1f} s"
        corner = (x + 6, y + height - 24, x + 16 + brush.textlength(label, font=small), y + height - 6)
        brush.rounded_rectangle(corner, radius=5, fill=(0, 0, 0, 130))
        brush.text((x + 11, y + height - 15), label, font=small, fill="white", anchor="lm")
    strip.save(path, format="PNG", optimize=True)


def _prepare(frames: Sequence[np.ndarray], path: Path) -> None:
    if not len(frames):
        raise InputError(f"there are no frames to write to {path}; record at least one")
    output.check(path)
    path.parent.mkdir(parents=True, exist_ok=True)
