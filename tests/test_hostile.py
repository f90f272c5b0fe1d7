"""Run folders that anyone may have made: nothing in them runs, nothing outside them changes, one sentence says why."""

import copy
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runs import run_at
from steadyq.errors import InputError
from steadyq.run.resume import find_record, newest_whole, resume
from steadyq.store import checkpoint, metrics_csv, sealed
from steadyq.store.record import _digest, read_record, record_json, write_record

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
            lambda meta: meta["seed"].update(finished=[[1.0, 2, 3]]),
            "`meta.seed.finished.bad` is 3, not of the type bool",
        ),
        (lambda meta: meta["tally"].update(failed=True), "`meta.tally.failed` is True, not of the type int"),
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
        content["sha256"] = _digest(content)
        (place / "run.json").write_text(json.dumps(content))
        return
    path = place / NEWEST

    def change(description: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        where = data.draw(st.sampled_from([p for p in places(description) if p and "record" not in p]))
        description.update(put(description, where, data.draw(JSON)))

    seal(path, change)


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
    data.draw(st.sampled_from([damage, lie, misshape]))(data, place)
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
