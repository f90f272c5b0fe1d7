"""Policies that leave the lab: the same answers in every form, for every recipe; bad input refused before a file is."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import onnx
import pytest
import torch

import steadyq
from runs import run_at
from small import ACTION, OBS, small
from steadyq.algorithm.recipes import RECIPES
from steadyq.algorithm.tree import tree_map
from steadyq.cli.main import main
from steadyq.deploy import Policy, Spec, export
from steadyq.deploy.load import policy_of
from steadyq.deploy.policy import KEY, Part, Program, from_npz, from_onnx, to_npz
from steadyq.deploy.program import trace
from steadyq.errors import InputError
from steadyq.store import checkpoint
from steadyq.store.folder import returns, seed_folder
from steadyq.store.record import read_record
from steadyq.store.snapshot import agent_of, load_state

ROOT = Path(__file__).parents[1]
LOW, HIGH = [-0.5, -3.0], [2.0, -1.0]
OBSERVATIONS = [Part("arm", 3), Part("base/height", 1)]


class Arm(gymnasium.Env):
    """Observations in a Dict of Dicts, actions in a box that is nowhere symmetric, and a rate."""

    observation_space = gymnasium.spaces.Dict(
        arm=gymnasium.spaces.Box(-np.inf, np.inf, (3,)),
        base=gymnasium.spaces.Dict(height=gymnasium.spaces.Box(-np.inf, np.inf, ())),
    )
    action_space = gymnasium.spaces.Box(np.float32(LOW), np.float32(HIGH))
    metadata = {"render_modes": [], "render_fps": 50}  # noqa: RUF012, as Gymnasium has it

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        return self._look(), {}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        return self._look() | {"arm": self.np_random.standard_normal(3).astype(np.float32)}, 0.0, False, False, {}

    def _look(self) -> dict:
        return {
            "arm": np.zeros(3, np.float32),
            "base": {"height": np.array(self.np_random.standard_normal(), np.float32)},
        }


gymnasium.register("Arm-v0", entry_point=Arm, max_episode_steps=20)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run of two seeds, with evaluations at 0, 40, 80 and 90 frames."""
    return run_at(tmp_path_factory.mktemp("run") / "arm", env="Arm-v0", seeds=(3, 4), action_repeat=2).folder


@pytest.fixture(scope="module")
def policy(run: Path) -> Policy:
    return steadyq.load_policy(run)


def observations(count: int, size: int = 4) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((count, size)).astype(np.float32)


def moved(tree: Any, seed: int) -> Any:
    """Every number another one, variances still positive."""
    rng = np.random.default_rng(seed)
    return tree_map(lambda leaf: leaf + torch.from_numpy(np.asarray(rng.uniform(-0.3, 0.3, leaf.shape))).to(leaf), tree)


def in_units(unit: np.ndarray) -> np.ndarray:
    """Actions of [-1, 1] in the box, by a loop over its sides."""
    sides = [low + (a + 1) * (high - low) / 2 for a, low, high in zip(unit, LOW, HIGH, strict=True)]
    return np.array(sides)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_answers_the_same_in_every_form(recipe: str) -> None:
    """Against the agent's own mean action, one observation at a time, with no number as it was at the start."""
    _, agent, state = small(recipe)
    actor = state.actor._replace(params=moved(state.actor.params, 1), stats=moved(state.actor.stats, 2))
    state = state._replace(actor=actor, normalise=moved(state.normalise, 3))
    spec = Spec([Part("all", OBS)], LOW, HIGH, None, {})
    obs = 2 * observations(50, OBS) + 1
    wanted = np.array([in_units(agent.mode(state, torch.from_numpy(row)).numpy()) for row in obs])
    program = trace(agent, state, spec)
    forms = (
        policy_of(agent, state, spec),
        from_npz(to_npz(spec, program), source="x"),
        from_onnx(export.to_onnx(spec, program), source="x"),
    )
    assert wanted.std(0).min() > 1e-2  # the observation matters
    for form in forms:
        got = form(obs)
        assert got.dtype == np.float32
        assert got.shape == (50, ACTION)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-5)
        np.testing.assert_allclose(form(obs[7]), wanted[7], rtol=0, atol=2e-5)


def test_normalisers_end_up_in_the_linear_layers() -> None:
    for recipe, wanted in (("crossq_wn", ["sub", *["linear", "relu"] * 2]), ("sac", ["linear", "relu"] * 2)):
        _, agent, state = small(recipe)
        steps = trace(agent, state, Spec([Part("all", OBS)], LOW, HIGH, None, {})).steps
        assert [step[0] for step in steps] == [*wanted, "linear", "tanh", "mul", "add", "max", "min"]


def test_an_observation_far_from_zero_keeps_its_digits() -> None:
    """Its running mean is taken off before anything is multiplied."""
    _, agent, state = small("simba")
    moments = state.normalise
    obs = 1e4 + 0.01 * observations(20, OBS)
    near = moments._replace(mean=torch.full((OBS,), 1e4), var=torch.full((OBS,), 1e-4))
    spec = Spec([Part("all", OBS)], LOW, HIGH, None, {})
    state = state._replace(normalise=near)
    forms = policy_of(agent, state, spec), from_npz(to_npz(spec, trace(agent, state, spec)), source="x")
    np.testing.assert_allclose(forms[0](obs), forms[1](obs), rtol=0, atol=1e-5)


def test_what_no_recipe_computes_is_refused() -> None:
    _, agent, state = small("sac")
    strange = agent._replace(mode=lambda state, obs: agent.mode(state, obs.sin()))
    with pytest.raises(InputError, match=r"computes aten\.sin\.default, which cannot be exported"):
        trace(strange, state, Spec([Part("all", OBS)], LOW, HIGH, None, {}))


def test_a_run_knows_its_bounds_and_its_rate(run: Path, policy: Policy) -> None:
    record = read_record(run)
    assert (record.action_low, record.action_high, record.step_seconds) == (LOW, HIGH, 2 / 50)
    assert policy.spec.observations == OBSERVATIONS
    assert (policy.spec.action_low, policy.spec.action_high, policy.spec.step_seconds) == (LOW, HIGH, 0.04)
    trained = policy.spec.trained
    assert trained["recipe"] == "crossq_wn"
    assert (trained["env"], trained["seed"], trained["frame"]) == ("Arm-v0", 3, 90)


def test_no_environment_is_needed(run: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(gymnasium.registry, "Arm-v0")
    np.testing.assert_array_equal(steadyq.load_policy(run)(observations(1)), policy(observations(1)))


@pytest.mark.parametrize(("checkpoint", "frame"), [("last", 90), (40, 40), ("80", 80), ("best", None)])
def test_the_policy_is_the_agent_of_that_checkpoint(run: Path, checkpoint: str | int, frame: int | None) -> None:
    record = read_record(run)
    policy = steadyq.load_policy(run, seed=4, checkpoint=checkpoint)
    state, found = load_state(run, record, seed=4, which=str(checkpoint))
    assert frame in (None, found)
    obs = observations(1)[0]
    wanted = in_units(agent_of(record).mode(state, torch.from_numpy(obs)).numpy())
    np.testing.assert_allclose(policy(obs), wanted, rtol=0, atol=1e-6)
    assert policy.spec.trained["return"] == returns(run, 4).get(found)
    other = steadyq.load_policy(run, seed=3, checkpoint=checkpoint)
    assert not np.allclose(policy(obs), other(obs))


def test_one_observation_a_batch_and_dicts_in_any_order(policy: Policy) -> None:
    obs = observations(3)
    wanted = policy(obs)
    assert wanted.shape == (3, 2)
    for row, action in zip(obs, wanted, strict=True):
        for one in (row, list(row), row.astype(np.float64), {"base": {"height": row[3]}, "arm": row[:3], "more": "x"}):
            got = policy(one)
            assert got.shape == (2,)
            np.testing.assert_allclose(got, action, rtol=0, atol=1e-6)
    together = policy({"base/height": obs[:, 3:], "arm": obs[:, :3]})
    np.testing.assert_array_equal(together, wanted)
    assert policy(obs[:1]).shape == policy({"base": {"height": obs[:1, 3:]}, "arm": obs[:1, :3]}).shape == (1, 2)
    assert (wanted >= LOW).all()
    assert (wanted <= HIGH).all()


def test_of_no_observations_there_are_no_actions(policy: Policy, run: Path, tmp_path: Path) -> None:
    none = observations(3)[:0]
    assert policy(none).shape == policy.sample(none, np.random.default_rng(0)).shape == (0, 2)
    assert policy({"base": {"height": np.zeros((0, 1))}, "arm": np.zeros((0, 3))}).shape == (0, 2)
    export.export(run, numpy=tmp_path / "p.npz")
    assert Policy.load(tmp_path / "p.npz")(none).shape == (0, 2)


def test_reset_networks_have_not_the_return_of_those_before(tmp_path: Path) -> None:
    """At a frame with an evaluation and a reset, the evaluation is of the earlier networks, as its snapshot is."""

    def halt(rows: list[steadyq.Row]) -> None:
        if rows[0].metric.startswith("eval_after_reset/"):
            raise LookupError

    run = tmp_path / "run"
    with pytest.raises(LookupError):
        run_at(run, "sac_primacy", reset_frames=80, on_evaluation=halt)
    last, evaluated = steadyq.load_policy(run), steadyq.load_policy(run, checkpoint=80)
    assert last.spec.trained["frame"] == evaluated.spec.trained["frame"] == 80
    assert evaluated.spec.trained["return"] == returns(run, 0)[80]
    assert last.spec.trained["return"] is None


def test_an_action_is_drawn_from_the_policy(run: Path, policy: Policy) -> None:
    record, obs = read_record(run), observations(2)
    noise = np.random.default_rng(9).standard_normal((2, 2), dtype=np.float32)
    state, _ = load_state(run, record, seed=3, which="last")
    unit = agent_of(record).sample(state, torch.from_numpy(obs), torch.from_numpy(noise))[0].numpy()
    drawn = policy.sample(obs, np.random.default_rng(9))
    np.testing.assert_allclose(drawn, [in_units(one) for one in unit], rtol=0, atol=1e-6)
    assert policy.sample(obs[0], np.random.default_rng(9)).shape == (2,)


@pytest.mark.parametrize(
    ("obs", "words"),
    [
        (np.zeros(3), r"has the shape \(3,\); give one of 4 numbers \(arm 3, base/height 1\), or rows"),
        (np.zeros((2, 3)), "has the shape"),
        (np.zeros((2, 2)), "has the shape"),
        (np.zeros((1, 1, 4)), "has the shape"),
        (0.0, "has the shape"),
        ({"arm": np.zeros(3)}, "has no 'base/height'; this policy wants arm, base/height"),
        ({"arm": np.zeros(2), "base": {"height": 0.0}}, "has the shape"),
        ({"arm": np.zeros((2, 3)), "base": {"height": np.zeros((3, 1))}}, "has the shape"),
        ([0, 0, 0, np.nan], "'base/height' is not finite"),
        ([1e39, 0, 0, 0], "'arm' is not finite"),
        ("left", "is no array of numbers"),
        ([[0.0], [0.0, 1.0]], "is no array of numbers"),
        (None, "has the shape"),
    ],
)
def test_a_bad_observation_is_refused(policy: Policy, obs: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        policy(obs)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"seed": 5}, "--seed is 5; this run has 3 4"),
        ({"checkpoint": 41}, "no snapshot at frame 41"),
        ({"checkpoint": "41k"}, "no snapshot at frame 41000"),
        ({"checkpoint": "newest"}, "give last, best or the frame"),
    ],
)
def test_what_a_run_does_not_have_is_refused(run: Path, choice: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        steadyq.load_policy(run, **choice)


def test_export_by_the_command(run: Path, policy: Policy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = tmp_path / "new/policy.onnx", tmp_path / "policy.npz"
    assert main(["export", str(run), str(there[0]), "--numpy", str(there[1]), "--time"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("frame 90 of seed 3; differs from the run's policy by") == 2
    assert re.findall(r"^ ?(run folder \(PyTorch\)|ONNX Runtime|NumPy) +\d+ +\d+", printed, re.M) == [
        "run folder (PyTorch)",
        "ONNX Runtime",
        "NumPy",
    ]
    obs = observations(8)
    for path in there:
        exported = Policy.load(path)
        np.testing.assert_allclose(exported(obs), policy(obs), rtol=0, atol=1e-5)
        np.testing.assert_allclose(exported(obs[0]), policy(obs[0]), rtol=0, atol=1e-5)
        assert exported.spec.observations == OBSERVATIONS
        parity = exported.spec.trained.pop("parity")
        assert 0 <= parity <= export.TOLERANCE
        assert exported.spec.trained.pop("parity_states") == 45  # all that this run has
        assert exported.spec == policy.spec
        with pytest.raises(InputError, match="has its mean action only"):
            exported.sample(obs, np.random.default_rng(0))


def test_the_onnx_file_is_what_other_programs_expect(run: Path, tmp_path: Path) -> None:
    assert main(["export", str(run), str(tmp_path / "p.onnx"), "--seed", "4", "--checkpoint", "40"]) == 0
    model = onnx.load(tmp_path / "p.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 18)]
    sides = {one.name: one.type.tensor_type for one in (*model.graph.input, *model.graph.output)}
    assert sides.keys() == {"obs", "actions"}
    assert all(side.elem_type == onnx.TensorProto.FLOAT for side in sides.values())
    shapes = {name: [axis.dim_param or axis.dim_value for axis in side.shape.dim] for name, side in sides.items()}
    assert shapes == {"obs": ["batch", 4], "actions": ["batch", 2]}
    (entry,) = model.metadata_props
    content = json.loads(entry.value)
    assert entry.key == KEY
    assert content["observations"] == [["arm", 3], ["base/height", 1]]
    assert (content["action_low"], content["action_high"], content["step_seconds"]) == (LOW, HIGH, 0.04)
    wanted = {"recipe", "env", "run", "seed", "commit", "frame", "return", "parity", "parity_states"}
    assert content["trained"].keys() == wanted
    assert (content["trained"]["frame"], content["trained"]["seed"]) == (40, 4)


def test_a_robot_needs_numpy_alone(run: Path, policy: Policy, tmp_path: Path) -> None:
    """In a fresh process: nothing is imported but NumPy, steadyq and the standard library."""
    assert main(["export", str(run), "--numpy", str(tmp_path / "policy.npz")]) == 0
    code = (
        "import sys; before = set(sys.modules)\n"  # what the interpreter starts with, e.g. hooks of installed packages
        "from steadyq.deploy import Policy\n"
        "action = Policy.load(sys.argv[1])([0.5, -0.5, 0.25, 1.0])\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(*action, sorted(name for name in new - sys.stdlib_module_names if 'cython' not in name))\n"
        "assert not {'torch', 'onnxruntime'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "policy.npz"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second, rest = done.stdout.split(maxsplit=2)
    assert rest.strip() == "['numpy', 'steadyq']"
    np.testing.assert_allclose([float(first), float(second)], policy([0.5, -0.5, 0.25, 1.0]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "there is nothing to write; give policy.onnx, or --numpy policy.npz"),
        (["policy.pt"], "policy.pt cannot be written; give a file ending in .onnx"),
        (["--numpy", "policy.pkl"], "policy.pkl cannot be written; give a file ending in .npz"),
        (["--numpy", "folder.npz"], "folder.npz is a folder"),
        (["policy.onnx", "--seed", "7"], "--seed is 7; this run has 3 4"),
        (["policy.onnx", "--checkpoint", "41"], "there is no snapshot at frame 41"),
        (["policy.onnx", "--numpi", "policy.npz"], "unknown option '--numpi'; did you mean '--numpy'"),
    ],
)
def test_bad_choices_write_nothing(
    run: Path,
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.npz").mkdir()
    assert main(["export", str(run), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert [path.name for path in tmp_path.rglob("*")] == ["folder.npz"]


def test_what_differs_is_not_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(*given: object) -> Program:
        program = trace(*given)
        return program._replace(constants={name: 1.001 * array for name, array in program.constants.items()})

    monkeypatch.setattr(export, "trace", wrong)
    assert main(["export", str(run), str(tmp_path / "policy.onnx"), "--numpy", str(tmp_path / "policy.npz")]) == 2
    assert "policy.onnx was not written: its actions would differ from the policy's own by" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_without_the_packages_numpy_still_works(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run), str(tmp_path / "there.onnx")]) == 0
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["export", str(run), str(tmp_path / "policy.onnx")]) == 2
    assert "`pip install onnx onnxruntime`, or give --numpy alone" in capsys.readouterr().err
    assert main(["export", str(run), "--numpy", str(tmp_path / "policy.npz")]) == 0
    with pytest.raises(InputError, match=r"there\.onnx needs the package onnxruntime"):
        Policy.load(tmp_path / "there.onnx")


def test_a_run_without_transitions_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = checkpoint.load(seed_folder(run, 3))
    empty = real._replace(replays={"replay": checkpoint.ReplayFiles(4, 2, 0, [])}, heads={})
    monkeypatch.setattr(checkpoint, "load", lambda *given: empty)
    with pytest.raises(InputError, match="has no transitions yet on which to check"):
        export.states(run, export.load(run, seed=3, checkpoint="40"))


def test_a_damaged_file_is_refused(run: Path, tmp_path: Path) -> None:
    """Cut anywhere, or not there: one sentence."""
    for name in ("policy.onnx", "policy.npz"):
        flags = [str(tmp_path / name)] if name.endswith("x") else ["--numpy", str(tmp_path / name)]
        assert main(["export", str(run), *flags]) == 0
        whole = (tmp_path / name).read_bytes()
        for length in (0, 1, 10, len(whole) // 2, len(whole) - 30):
            (tmp_path / name).write_bytes(whole[:length])
            with pytest.raises(InputError, match=f"{name} is no policy of this version of steadyq"):
                Policy.load(tmp_path / name)
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "device.npz").symlink_to("/dev/zero")
    for name in ("pipe.npz", "device.npz"):
        with pytest.raises(InputError, match=f"{name} is not a file, or too large"):
            Policy.load(tmp_path / name)
    with pytest.raises(InputError, match=r"cannot read the policy .*No such file"):
        Policy.load(tmp_path / "nowhere.npz")


def test_no_changed_byte_goes_unseen(run: Path, tmp_path: Path) -> None:
    """Of an archive the checksums of zip, of an ONNX file a digest over all of it."""
    obs = observations(3)
    assert main(["export", str(run), str(tmp_path / "p.onnx"), "--numpy", str(tmp_path / "p.npz")]) == 0
    for read, name, step in ((from_npz, "p.npz", 61), (from_onnx, "p.onnx", 37)):
        whole = (tmp_path / name).read_bytes()
        wanted, refused = read(whole, source="x")(obs), 0
        for place in range(0, len(whole), step):
            changed = whole[:place] + bytes([whole[place] ^ 0x11]) + whole[place + 1 :]
            try:
                np.testing.assert_array_equal(read(changed, source="x")(obs), wanted)
            except InputError:
                refused += 1
        assert refused > 20
    assert refused == len(range(0, len(whole), step))


def test_a_policy_that_overflows_prints_no_warning() -> None:
    program = Program([["mul", 0, "c"], ["mul", 1, "c"]], {"c": np.full(1, 3e38, np.float32)})
    assert np.isinf(program.run(np.ones((1, 1), np.float32))).all()


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays.pop(KEY),
        lambda arrays: arrays.pop("c0"),
        lambda arrays: arrays.update(c0=arrays["c0"].astype(np.float64)),
        lambda arrays: arrays.update(c0=np.full_like(arrays["c0"], np.nan)),
        lambda arrays: arrays.update(c0=arrays["c0"][:-1]),
        lambda arrays: arrays.update({KEY: np.frombuffer(b"[]", np.uint8)}),
        lambda arrays: arrays.update({KEY: np.frombuffer(b'{"format": 1}', np.uint8)}),
        lambda arrays: arrays.update({KEY: np.array([{}])}),
    ],
)
def test_a_foreign_archive_is_refused(run: Path, tmp_path: Path, change: object) -> None:
    path = tmp_path / "policy.npz"
    assert main(["export", str(run), "--numpy", str(path)]) == 0
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    change(arrays)
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=r"policy.npz is no policy of this version of steadyq \(.*\); export it again"):
        Policy.load(path)


def test_latency_is_read_off_the_clock(policy: Policy) -> None:
    """100 calls to warm up, 1,000 that count: the n-th takes n microseconds, on a clock that the test moves."""
    calls, now = [0], [0]

    def slow(rows: np.ndarray) -> np.ndarray:
        calls[0] += 1
        now[0] += 1_000 * (calls[0] - 100 if calls[0] > 100 else 1_000_000)
        return rows

    slower = Policy(policy.spec, slow)
    p50, p99 = export.latency(slower, observations(7), clock=lambda: now[0])
    assert (p50, p99) == (500.5, pytest.approx(990.01))


def test_bounds_that_float32_cannot_hold_are_kept_from_inside() -> None:
    low, high = Spec([Part("all", 1)], [-0.1, 0.3], [0.1, 0.7], None, {}).bounds()
    for bound in (low, high):
        assert bound.dtype == np.float32
    assert (low.astype(np.float64) >= [-0.1, 0.3]).all()
    assert (high.astype(np.float64) <= [0.1, 0.7]).all()
    np.testing.assert_allclose([low, high], [[-0.1, 0.3], [0.1, 0.7]], rtol=1e-6)


def test_the_example_drives_a_task_from_another_process(tmp_path: Path) -> None:
    run_at(tmp_path / "run", env="pendulum-swingup", frames=10, eval_every=0)
    assert main(["export", str(tmp_path / "run"), "--numpy", str(tmp_path / "policy.npz")]) == 0
    command = [sys.executable, ROOT / "examples/control.py", tmp_path / "policy.npz", "--seconds", "0.4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.match(r"10 steps of 40 ms: \d+ deadlines missed, return \d+\n", done.stdout)


def test_the_example_refuses_a_policy_of_another_environment(run: Path, tmp_path: Path) -> None:
    assert main(["export", str(run), "--numpy", str(tmp_path / "policy.npz")]) == 0
    drive = runpy.run_path(str(ROOT / "examples/control.py"))["drive"]
    with pytest.raises(SystemExit, match=r"tasks of dm_control, and .* was trained on Arm-v0"):
        drive(str(tmp_path / "policy.npz"), seconds=0.4)
