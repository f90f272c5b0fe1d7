"""Runs read from folders and tidy files, good and bad, and their scores at equal frames."""

import gzip
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from steadyq.errors import InputError
from steadyq.results import scores
from steadyq.results.read import read_runs
from steadyq.results.runs import UNKNOWN, Run, Setup

HEADER = "exp_name,env_name,seed,metric,env_step,value\n"
SETTINGS = {"action_repeat": 2, "utd": "1/3", "eval_episodes": 5, "frames": 10, "log_every": 5, "eval_every": 5}


def rows(
    name: str, task: str, seed: int, values: list[float], *, metric: str = "eval/mean_reward", every: int = 5
) -> str:
    return "".join(f"{name},{task},{seed},{metric},{every * i},{value}\n" for i, value in enumerate(values))


def make_run(folder: Path, text: str, *, seeds: list[int], **changed: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(HEADER + text)
    (folder / "run.json").write_text(json.dumps({"settings": SETTINGS | {"seeds": seeds} | changed}))
    return folder


def one(frames: list[int], values: list[float], *, method: str = "m", task: str = "walker-run", seed: str = "0") -> Run:
    return Run(method, task, seed, np.array(frames), np.array(values, dtype=np.float64), "somewhere")


def test_folders_parents_and_files_are_read_as_one(tmp_path: Path) -> None:
    make_run(tmp_path / "runs/a", rows("sac", "walker-run", 0, [1, 2, 3]), seeds=[0])
    make_run(tmp_path / "runs/deep/b", rows("sac", "walker-run", 1, [4, 5, 6]), seeds=[1])
    tidy = tmp_path / "others.csv.gz"  # other order of columns, more of them, frames in any order, another metric
    lines = ["value,seed,extra,env_name,exp_name,env_step,metric"]
    lines += [
        "9,7,x,dog-run,bro,10,eval/mean_reward",
        "8,7,y,dog-run,bro,0,eval/mean_reward",
        "1,7,z,dog-run,bro,0,loss",
    ]
    tidy.write_bytes(gzip.compress("\n".join(lines).encode()))
    found = read_runs([tmp_path / "runs", tidy])
    assert found.complaints == []
    assert [run[:3] for run in found.runs] == [
        ("sac", "walker-run", "0"),
        ("sac", "walker-run", "1"),
        ("bro", "dog-run", "7"),
    ]
    assert found.runs[0].value.tolist() == [1, 2, 3]
    assert found.runs[0].setup == Setup(2, Fraction(1, 6), 5)
    assert found.runs[2].env_step.tolist() == [0, 10]
    assert found.runs[2].value.tolist() == [8, 9]
    assert found.runs[2].setup == UNKNOWN
    direct = read_runs([tmp_path / "runs/a/metrics.csv"])  # knows the run it belongs to
    assert direct.runs[0].setup == found.runs[0].setup
    assert [run.value.tolist() for run in read_runs([tidy], metric="loss").runs] == [[1]]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no column 'exp_name'"),
        ("a,b\n1,2\n", "begins with 'a,b' and has no column 'exp_name'"),
        (HEADER + "sac,walker-run,0,eval/mean_reward,five,1\n", "line 2 of"),
        (HEADER + rows("sac", "walker-run", 0, [1]) + "sac,walker-run,0,eval/mean_reward,5\n", "line 3 of"),
        (HEADER + rows("sac", "walker-run", 0, [float("nan")]), "not finite"),
        (HEADER + 'sac,"walker', "line 2 of"),
        (HEADER, "no row of the metric eval/mean_reward"),
        (HEADER + rows("sac", "walker-run", 0, [1]) * 2, "has seed 0 of sac on walker-run at frame 0 twice"),
    ],
)
def test_a_malformed_file_is_one_sentence_and_the_rest_is_read(tmp_path: Path, text: str, says: str) -> None:
    bad, good = tmp_path / "bad.csv", tmp_path / "good.csv"
    bad.write_text(text)
    good.write_text(HEADER + rows("sac", "walker-run", 0, [1, 2]))
    found = read_runs([bad, good])
    (complaint,) = found.complaints
    assert says in complaint
    assert str(bad) in complaint
    assert len(found.runs) == 1


def test_bytes_that_are_no_text_and_cut_archives_are_sentences(tmp_path: Path) -> None:
    binary, cut = tmp_path / "binary.csv", tmp_path / "cut.csv.gz"
    binary.write_bytes(HEADER.encode() + b"\xff\xfe\x00")
    cut.write_bytes(gzip.compress((HEADER + rows("sac", "walker-run", 0, list(range(500)))).encode())[:-20])
    found = read_runs([binary, cut])
    assert found.runs == []
    assert ["cannot be read" in complaint for complaint in found.complaints] == [True, True]


def test_folders_that_are_no_runs_empty_runs_and_runs_in_progress(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    make_run(tmp_path / "empty", "", seeds=[0])
    make_run(tmp_path / "young", rows("sac", "walker-run", 0, [1], metric="train/loss"), seeds=[0])
    half = rows("sac", "walker-run", 1, [1, 2]) + "sac,walker-run,1,eval/mean_reward,10,31"  # of 312.4
    make_run(tmp_path / "half", half, seeds=[1, 2])
    lone = make_run(tmp_path / "lone", rows("sac", "walker-run", 3, [1, 2, 3]), seeds=[3])
    (lone / "run.json").write_text("{")
    places = [tmp_path / name for name in ("nothing", "nowhere", "empty", "young", "half", "lone")]
    found = read_runs(places)
    expected = [
        "nothing is not a run folder and holds none",
        "nowhere; give run folders",
        "holds no measurement yet",
        "young has no eval/mean_reward yet",
        "half is at frame 5 of 10: still running, or stopped",
        "half has no eval/mean_reward of seed 2",
        "run.json cannot be read",
    ]
    assert len(found.complaints) == len(expected)
    for complaint, words in zip(found.complaints, expected, strict=True):
        assert words in complaint
    assert [(run.seed, run.value.tolist()) for run in found.runs] == [("1", [1, 2]), ("3", [1, 2, 3])]


def test_the_same_run_twice_counts_once_and_is_said(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rows("sac", "walker-run", 0, [1, 2, 3]), seeds=[0])
    copy = tmp_path / "copy.csv"
    copy.write_text(HEADER + rows("sac", "walker-run", 0, [7, 8, 9]))
    found = read_runs([run, copy])
    assert [r.value.tolist() for r in found.runs] == [[1, 2, 3]]
    assert found.complaints == [f"seed 0 of sac on walker-run is in {run} and in {copy}; only the first counts"]


def test_scores_are_by_method_task_frame_and_seed() -> None:
    runs = [
        one([0, 10], [0, 100]),
        one([0, 5, 10], [1, 2, 3], seed="1"),
        one([0, 10], [5, 7], task="dog-run"),
        one([5, 10], [0, 1], method="late"),
        one([0, 4], [0, 1], method="short"),
    ]
    found = scores.at(runs, [2, 10])
    assert list(found) == ["m"]  # nothing is extrapolated
    assert found["m"].points.tolist() == [2, 10]
    assert found["m"].seeds == {"walker-run": ("0", "1"), "dog-run": ("0",)}
    assert found["m"].tasks["walker-run"].tolist() == [[20, 1.4], [100, 3]]
    assert found["m"].tasks["dog-run"].tolist() == [[5.4], [7]]
    assert set(scores.at(runs, [5])) == {"m", "late"}


def test_areas_start_where_all_runs_of_the_task_do() -> None:
    runs = [
        one([0, 10, 20], [0, 10, 20]),
        one([10, 20], [0, 8], method="late"),
        one([0, 20], [3, 5], task="dog-run"),
        one([0, 5], [3, 5], method="short"),
        one([20, 30], [3, 5], method="after"),
    ]
    found, starts = scores.areas(runs, stop=20)
    assert starts == {"walker-run": 10, "dog-run": 0}
    assert found["m"].tasks["walker-run"].tolist() == [[15]]
    assert found["late"].tasks["walker-run"].tolist() == [[4]]
    assert found["m"].tasks["dog-run"].tolist() == [[4]]
    assert set(found) == {"m", "late"}


def test_the_grid_is_the_coarsest_where_all_have_values() -> None:
    assert scores.grid([one([0, 5, 10, 15, 20], [0] * 5), one([0, 10, 20, 30], [0] * 4)]).tolist() == [0, 10, 20]
    # with both ends of what they share, wherever the coarsest was evaluated
    assert scores.grid([one([0, 5, 10, 15, 20], [0] * 5), one([5, 15, 25], [0] * 3)]).tolist() == [5, 15, 20]
    assert scores.grid([one([0, 50, 100], [0] * 3), one([5, 25, 45], [0] * 3)]).tolist() == [5, 45]
    with pytest.raises(InputError, match="share no frame"):
        scores.grid([one([0, 5], [0, 0]), one([10, 15], [0, 0])])


def test_dm_control_by_its_names() -> None:
    dmc = ["walker-run", "finger-turn_hard", "ball_in_cup-catch", "swimmer-swimmer15"]
    others = ["Ant-v4", "my_robot:Reach-v0", "reach-v0", "Walker-run", "pendulum", "ALE/Pong-v5"]
    assert [scores.is_dmc(task) for task in dmc + others] == [True] * len(dmc) + [False] * len(others)
