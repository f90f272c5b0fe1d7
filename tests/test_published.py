"""The published summary that ships, and a small file in the form of the per-seed one."""

import gzip
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from steadyq.errors import InputError
from steadyq.results import published, scores, statistics
from steadyq.results.runs import UNKNOWN, Setup

HEADER = "source,algorithm,suite,task,seed,env_step,episode_return\n"


def write(path: Path, lines: list[str]) -> Path:
    path.write_bytes(gzip.compress((HEADER + "".join(f"{line}\n" for line in lines)).encode()))
    return path


def test_the_summary_is_whole() -> None:
    found = {(row.method, row.task): row for row in published.summary()}
    assert len(found) == len(published.summary()) == 432
    row = found["BRO-utd10@naumix", "dog-run"]
    assert row.setup == Setup(1, Fraction(10), 5)
    assert row.env_step.tolist() == list(range(25_000, 1_000_001, 25_000))
    iqm = dict(zip(row.env_step.tolist(), row.iqm.tolist(), strict=True))
    assert [iqm[frame] for frame in (100_000, 500_000, 1_000_000)] == pytest.approx([21, 265, 470], abs=0.51)
    for method, task, frames, values in (  # IQMs of the per-seed results, computed with SciPy
        ("DR.Q-utd1@dmksjfl", "dog-run", 50_000, [131, 280, 579, 721]),
        ("FlashSAC-utd1@Holiday-Robot", "humanoid-walk", 100_000, [102, 421, 905, 939]),
    ):
        row = found[method, task]
        assert row.env_step.tolist() == list(range(0, 1_000_001, frames))
        at = np.searchsorted(row.env_step, [100_000, 200_000, 500_000, 1_000_000])
        assert row.iqm[at] == pytest.approx(values, abs=0.51)
        assert None not in row.setup
    for row in found.values():
        assert np.all(np.diff(row.env_step) > 0)
        assert np.all((row.p05 <= row.p25) & (row.p25 <= row.p75) & (row.p75 <= row.p95))
        assert row.iqm.min() >= 0
        assert row.iqm.max() <= 1000
        assert row.seeds.min() >= 1
    assert not any("MRQ" in row.source for row in found.values())  # its licence does not allow it


def test_every_source_of_the_summary_is_credited() -> None:
    text = (Path(published.__file__).parent / "data/README.md").read_text()
    for row in published.summary():
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {row.source} @")]
        assert line.endswith(("| MIT |", "| Apache-2.0 |"))


def test_aggregate_iqms_of_a_file(tmp_path: Path) -> None:
    """Two tasks, four seeds, an IQM over 8 runs by hand; the real file's figures are in docs/statistics.md."""
    values = {"dog-run": [10, 20, 30, 40], "walker-run": [1, 50, 60, 900]}
    lines = [
        f"x/one,BRO,dmc,{task},s{seed},{frame},{value * frame / 10}"
        for task, runs in values.items()
        for seed, value in enumerate(runs)
        for frame in (10, 20)
    ]
    runs = published.read_published(write(tmp_path / "file.csv.gz", lines))
    assert {run.method for run in runs} == {"BRO@x"}
    assert {run.seed for run in runs} == {"s0", "s1", "s2", "s3"}
    band = statistics.estimate(statistics.iqm, scores.at(runs, [10, 20])["BRO@x"])
    assert band.estimate.tolist() == [35, 70]  # of 1 10 20 30 40 50 60 900 the middle four


def test_sources_of_one_algorithm_stay_apart_and_are_chosen_by_name(tmp_path: Path) -> None:
    lines = [
        "SonyResearch/simba,SAC,dmc,dog-run,0,0,1",
        "nicklashansen/tdmpc2,SAC,dmc,dog-run,0,0,2",
        "nicklashansen/tdmpc2,SAC,gym-v4,Ant-v4,0,0,3",
    ]
    path = write(tmp_path / "file.csv", lines)
    runs = published.read_published(path)
    assert [(run.method, run.value.tolist()) for run in runs] == [
        ("SAC@SonyResearch", [1]),
        ("SAC@nicklashansen", [2]),
        ("SAC@nicklashansen", [3]),
    ]
    assert runs[0].setup == Setup(2, Fraction(1), 10)
    assert runs[0].source == "SonyResearch/simba"
    assert runs[1].setup == UNKNOWN
    (chosen,) = published.read_published(path, keep=lambda method, task: task == "Ant-v4")
    assert chosen.value.tolist() == [3]
    with pytest.raises(InputError, match="no run of the methods and tasks asked for"):
        published.read_published(path, keep=lambda method, task: False)
    with pytest.raises(InputError, match="SAC@a of a/one and of a/two"):
        published.read_published(
            write(tmp_path / "two.csv", ["a/one,SAC,dmc,dog-run,0,0,1", "a/two,SAC,dmc,dog-run,0,0,1"])
        )
    (tmp_path / "bad.csv").write_text("a,b\n")
    with pytest.raises(InputError, match="no column 'source'"):
        published.read_published(tmp_path / "bad.csv")
