"""Run folders that anyone may have made: nothing in them runs, nothing outside them changes, one sentence says why."""

import copy
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import safetensors.numpy
from gymnasium.envs.registration import EnvSpec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from runs import run_at
from steadyq.deploy.load import load_policy
from steadyq.errors import InputError, RunError
from steadyq.examine.evaluate import evaluate
from steadyq.examine.snapshots import diagnose
from steadyq.report import details
from steadyq.results.read import read_runs, read_study
from steadyq.results.runs import Run
from steadyq.run.resume import find_record, newest_whole, resume
from steadyq.store import checkpoint, disk, metrics_csv, sealed
from steadyq.store.disk import FileError
from steadyq.store.record import read_record, record_json, write_record
from steadyq.store.sealed import json_digest
from steadyq.store.snapshot import load_state
from steadyq.study import collect

NEWEST = "seed-0/checkpoints/000000000060.safetensors"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run with two checkpoints."""
    place = tmp_path_factory.mktemp("hostile") / "run"
    run_at(place, frames=60, eval_every=0, save_every=45, utd="1/4", width=4, actor_width=4)
    shutil.rmtree(place / "tensorboard")
    return place


@pytest.fixture
def mine(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def contents(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def look(place: Path) -> None:
    """Everything that `resume` reads before it changes anything."""
    record, _ = find_record(place)
    newest_whole(place, record, despite_log=False)


def refused(place: Path) -> str:
    """The sentence with which a folder is refused, which must be one, and all of it read-only."""
    before = contents(place.parent)
    with pytest.raises(InputError) as caught:
        look(place)
    assert contents(place.parent) == before
    words = str(caught.value)
    assert "\n" not in words
    assert len(words) < 2_000
    return words


# A corpus


class Trap:
    """Its pickle, were it loaded, would leave a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple:
        return Path.touch, (self.place,)


def object_array(place: Path) -> bytes:
    path = place.with_name("array.npy")
    np.save(path, np.array([Trap(place)], dtype=object), allow_pickle=True)
    data = path.read_bytes()
    path.unlink()
    return data


FOREIGN: dict[str, Callable[[Path], bytes]] = {
    "pickle": lambda trap: pickle.dumps(Trap(trap)),
    "object array": object_array,
    "nothing": lambda trap: b"",
    "zeros": lambda trap: bytes(1000),
    "header of an exabyte": lambda trap: (2**60).to_bytes(8, "little") + b"{}",
    "header of 99 MB that is not there": lambda trap: (99_000_000).to_bytes(8, "little") + b"{}",
    "deep JSON": lambda trap: (200_000).to_bytes(8, "little") + b"[" * 100_000 + b"]" * 100_000,
    "no format of ours": lambda trap: safetensors.numpy.save({"a": np.zeros(2)}),
    "another version": lambda trap: safetensors.numpy.save({}, {"steadyq": "steadyq checkpoint 1\nx\n{}"}),
    "tensors beyond the end": lambda trap: _with_header({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}),
    "tensors over each other": lambda trap: _with_header(
        {name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for name in "ab"}, bytes(4)
    ),
    "a tensor of 2**60": lambda trap: _with_header(
        {"a": {"dtype": "F32", "shape": [2**30, 2**30], "data_offsets": [0, 4]}}, bytes(4)
    ),
}


def _with_header(header: dict, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("where", [NEWEST, "run.json", "metrics.csv", "segment"])
def test_foreign_files(what: str, where: str, mine: Path, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    data = FOREIGN[what](trap)
    replay = sorted((mine / "seed-0/checkpoints/replay").iterdir())
    for path in replay if where == "segment" else [mine / where]:
        path.write_bytes(data)
    if where in (NEWEST, "run.json"):  # the checkpoint before it, and the copy of run.json in a checkpoint, are whole
        look(mine)
    else:
        refused(mine)
    assert not trap.exists()


def test_links_are_not_followed(mine: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("words")
    for name in ("metrics.csv", ".lock", ".owner.json", ".tmp-run.json", "seed-0/checkpoints/.tmp-x"):
        kept = (mine / name).read_bytes() if (mine / name).exists() else None
        (mine / name).unlink(missing_ok=True)
        (mine / name).symlink_to(precious)
        with pytest.raises(InputError, match="is a symbolic link"):
            resume(mine)
        (mine / name).unlink()
        if kept is not None:
            (mine / name).write_bytes(kept)
    (mine / "tensorboard").symlink_to(tmp_path)
    with pytest.raises(InputError, match="is a symbolic link"):
        resume(mine)
    assert precious.read_text() == "words"


def test_a_link_at_the_temporary_name_is_not_written_through(mine: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("words")
    (mine / ".tmp-run.json").symlink_to(precious)
    write_record(mine, read_record(mine))
    assert precious.read_text() == "words"
    assert not (mine / "run.json").is_symlink()


HOSTILE_NAMES: list[Any] = ["os:evil:Hopper-v5", "..x:Y-v0", "x.:Y-v0", ":Y-v0", "a/b:Y-v0", "../../x", "/etc/passwd"]
HOSTILE_NAMES += ["\x1b[2J", 7, None]


def relabel(place: Path, **changes: Any) -> None:
    """Other settings in run.json and in the copies of it that checkpoints have, well sealed."""
    content = json.loads((place / "run.json").read_text())
    content["settings"] |= changes
    content["sha256"] = json_digest(content)
    (place / "run.json").write_text(json.dumps(content))
    for frame in checkpoint.frames(place / "seed-0"):
        path = place / "seed-0/checkpoints" / f"{frame:012d}.safetensors"
        seal(path, lambda description, arrays: description["meta"].update(record=content))


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_an_environment_of_no_such_form_is_refused(name: Any, mine: Path) -> None:
    relabel(mine, env=name)
    assert f"the environment {name!r} is not of the form" in refused(mine)


SPRING = {"file": "sprung", "mode": "w"}
"""Arguments with which Python's own `open` is a trap."""


@pytest.mark.parametrize(
    "trick",
    [
        {"env": "os:evil:Hopper-v5"},
        {"env": "evil:Hopper-v5"},
        {"env": "os.evil:Hopper-v5"},
        {"env": "os:Hopper-v5"},
        {"env": "evil.py:Evil"},
        {"env": "./evil.py:Hopper-v5"},
        {"env": "evil:Evil"},
        {"env": "io:open", "env_kwargs": SPRING},
        {"env": "builtins:open", "env_kwargs": SPRING},
        {"env": "Trap-v0", "env_kwargs": SPRING},
        {"env": "io:open", "env_object": "the class toy.Point", "env_kwargs": SPRING},
        {"env": "evil:Evil", "env_object": "the class toy.Point"},
    ],
    ids=str,
)
def test_no_code_runs_unasked(
    trick: dict[str, Any], mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the check of trust sees must be what is run; a module that is imported already has functions, too."""
    for name in ("os:evil.py", "evil.py", "jax.py"):  # the last is looked for by some of Gymnasium's
        (tmp_path / name).write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    monkeypatch.setitem(gymnasium.registry, "Trap-v0", EnvSpec("Trap-v0", entry_point="io:open"))
    relabel(mine, **trick)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.chdir(tmp_path)
    for attempt in (lambda: resume(mine), lambda: evaluate(mine, episodes=1), lambda: diagnose(mine)):
        with pytest.raises(InputError):
            attempt()
    assert not (tmp_path / "sprung").exists()
    assert str(tmp_path) not in sys.path


# Files that are none


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """A call that would wait for ever is a failure."""

    def ring(*_: object) -> None:
        raise AssertionError("waited for a file that is none")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def told(attempt: Callable[[], object]) -> str:
    """The sentence that the command line would print."""
    try:
        attempt()
    except (InputError, RunError, OSError) as error:
        return str(error)
    return ""


def read_all(place: Path) -> list[str]:
    """What every reader of a run folder says that cannot read it."""
    record = told(lambda: read_record(place))
    said = [record, told(lambda: look(place)), told(lambda: resume(place))]
    if not record:
        said += [told(lambda: load_state(place, read_record(place), seed=0)), told(lambda: diagnose(place))]
    said += read_runs([place], metric="train/q_mean").complaints
    run = Run("method", "task", "0", np.array([0]), np.array([0.0]), origin=str(place))
    details.of_runs([run])
    return [*said, *details.film_strips([run])[1]]


FILES = ["run.json", "metrics.csv", "diagnostics.csv", ".owner.json", ".lock", NEWEST, "film_strip.png", "segment"]


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["pipe", "link to a device", "folder"])
def test_nobody_waits_for_what_is_not_a_file(kind: str, name: str, mine: Path) -> None:
    path = min((mine / "seed-0/checkpoints/replay").iterdir()) if name == "segment" else mine / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    assert all("\n" not in words for words in read_all(mine))
    if kind != "folder":
        with pytest.raises(InputError, match=f"{path} is a (pipe or a device|symbolic link), and a run"):
            resume(mine)


def test_folders_without_end_are_not_gone_through(mine: Path) -> None:
    """Neither by us nor, when the run is deleted, by Python's `rmtree`."""
    place = os.open(mine, os.O_RDONLY)
    for _ in range(2_000):  # of a path that is longer than any that the system takes
        os.mkdir("d", dir_fd=place)
        place, outer = os.open("d", os.O_RDONLY, dir_fd=place), place
        os.close(outer)
    os.close(place)
    for attempt in (partial(resume, mine), partial(diagnose, mine)):
        with pytest.raises(InputError, match="nested deeper than anything in a run folder"):
            attempt()
    shutil.move(mine / "d", mine.with_name("deep"))
    subprocess.run(["rm", "-r", mine.with_name("deep")], check=True)  # which pytest could not


@pytest.mark.usefixtures("no_waiting")
def test_a_device_is_not_opened_to_read() -> None:
    with pytest.raises(FileError, match="it is not a regular file"):
        disk.read(Path("/dev/zero"))


def test_a_picture_from_outside_is_not_in_the_report(mine: Path, tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), "red").save(tmp_path / "private.png")
    (mine / "film_strip.png").symlink_to(tmp_path / "private.png")
    run = Run("method", "task", "0", np.array([0]), np.array([0.0]), origin=str(mine))
    strips, (complaint,) = details.film_strips([run])
    assert not strips
    assert "it is a symbolic link, and a run folder holds none" in complaint


def test_a_picture_is_a_png_and_nothing_else(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would let Ghostscript, a language, read the first; the second would take 3 GB."""
    (mine / "film_strip_1.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    monkeypatch.setattr(details, "MOST_PIXELS", 599)
    Image.new("RGB", (30, 20), "red").save(mine / "film_strip_2.png")
    run = Run("method", "task", "0", np.array([0]), np.array([0.0]), origin=str(mine))
    strips, complaints = details.film_strips([run])
    assert not strips
    assert "cannot identify" in complaints[0]
    assert "30 x 20 pixels" in complaints[1]


# Well-sealed lies


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"utd": "1/0"}, "--utd is 1/0; give a number"),
        ({"utd": "1e999999999"}, "--utd is 1e999999999; give a number"),
        ({"utd": "9" * 30}, "--utd is 999.*; give a number above 0, at most 10,000"),
        ({"seeds": [*range(1_000_000)]}, "--seeds has more than 1,000 numbers; give the others in another run"),
        ({"frames": 10**400}, "--frames is 1000"),
        ({"eval_episodes": 10**12}, "--eval-episodes is 1000000000000; give a whole number of at least 1, and at most"),
        ({"env_timeout": 1e300}, "--env-timeout is 1e.300; give a number from 0"),
        ({"name": 7}, "--name is 7; give some text"),
        ({"name": "a\u202eb"}, "control characters"),
        ({"recipe": "nobody's"}, "unknown recipe"),
        ({"recipe": ["crossq_wn"]}, "is not what steadyq writes"),
        ({"options": ["width"]}, "is not what steadyq writes"),
        ({"options": {"schedule_updates": "x"}}, "unknown option|of type str"),
    ],
)
def test_settings_that_no_run_has(changes: dict[str, Any], words: str, mine: Path) -> None:
    relabel(mine, **changes)
    assert re.search(words, refused(mine))


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ({}, {"width": 10**9}),
        ({}, {"actor_width": 10**15}),
        ({}, {"n_critics": 10**15}),
        ({"obs_dim": 10**14}, {}),
        ({"action_dim": 10**14}, {}),
    ],
)
def test_networks_without_memory_are_refused_before_one_is_drawn(
    sizes: dict[str, int], options: dict[str, int], mine: Path
) -> None:
    record = read_record(mine)
    settings = replace(record.settings, options={**record.settings.options, **options})
    write_record(mine, record._replace(settings=settings, **sizes))
    attempts: list[Callable[[], object]] = [lambda: load_state(mine, read_record(mine), seed=0), lambda: diagnose(mine)]
    if not sizes:  # else the record contradicts itself, and `resume` takes the checkpoint's
        attempts.append(lambda: resume(mine))
    for attempt in attempts:
        with pytest.raises(
            InputError, match=r"the networks need .* and .* GB are available|actions of sizes|no snapshot|is not what"
        ):
            attempt()


def test_weights_that_are_not_finite_are_not_played(mine: Path) -> None:
    def change(description: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        next(array for name, array in arrays.items() if name.startswith("state.actor.params"))[...] = np.nan

    seal(mine / NEWEST, change)
    for attempt in (lambda: evaluate(mine, episodes=1), lambda: load_policy(mine)):
        with pytest.raises(InputError, match=r"holds numbers that are not finite: actor\.params"):
            attempt()


def test_batches_without_memory_are_refused(tmp_path: Path) -> None:
    many = {"batch_size": 10**12, "learning_starts": 10**12, "buffer_size": 10**12}
    with pytest.raises(InputError, match=r"the batches of one agent step need .* GB of memory"):
        run_at(tmp_path / "run", **many)
    assert not (tmp_path / "run").exists()


def test_an_environment_of_other_sizes_is_refused(mine: Path) -> None:
    relabel(mine, env="Pendulum-v1")
    for attempt in (lambda: evaluate(mine, episodes=1), lambda: diagnose(mine), lambda: resume(mine)):
        with pytest.raises(InputError, match=r"has observations .* 3.*, and the run was made with .* 2|no snapshot"):
            attempt()


@pytest.mark.parametrize("best", ["[Infinity, 0]", "[NaN, 0]", "[1e999, 0]", f"[1.0, {'9' * 400}]"])
def test_a_best_that_is_no_number(best: str, mine: Path) -> None:
    for frame in checkpoint.frames(mine / "seed-0"):
        path = mine / "seed-0/checkpoints" / f"{frame:012d}.safetensors"
        arrays, description, _ = sealed.read(path, "checkpoint")
        description["meta"]["seed"]["best"] = "HERE"
        text = json.dumps(description).replace('"HERE"', best)
        seal = "\n".join(["steadyq checkpoint 2", sealed.digest("checkpoint", text, arrays), text])
        path.write_bytes(safetensors.numpy.save(arrays, {"steadyq": seal}))
    assert "`meta.seed.best" in refused(mine)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("reward", np.nan, "`reward` of a segment has a number that is not finite"),
        ("obs", np.inf, "`obs` of a segment has a number that is not finite"),
        ("next_obs", np.nan, "`next_obs` of a segment has a number that is not finite"),
        ("discount", 1.5, "`discount` of a segment does not lie in [0, 1]"),
        ("first", 2**63 - 1, "a segment cannot begin with transition"),
    ],
)
def test_transitions_that_no_run_stores(name: str, value: float, words: str, mine: Path) -> None:
    for frame in checkpoint.frames(mine / "seed-0"):

        def change(description: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
            first, last, sha256 = description["replays"]["replay"]["segments"][0]
            folder = mine / "seed-0/checkpoints/replay"
            told, _, _ = sealed.read(folder / f"{first:012d}-{last:012d}-{sha256[:12]}.safetensors", "replay")
            told = {key: array.copy() for key, array in told.items()}
            told[name][...] = value
            sha256 = sealed.digest("replay", "{}", told)
            sealed.write(folder / f"{first:012d}-{last:012d}-{sha256[:12]}.safetensors", "replay", told, {})
            description["replays"]["replay"]["segments"][0] = [first, last, sha256]

        seal(mine / "seed-0/checkpoints" / f"{frame:012d}.safetensors", change)
    assert words in refused(mine)


@pytest.mark.parametrize(("place", "value"), [(0, -1), (1, -5), (2, -(2**62)), (3, 99), (3, -1)])
def test_a_window_that_cannot_have_been_counted(place: int, value: int, mine: Path) -> None:
    for frame in checkpoint.frames(mine / "seed-0"):

        def change(description: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
            (name,) = (name for name in arrays if name.startswith("windows.0") and name.endswith("counts"))
            arrays[name][place] = value

        seal(mine / "seed-0/checkpoints" / f"{frame:012d}.safetensors", change)
    with pytest.raises(InputError, match=r"the window of .* cannot have counted"):
        resume(mine)


def test_rows_of_a_seed_that_the_run_has_not(mine: Path) -> None:
    """In a record whose digest goes with the checkpoints."""
    rows = metrics_csv.read(mine / "metrics.csv")
    metrics_csv.replace(mine / "metrics.csv", [*rows, rows[-1]._replace(seed=7)])
    mark = [*metrics_csv.mark(mine / "metrics.csv")]
    for frame in checkpoint.frames(mine / "seed-0"):
        path = mine / "seed-0/checkpoints" / f"{frame:012d}.safetensors"
        seal(path, lambda description, arrays: description["meta"].update(metrics=mark))
    assert resume(mine).finished


def test_too_many_tasks_are_a_sentence(tmp_path: Path) -> None:
    rows = (f"a,task-{task},0,eval/mean_reward,{frame},1\n" for task in range(3_000) for frame in (0, 9))
    (tmp_path / "many.csv").write_text(metrics_csv.HEADER + "".join(rows))
    with pytest.raises(InputError, match="there are 3,000 tasks"):
        read_study([tmp_path / "many.csv"])
    assert len(read_study([tmp_path / "many.csv"], tasks=["task-12?"]).runs) == 10


def test_a_changed_digit_is_reported(mine: Path) -> None:
    """What `resume` would refuse, other readers name."""
    assert not [words for words in read_runs([mine], metric="train/q_mean").complaints if "edited" in words]
    text = (mine / "metrics.csv").read_text()
    digit = text.index("train/q_mean") + len("train/q_mean,xx,-0.0")
    (mine / "metrics.csv").write_text(f"{text[:digit]}{(int(text[digit]) + 1) % 10}{text[digit + 1 :]}")
    for complaints in (
        read_runs([mine], metric="train/q_mean").complaints,
        collect.collect([mine], mine.with_suffix(".csv")).complaints,
    ):
        assert any("metrics.csv is damaged or was edited" in words for words in complaints), complaints


def seal(path: Path, change: Callable[[dict[str, Any], dict[str, np.ndarray]], None]) -> None:
    """Change a checkpoint's JSON and arrays, and seal it as if nothing had happened."""
    arrays, description, _ = sealed.read(path, "checkpoint")
    arrays = {name: array.copy() for name, array in arrays.items()}
    change(description, arrays)
    sealed.write(path, "checkpoint", arrays, description)


@pytest.mark.parametrize("sha256", ["../" * 20 + "x" * 4, "/etc/passwd" + "x" * 53, "0" * 63 + "/"])
def test_paths_out_of_the_folder(sha256: str, mine: Path) -> None:
    for frame in checkpoint.frames(mine / "seed-0"):
        path = mine / "seed-0/checkpoints" / f"{frame:012d}.safetensors"
        seal(path, lambda description, arrays: description["replays"]["replay"]["segments"][0].__setitem__(2, sha256))
    assert "is not [first, last, sha256]" in refused(mine)


def test_a_record_of_another_format(mine: Path) -> None:
    content = json.loads((mine / "run.json").read_text())
    content["format"] = 1
    (mine / "run.json").write_text(json.dumps(content))
    for path in (mine / "seed-0/checkpoints").glob("*.safetensors"):
        path.unlink()
    assert "another format than 2" in refused(mine)


def test_a_run_folder_of_another_format(mine: Path) -> None:
    """One sentence, whatever of it is looked at first."""
    for path in mine.rglob("*.safetensors"):
        path.write_bytes(path.read_bytes().replace(b"steadyq checkpoint 2", b"steadyq checkpoint 1"))
    assert "has 'steadyq checkpoint 1'; this version of steadyq reads 'steadyq checkpoint 2' here" in refused(mine)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda meta: meta["run"].pop("step"), "`meta.run` lacks 'step'"),
        (lambda meta: meta["run"].update(resets=1.0), "`meta.run.resets` is 1.0, not of the type int"),
        (lambda meta: meta["run"].update(step=31), "`step` does not go with the frame"),
        (lambda meta: meta["run"].update(colour="red"), "`meta.run` has the unknown 'colour'"),
        (lambda meta: meta["seed"].update(best=[1.0]), "`meta.seed.best` is [1.0], not [mean_return, frame]"),
        (
            lambda meta: meta["seed"].update(finished=[[1.0, 2, 3, False]]),
            "`meta.seed.finished.bad` is 3, not of the type bool",
        ),
        (lambda meta: meta.update(metrics=[-1, ""]), "the size of `metrics` is negative"),
        (lambda meta: meta.pop("elapsed"), "`meta` lacks 'elapsed'"),
    ],
)
def test_counters_that_save_never_writes(change: Callable[[dict[str, Any]], Any], words: str, mine: Path) -> None:
    for frame in checkpoint.frames(mine / "seed-0"):
        path = mine / "seed-0/checkpoints" / f"{frame:012d}.safetensors"
        seal(path, lambda description, arrays: change(description["meta"]))
    assert f"frame 60 cannot be used: the checkpoint of frame 60 is not one of this run: {words}" in refused(mine)


def test_a_checkpoint_of_another_agent_is_refused_before_training(mine: Path) -> None:
    record = read_record(mine)
    other = replace(record.settings, options={**record.settings.options, "width": 5})
    write_record(mine, record._replace(settings=other))
    with pytest.raises(InputError, match="is not one of this run: state"):
        resume(mine)


# A fuzzer

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(tree: Any, path: tuple = ()) -> list[tuple]:
    """The path to every value in a JSON tree."""
    found = [path]
    if isinstance(tree, dict):
        for key, value in tree.items():
            found += places(value, (*path, key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            found += places(value, (*path, index))
    return found


def put(tree: Any, path: tuple, value: Any) -> Any:
    """The tree with another value somewhere."""
    if not path:
        return value
    tree = copy.copy(tree)
    tree[path[0]] = put(tree[path[0]], path[1:], value)
    return tree


def damage(data: st.DataObject, place: Path) -> None:
    """Bytes of any file changed, cut out or put in."""
    path = data.draw(st.sampled_from(sorted(p for p in place.rglob("*") if p.is_file())))
    content = path.read_bytes()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 64)))
    path.write_bytes(content[:start] + data.draw(st.binary(max_size=64)) + content[end:])


def lie(data: st.DataObject, place: Path) -> None:
    """Anything in run.json or a checkpoint's JSON, well sealed."""
    if data.draw(st.booleans()):
        content = record_json(read_record(place))
        del content["sha256"]
        content = put(content, data.draw(st.sampled_from(places(content)[1:])), data.draw(JSON))
        content["sha256"] = json_digest(content)
        (place / "run.json").write_text(json.dumps(content))
        return
    path = place / NEWEST

    def change(description: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        where = data.draw(st.sampled_from([p for p in places(description) if p and "record" not in p]))
        description.update(put(description, where, data.draw(JSON)))

    seal(path, change)


LIES = st.sampled_from(
    [
        *HOSTILE_NAMES,
        "evil:Point-v0",
        "toy:Point-v0:Point-v0",
        "../" * 20 + "etc/passwd",
        "/dev/zero",
        "seed-0/../../..",
        ".",
        "a\u202eb",
        "\x9b31m",
        "\ud800",
        "x" * 10_000,
        -1,
        0,
        2**63,
        10**30,
        1e308,
        True,
        [],
        {},
    ]
)


def lie_in_names(data: st.DataObject, place: Path) -> None:
    """Names of environments, modules, recipes, paths and sizes that choose what is opened, imported or made."""
    keys = ["env", "recipe", "name", "options", "seeds", "utd", "frames", "buffer_size", "batch_size", "env_timeout"]
    if data.draw(st.booleans()):
        relabel(place, **{data.draw(st.sampled_from(keys)): data.draw(LIES | st.lists(LIES, max_size=2))})
        return

    def change(description: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        replays = description["replays"]
        where = data.draw(st.sampled_from(["replay", "segment", "frame", "sizes"]))
        if where == "replay":
            replays[str(data.draw(LIES))] = replays.pop("replay") if data.draw(st.booleans()) else replays["replay"]
        elif where == "segment":
            replays["replay"]["segments"][0][data.draw(st.integers(0, 2))] = data.draw(LIES)
        elif where == "frame":
            description["frame"] = data.draw(LIES)
        else:
            replays["replay"][data.draw(st.sampled_from(["obs_dim", "action_dim", "added"]))] = data.draw(LIES)

    seal(place / NEWEST, change)


def misshape(data: st.DataObject, place: Path) -> None:
    """Any tensor of a checkpoint with other numbers, another type or shape, or gone."""

    def change(description: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        name = data.draw(st.sampled_from(sorted(arrays)))
        how = data.draw(st.sampled_from(["gone", "nan", "float64", "uint8", "flat", "empty", "twice"]))
        old = arrays.pop(name)
        if how == "nan":
            arrays[name] = np.full_like(old, np.nan) if old.dtype.kind == "f" else old
        elif how in ("float64", "uint8"):
            arrays[name] = np.zeros(old.shape, how)
        elif how == "flat":
            arrays[name] = old.reshape(-1)
        elif how == "empty":
            arrays[name] = old[:0] if old.ndim else np.zeros(0, old.dtype)
        elif how == "twice":
            arrays[name] = np.stack([old, old])

    seal(place / NEWEST, change)


def sentence(attempt: Callable[[], object]) -> str:
    """With which something is refused; empty if it is not. Nothing but an InputError may come of it."""
    try:
        attempt()
    except InputError as error:
        return str(error)
    return ""


def fuzz(data: st.DataObject, run: Path, scratch: Path) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    place = Path(shutil.copytree(run, scratch / "run"))
    data.draw(st.sampled_from([damage, lie, lie_in_names, misshape]))(data, place)
    before = contents(scratch)
    words = sentence(lambda: look(place))
    assert "\n" not in words
    assert len(words) < 2_000
    assert contents(scratch) == before


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
@given(data=st.data())
def test_anything_is_whole_or_refused(data: st.DataObject, run: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    fuzz(data, run, tmp_path_factory.getbasetemp() / "fuzzed")


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(data=st.data())
def test_anything_is_whole_or_refused_at_length(
    data: st.DataObject, run: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    fuzz(data, run, tmp_path_factory.getbasetemp() / "fuzzed")


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
@given(data=st.data())
def test_what_passes_the_look_trains_or_is_refused(
    data: st.DataObject, run: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Tensors are compared with the agent's only when there is one."""
    scratch = tmp_path_factory.getbasetemp() / "trained"
    shutil.rmtree(scratch, ignore_errors=True)
    place = Path(shutil.copytree(run, scratch / "run"))
    misshape(data, place)
    words = sentence(lambda: resume(place))
    assert "\n" not in words
    if not words:
        assert max(row.env_step for row in metrics_csv.read(place / "metrics.csv")) == 60
