"""Pictures: the camera sees what is there, software and OpenGL agree, films have their length and their times."""

import subprocess
import sys

import gymnasium
import imageio_ffmpeg
import mujoco
import numpy as np
import pytest
from PIL import Image

from steadyq.envs import film, mujoco_view, raycast, suites
from steadyq.envs.env import EnvError
from steadyq.envs.guard import Guarded
from steadyq.envs.mujoco_view import View
from steadyq.errors import InputError

RED, GREEN, BLUE = [255, 0, 0], [0, 255, 0], [0, 0, 255]
SCENE = """
<mujoco>
  <visual><headlight ambient="1 1 1" diffuse="0 0 0" specular="0 0 0"/></visual>
  <worldbody>
    <camera name="c" pos="0 -4 0" xyaxes="1 0 0 0 0 1" fovy="53.13010235"/>
    <geom type="sphere" size=".4" pos="-1 0 0" rgba="1 0 0 1"/>
    <body pos="1 0 0">
      <geom type="box" size=".4 .4 .4" rgba="0 1 0 1" mass="1"/>
      <geom type="sphere" size=".2" pos="0 0 .8" rgba="0 1 0 1" contype="0" conaffinity="0" mass="1"/>
    </body>
    <site type="sphere" size=".3" pos="0 0 1" rgba="0 0 1 1"/>
    <site type="box" size=".3 .3 .3" pos="-1.25 1 0" rgba="0 0 1 1"/>
    <geom type="sphere" size=".3" pos="0 0 -1" rgba="0 0 1 1" group="4"/>
    <geom type="sphere" size=".3" pos="-1.25 1 0" rgba="0 0 1 1"/>
  </worldbody>
</mujoco>
"""


@pytest.fixture
def software(monkeypatch):
    monkeypatch.setattr(mujoco_view, "backend", lambda: "software")


def view(xml):
    model = mujoco.MjModel.from_xml_string(xml)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    camera = mujoco.MjvCamera()
    camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, 0
    return model, data, View(model, camera)


class Drawn(gymnasium.Env):
    """Draws what the test asks for, or raises."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012, as in Gymnasium
    observation_space = action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    picture = np.zeros((4, 6, 3), np.uint8)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def render(self):
        if self.picture is None:
            raise ValueError("no camera")
        return self.picture


@pytest.mark.parametrize(
    ("picture", "error", "words"),
    [
        (None, EnvError, "failed in its render: ValueError: no camera"),
        (np.zeros((4, 6, 3)), InputError, r"draws pictures of type float64 and shape \(4, 6, 3\); let its render"),
        (np.zeros((4, 6, 1), np.uint8), InputError, r"of type uint8 and shape \(4, 6, 1\); let its render"),
        (np.zeros((4, 6), np.uint8), InputError, "draws no pictures of itself"),
    ],
)
def test_a_picture_that_is_none_is_one_sentence(monkeypatch, picture, error, words):
    monkeypatch.setattr(Drawn, "picture", picture)
    env = Guarded(lambda: suites.make(Drawn, pictures=True))
    env.reset(seed=0)
    with pytest.raises(error, match=words):
        env.render(height=4, width=6)


def test_a_picture_may_have_an_alpha_channel(monkeypatch):
    monkeypatch.setattr(Drawn, "picture", np.zeros((4, 6, 4), np.uint8))
    env = Guarded(lambda: suites.make(Drawn, pictures=True))
    env.reset(seed=0)
    assert env.render(height=4, width=6).shape[:2] == (4, 6)


@pytest.mark.usefixtures("software")
def test_software_draws_each_thing_where_the_camera_sees_it():
    _, data, scene = view(SCENE)
    picture = scene.picture(data, height=200, width=400).astype(int)
    assert picture.shape == (200, 400, 3)

    # The tangent of half the field of view is 0.5: a point at distance 4 is 50 pixels from the middle per unit.
    assert picture[100, 150].tolist() == RED
    assert picture[100, 250].tolist() == GREEN
    assert picture[60, 250].tolist() == GREEN  # does not collide, and is drawn all the same
    assert picture[50, 200].tolist() == BLUE  # the site
    assert picture[150, 200].tolist() == [0, 0, 0]  # group 4 is hidden

    # Outlines: a sphere of radius 0.4 at distance 4 and a cube whose front is at 3.6. What is behind them stays hidden.
    red, green, blue = ((picture == colour).all(-1) for colour in (RED, GREEN, BLUE))
    disc = np.pi * (0.4 * 50) ** 2
    assert red[:, :200].sum() == pytest.approx(disc, rel=0.1)
    assert not blue[:, :180].any()
    side = 2 * 0.4 * 200 / 3.6
    assert green[75:, 200:].sum() == pytest.approx(side**2, rel=0.15)  # and a little of its side


@pytest.mark.usefixtures("software")
def test_a_light_shades_and_casts_a_shadow():
    xml = """<mujoco><visual><headlight ambient=".2 .2 .2" diffuse="0 0 0" specular="0 0 0"/></visual><worldbody>
    <light pos="0 0 5" dir="0 0 -1" directional="{}" castshadow="{}" diffuse=".6 .6 .6" specular="0 0 0" cutoff="80"/>
    <camera pos="0 -8 6" xyaxes="1 0 0 0 .6 .8"/>
    <geom type="plane" size="9 9 1" rgba="1 1 1 1"/><geom size=".5" pos="0 0 2" rgba="1 1 1 1"/></worldbody></mujoco>"""
    for directional in ("true", "false"):
        _, data, scene = view(xml.format(directional, "true"))
        dark = scene.picture(data, height=120, width=160).astype(float).mean(-1)
        _, data, scene = view(xml.format(directional, "false"))
        light = scene.picture(data, height=120, width=160).astype(float).mean(-1)
        shadow = light - dark > 50
        assert 50 < shadow.sum() < 2000  # on the floor, below the ball
        assert abs(np.argwhere(shadow)[:, 1].mean() - 79.5) < 1
        np.testing.assert_allclose(dark[shadow & (dark == np.median(dark[shadow]))], 51, atol=1)  # ambient is left


@pytest.mark.usefixtures("software")
def test_drawing_leaves_the_simulation_alone():
    drawn, plain = suites.make("finger-turn_hard"), suites.make("finger-turn_hard")
    drawn.reset(0), plain.reset(0)
    for action in np.random.default_rng(0).uniform(-1, 1, (5, 2)).astype(np.float32):
        drawn.render(height=12, width=16)
        assert drawn.step(action).obs.tobytes() == plain.step(action).obs.tobytes()
    mine, theirs = drawn._env.physics.model, plain._env.physics.model
    assert mine.bvh_aabb.tobytes() == theirs.bvh_aabb.tobytes()


@pytest.mark.parametrize("name", ["walker-run", "cheetah-run", "dog-run", "ball_in_cup-catch", "HalfCheetah-v5"])
def test_software_agrees_with_opengl(name, monkeypatch):
    if mujoco_view.backend() == "software":
        pytest.skip("no OpenGL here to compare with")
    env = suites.make(name)
    env.reset(0)
    opengl = env.render(height=90, width=120).astype(float)
    monkeypatch.setattr(mujoco_view, "backend", lambda: "software")
    software = env.render(height=90, width=120).astype(float)
    env.close()
    assert np.abs(opengl - software).mean() < 8  # of 255; nothing drawn at all differs by 50
    assert opengl.std() > 15  # there is something to see


def test_opengl_pictures_can_grow():
    env = suites.make("pendulum-swingup")
    env.reset(0)
    assert env.render(height=30, width=40).shape == (30, 40, 3)
    assert env.render(height=700, width=900).shape == (700, 900, 3)  # beyond MuJoCo's default buffer
    env.close()
    assert env.render(height=30, width=40).std() > 0


def test_opengl_shows_new_terrain_and_another_view_does_not_mind_that_one_closes():
    if mujoco_view.backend() == "software":
        pytest.skip("no OpenGL here")
    xml = """<mujoco><asset><hfield name="h" nrow="2" ncol="2" size="1 1 1 .1"/></asset><worldbody>
    <camera pos="0 -4 0" xyaxes="1 0 0 0 0 1"/><geom type="hfield" hfield="h"/></worldbody></mujoco>"""
    model, data, scene = view(xml)
    low = scene.picture(data, height=30, width=40)
    _, still, other = view(SCENE)
    before = other.picture(still, height=30, width=40)
    model.hfield_data[:] = 1
    high = scene.picture(data, height=30, width=40)
    assert (high != low).any(-1).sum() > 50
    scene.close()
    assert (other.picture(still, height=30, width=40) == before).all()
    other.close()


@pytest.mark.parametrize("off", ["disabled", "off", "0"])
def test_mujoco_gl_can_ask_for_software(off, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", off)
    assert mujoco_view.backend.__wrapped__() == "software"


@pytest.mark.skipif(sys.platform == "darwin", reason="has cgl")
def test_a_back_end_that_fails_its_trial_is_not_used(monkeypatch, capfd):
    monkeypatch.setenv("MUJOCO_GL", "cgl")
    assert mujoco_view.backend.__wrapped__() == "software"
    assert capfd.readouterr() == ("", "")


class Painted(gymnasium.Env):
    """Draws its step count as a grey of 100 x 50 pixels; ends at step 6."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012, Gymnasium's way
    observation_space = action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self, *, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(1, np.float32), 0.5, self.steps == 6, False, {}

    def render(self):
        return np.full((50, 100, 3), 10 * self.steps, np.uint8)


class Unseen(Painted):
    metadata = {"render_modes": []}  # noqa: RUF012


class Endless(Painted):
    def step(self, action):
        return (*super().step(action)[:2], False, False, {})


gymnasium.register("Painted-v0", Painted, max_episode_steps=9)
gymnasium.register("Unseen-v0", Unseen)
gymnasium.register("Endless-v0", Endless)


def still(obs):
    return np.zeros(1, np.float32)


def test_record_draws_the_start_and_every_so_many_steps():
    assert suites.make("Painted-v0")._env.render_mode is None  # a picture may cost a window
    env = suites.make("Painted-v0", pictures=True)
    frames, ret = film.record(env, still, seed=0, height=30, width=40, every=2)
    assert [int(frame[15, 20, 0]) for frame in frames] == [0, 20, 40, 60]
    assert all(frame.shape == (30, 40, 3) and frame.dtype == np.uint8 for frame in frames)
    assert ret == 3.0
    frames, ret = film.record(env, still, seed=0)
    assert (len(frames), frames[0].shape, ret) == (7, (240, 320, 3), 3.0)
    assert film.frames_per_second(env.spec, every=2) == 10
    assert film.frames_per_second(env.spec._replace(frame_seconds=None)) == 30


def test_record_of_an_endless_episode_ends(monkeypatch):
    monkeypatch.setattr(film, "ENDLESS", 11)
    assert len(film.record(suites.make("Endless-v0", pictures=True), still, seed=0, height=4, width=4)[0]) == 12


def test_what_cannot_draw_itself_is_refused(monkeypatch):
    unseen = suites.make("Unseen-v0", pictures=True)
    unseen.reset(0)
    with pytest.raises(InputError, match="rgb_array"):
        unseen.render(height=30, width=40)

    monkeypatch.setitem(sys.modules, "pygame", None)  # as if it were not installed
    pendulum = suites.make("Pendulum-v1", pictures=True)
    pendulum.reset(0)
    with pytest.raises(InputError, match="pip install"):
        pendulum.render(height=30, width=40)


def moving(n, *, height=31, width=45):
    """Grey frames that get lighter."""
    return [np.full((height, width, 3), 5 * number, np.uint8) for number in range(n)]


def test_a_video_has_every_frame_and_even_sides(tmp_path):
    film.video(moving(12), tmp_path / "v.mp4", fps=12.5)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", tmp_path / "v.mp4", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    told = subprocess.run(command, capture_output=True, check=True)
    read = np.frombuffer(told.stdout, np.uint8).reshape(-1, 32, 46, 3)
    assert len(read) == 12
    assert np.abs(read.mean((1, 2, 3)) - 5 * np.arange(12)).max() < 6
    stream = next(line for line in told.stderr.decode().splitlines() if "Video: " in line)
    assert all(word in stream for word in ("h264", "yuv420p", "46x32", "12.50 fps"))


def test_a_film_strip_shows_evenly_spaced_moments(tmp_path):
    film.film_strip(moving(31, height=60, width=80), tmp_path / "s.png", fps=10, title="t", count=4, columns=2)
    with Image.open(tmp_path / "s.png") as image:
        strip = np.asarray(image)
    places = [(44 + 30, 12 + 40), (44 + 30, 12 + 84 + 40), (44 + 64 + 30, 12 + 40), (44 + 64 + 30, 12 + 84 + 40)]
    assert [int(strip[place][0]) for place in places] == [0, 50, 100, 150]
    assert strip.shape == (44 + 60 + 4 + 60 + 12, 12 + 80 + 4 + 80 + 12, 3)


def test_a_film_strip_is_never_wider_than_it_may_be_and_takes_few_frames(tmp_path):
    for columns in (3, 4, 8):
        frames = moving(8, height=240, width=640)
        film.film_strip(frames, tmp_path / "s.png", fps=10, columns=columns)
        with Image.open(tmp_path / "s.png") as strip:
            assert 1590 < strip.size[0] <= 1600
    film.film_strip(moving(1), tmp_path / "one.png", fps=10)
    with Image.open(tmp_path / "one.png") as strip:
        assert strip.size == (45 + 24, 31 + 24)


@pytest.mark.parametrize("write", [film.video, film.film_strip])
def test_nothing_to_write_and_nowhere_to_write_to_are_refused(write, tmp_path):
    with pytest.raises(InputError, match="no frames"):
        write([], tmp_path / "x", fps=10)
    with pytest.raises(InputError, match="is a folder"):
        write(moving(2), tmp_path, fps=10)


@pytest.mark.parametrize(("write", "name"), [(film.video, "x.mp4"), (film.film_strip, "x.png")])
def test_folders_on_the_way_to_a_picture_are_made(write, name, tmp_path):
    path = tmp_path / "new" / "folder" / name
    write(moving(2), path, fps=10)
    assert path.stat().st_size


def test_a_checkered_floor_is_in_register_with_opengls():
    """Squares of 1 m from the corner of a plane of 3 m: the texture's two shades alternate there."""
    xml = """<mujoco><asset>
    <texture name="t" type="2d" builtin="checker" rgb1="1 0 0" rgb2="0 0 1" width="64" height="64"/>
    <material name="m" texture="t" texrepeat="1 1" texuniform="true"/></asset>
    <visual><headlight ambient="1 1 1" diffuse="0 0 0" specular="0 0 0"/></visual><worldbody>
    <camera pos="0 0 6" fovy="53.13010235"/><geom type="plane" size="3 3 1" material="m"/></worldbody></mujoco>"""
    model, data, scene = view(xml)
    picture = raycast.draw(model, data, scene._camera, height=120, width=120)
    squares = picture[10::20, 10::20, 0] > 128  # the middles of 6 x 6 squares
    assert (squares[1:] != squares[:-1]).all()
    assert (squares[:, 1:] != squares[:, :-1]).all()
    if mujoco_view.backend() != "software":
        opengl = scene.picture(data, height=120, width=120)
        np.testing.assert_array_equal(opengl[10::20, 10::20, 0] > 128, squares)
    scene.close()
