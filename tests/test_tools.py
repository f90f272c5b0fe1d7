"""The judge of the campaigns in `tools/`: it must see every change, and nothing where nothing changed."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import steadyq
from steadyq.store import checkpoint, snapshot
from steadyq.store.replay import Replay
from tools.fuzz import Told, call, judge
from tools.process import WORDS, phase
from tools.same_state import differences, load, transitions

SOURCE = Path(steadyq.__file__).parent
FRAMES = 120
SMALL: dict[str, Any] = {
    "env": "Pendulum-v1",
    "frames": FRAMES,
    "learning_starts": 110,
    "batch_size": 8,
    "width": 8,
    "actor_width": 8,
    "eval_every": 120,
    "eval_episodes": 1,
    "log_every": 40,
    "compile": "off",
    "threads": 1,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose replay lies in several files."""
    return steadyq.train("crossq_wn", **SMALL, save_every=50, out=str(tmp_path_factory.mktemp("runs") / "run")).folder


@pytest.fixture
def other(run: Path, tmp_path: Path) -> Path:
    """A copy of it to change something in."""
    return Path(shutil.copytree(run, tmp_path / "other"))


def save_again(run: Path, *, weight: float = 0.0, reward: float = 0.0) -> None:
    """Write the newest checkpoint anew with one number changed, and all transitions in one file."""
    saved, old = load(run, 0, FRAMES)
    name = next(name for name in saved.tensors if name.startswith("state.critic.params"))
    saved.tensors[name].view(-1)[0] += weight
    segment = old.segment(0, FRAMES)
    segment["reward"][100] += reward
    new = Replay(capacity=FRAMES, obs_dim=3, action_dim=1)
    new.extend(segment)
    shutil.rmtree(run / "seed-0" / "checkpoints")
    meta = {**saved.meta, "elapsed": 12345.0, "metrics": [67890, ""]}
    history = checkpoint.History(run / "seed-0")
    checkpoint.save(history, frame=FRAMES, tensors=saved.tensors, meta=meta, replays={"replay": new})


def test_clocks_and_the_cuts_of_files_do_not_count(run: Path, tmp_path: Path) -> None:
    again = steadyq.train("crossq_wn", **SMALL, save_every=1_000, out=str(tmp_path / "again")).folder
    files = [sorted(path.name for path in (r / "seed-0/checkpoints/replay").iterdir()) for r in (run, again)]
    assert len(files[0]) > len(files[1])
    assert (run / "metrics.csv").read_bytes() != (again / "metrics.csv").read_bytes()
    assert differences(run, again) == []


def test_writing_a_state_again_changes_nothing(run: Path, other: Path) -> None:
    save_again(other)
    assert differences(run, other) == []


def test_a_changed_weight_is_seen(run: Path, other: Path) -> None:
    save_again(other, weight=1e-6)
    (found,) = differences(run, other)
    assert f"checkpoint at frame {FRAMES}: differing: state.critic.params" in found


def test_a_changed_transition_is_seen(run: Path, other: Path) -> None:
    save_again(other, reward=1e-6)
    (found,) = differences(run, other)
    assert found.endswith(f"differing: replay[0:{FRAMES}].reward")


def test_a_changed_snapshot_is_seen(run: Path, other: Path) -> None:
    path = sorted((other / "seed-0" / "snapshots").iterdir())[0]
    tensors, meta = snapshot.read_snapshot(path)
    next(t for t in tensors.values() if t.dtype == torch.float32).view(-1)[0] += 1
    snapshot.write_snapshot(path, tensors, meta)
    assert differences(run, other) == [f"seed 0, snapshots: differing: {path.name}"]


def test_rows_missing_twice_or_changed_are_seen(run: Path, other: Path) -> None:
    path = other / "metrics.csv"
    lines = path.read_text().splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if ",train/n_updates," in line)

    path.write_text("".join(lines[:at] + lines[at + 1 :]))
    assert any("rows that only" in found and "train/n_updates" in found for found in differences(run, other))

    path.write_text("".join([*lines[: at + 1], lines[at], *lines[at + 1 :]]))
    assert any("more than once" in found and "train/n_updates" in found for found in differences(run, other))

    path.write_text("".join([*lines[:at], lines[at].replace("\n", "1\n"), *lines[at + 1 :]]))
    assert any("metrics.csv differs in 1 lines" in found for found in differences(run, other))


def test_a_missing_checkpoint_is_seen(run: Path, other: Path) -> None:
    (other / f"seed-0/checkpoints/{FRAMES:012d}.safetensors").unlink()
    assert any("the newest checkpoints are at frames" in found for found in differences(run, other))


def test_transitions_are_cut_at_fixed_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rings that end alike but began elsewhere have the same digests where both are."""
    monkeypatch.setattr("tools.same_state.CHUNK", 16)
    parts = []
    for capacity in (40, 100):
        replay = Replay(capacity=capacity, obs_dim=1, action_dim=1)
        replay.start(torch.zeros(1).numpy())
        for i in range(70):
            replay.add(torch.zeros(1).numpy(), float(i), 0.99, torch.full((1,), float(i)).numpy(), last=i % 9 == 8)
            if i % 9 == 8:
                replay.start(torch.zeros(1).numpy())
        parts.append(transitions(replay))
    assert "replay[32:48].reward" in parts[0]
    shared = {name for name in parts[0] if not name.startswith("replay[30:")}
    assert all(parts[1][name] == parts[0][name] for name in shared)


@pytest.mark.parametrize(
    ("calls", "word"),
    [
        (["store/sealed.py write", "store/checkpoint.py save", "run/save.py save", "run/loop.py loop"], "saving"),
        (["examine/play.py play", "run/measure.py evaluate", "run/loop.py loop"], "evaluating"),
        (["threading.py join", "engine/learner.py update", "run/loop.py loop"], "waiting for the compiler"),
        (["run/loop.py choose", "run/loop.py act_and_store", "run/loop.py loop"], "stepping"),
        (["envs/episodes.py step", "run/save.py restore", "run/go.py go"], "starting"),
        (["run/loop.py loop", "run/go.py go"], "stepping"),
        (["<frozen importlib._bootstrap> _find_and_load"], "importing"),
        (["figures/learning_curve.py write_learning_curve", "cli/train.py conclude"], "finishing"),
        (["store/checkpoint.py load", "run/go.py go"], "starting"),
    ],
)
def test_what_a_process_is_doing(calls: list[str], word: str) -> None:
    frames = [call.rsplit(" ", 1) for call in calls]
    for file, name in frames:
        if "/" in file:  # one of ours: a stack that can no longer be proves nothing
            assert f"def {name}(" in (SOURCE / file).read_text()
    lines = [f'  File "/some/steadyq/{file}", line 1 in {name}' for file, name in frames]
    stack = "\n".join(
        ["Current thread 0x2 (most recent call first):", *lines, '  File "<string>", line 4 in <module>\n']
    )
    assert phase(stack) == word


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (Told(0, "done\n", "steadyq: b is left out\n", 0.1), None),
        (Told(2, "", "steadyq: no\n", 0.1), None),
        (Told(2, "", "", 0.1), "0 sentences"),
        (Told(1, "", "steadyq: no\nsteadyq: no\n", 0.1), "2 sentences"),
        (Told(3, "", "", 0.1), "exit code 3"),
        (Told(0, "", "Warning: overflow\n", 0.1), "no sentence"),
        (Told(0, "a\x1b[2Jb", "", 0.1), "not printable"),
        (Told(0, "", "steadyq: a\u202eb", 0.1), "not printable"),
        (Told(0, "", "", 6.0), "6.0 s of work"),
        (Told(2, "", "steadyq: " + "x" * 10_000, 0.1), "characters"),
    ],
)
def test_what_no_command_may_do_is_seen(told: Told, words: str | None) -> None:
    assert any(words in found for found in judge(told)) if words else judge(told) == []


def test_a_command_that_fails_or_hangs_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.fuzz.HANG", 0.2)
    read, write = os.pipe()
    for command in (lambda: 1 // 0, lambda: len(os.read(read, 1)), lambda: print("\ud800")):
        (found,) = judge(call(command))
        assert found == "no answer in time" or "Error" in found
    os.close(read)
    os.close(write)


def test_every_word_is_for_something_that_the_loop_calls() -> None:
    source = (SOURCE / "run/loop.py").read_text()
    assert [name for name in WORDS if f" {name}(" not in source] == []
