"""`steadyq compare`: what is compared, what is said about it, and what is written."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from steadyq.cli.main import main
from steadyq.errors import InputError
from steadyq.results import compare, differences, published, statistics
from steadyq.results.read import read_study
from steadyq.results.runs import Run, Setup, Study
from steadyq.results.statistics import Interval

GOOD, POOR = [300.0, 310.0, 330.0, 350.0, 390.0], [100.0, 110.0, 130.0, 150.0, 190.0]


def runs(
    method: str, task: str, ends: list[float], *, frames: tuple[int, ...] = (0, 50, 100), **more: object
) -> list[Run]:
    """Runs that grow linearly to these returns."""
    grid = np.array(frames)
    return [
        Run(method, task, str(seed), grid, grid / grid[-1] * end, "here", **more)  # type: ignore[arg-type]
        for seed, end in enumerate(ends)
    ]


def compared(found: list[Run], **settings: object) -> compare.Comparison:
    return compare.compare(Study(found, []), resamples=2_000, **settings)  # type: ignore[arg-type]


def test_returns_areas_scores_and_aggregates() -> None:
    found = compared([*runs("a", "dog-run", GOOD), *runs("a", "dog-walk", POOR)], frames=[100, 50], score=150)
    assert found.frames == (50, 100)
    values = {(e.tasks, e.frame): e.iqm.estimate for e in found.returns}
    assert values == {
        (("dog-run",), 50): pytest.approx(165),
        (("dog-walk",), 50): pytest.approx(65),
        (("dog-run",), 100): 330,
        (("dog-walk",), 100): 130,
    }
    (last,) = [row for row in found.aggregates if row.frame == 100]
    assert last.iqm.estimate == np.mean(sorted(GOOD + POOR)[2:-2])
    assert last.mean.estimate == last.median.estimate == (336 + 136) / 2
    assert last.optimality_gap.estimate == pytest.approx(1 - 0.236)
    areas = {e.tasks: e.iqm.estimate for e in found.areas}
    assert areas[("dog-run",)] == pytest.approx(165)
    assert set(areas) == {("dog-run",), ("dog-walk",), ("dog-run", "dog-walk")}
    reached = {row.task: (row.median, row.reached, row.runs) for row in found.reached}
    assert reached == {"dog-run": (50, 5, 5), "dog-walk": (np.inf, 2, 5)}


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (0.51, 0.9, "supported"),
        (0.5, 0.9, "not decidable at this budget"),
        (0.1, 0.5, "not decidable at this budget"),
        (0.1, 0.49, "contradicted"),
        (np.nan, np.nan, "not decidable at this budget"),
    ],
)
def test_the_verdict_follows_the_rule(low: float, high: float, says: str) -> None:
    assert compare.verdict(Interval(0.5, low, high, 0.95, 5, 1, "")) == says


def test_pairs_and_their_verdicts() -> None:
    found = compared(
        [
            *runs("poor", "dog-run", POOR),
            *runs("good", "dog-run", GOOD),
            *runs("same", "dog-run", [value + 1 for value in GOOD]),
            *runs("other", "dog-run", GOOD, source="x/y"),
            *runs("third", "dog-run", GOOD, source="x/z"),
        ],
        level=0.5,
    )
    verdicts = {(pair.a, pair.b): (pair.verdict, pair.probability.level) for pair in found.pairs}
    assert verdicts["poor", "good"] == ("contradicted", 0.95)  # the rule's level, whatever the others'
    assert verdicts["good", "same"] == ("not decidable at this budget", 0.95)
    assert verdicts["poor", "other"][0] == "contradicted"
    assert ("good", "poor") not in verdicts  # each pair once
    assert ("other", "third") not in verdicts  # that is their authors' business
    back = compared([*runs("good", "dog-run", GOOD), *runs("poor", "dog-run", POOR)])
    assert [(pair.a, pair.b, pair.verdict) for pair in back.pairs] == [("good", "poor", "supported")]


def test_too_many_pairs_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "MOST_PAIRS", 3)
    few = [run for method in "abc" for run in runs(method, "dog-run", GOOD)]
    assert len(compared(few).pairs) == 3
    found = compared([*few, *runs("d", "dog-run", GOOD)])
    assert found.pairs == []
    assert "no pairs: 6 are more than the 3 that are compared; choose methods with --methods" in found.notes


def test_pairs_are_resampled_alike_in_whatever_company() -> None:
    """The counts that are kept from one pair to the next are the pair's own."""
    methods = {"a": GOOD, "b": POOR[:4], "c": GOOD[1:], "d": [*POOR, 5.0]}
    together = compared([run for name, ends in methods.items() for run in runs(name, "dog-run", ends)])
    assert len(together.pairs) == 6
    for pair in together.pairs:
        statistics._counts.cache_clear()
        alone = compared([run for name in (pair.a, pair.b) for run in runs(name, "dog-run", methods[name])])
        assert alone.pairs == [pair]


def test_one_run_each_decides_nothing() -> None:
    found = compared([*runs("a", "dog-run", [900]), *runs("b", "dog-run", [1])])
    assert found.pairs[0].probability.estimate == 1
    assert found.pairs[0].verdict == "not decidable at this budget"
    assert "where a task has one run only there is no interval, and no verdict" in found.notes


def test_mixed_suites_have_no_aggregate() -> None:
    found = compared([*runs("a", "dog-run", GOOD), *runs("a", "Ant-v4", GOOD), *runs("b", "Ant-v4", POOR)])
    assert found.aggregates == []
    assert any("aggregates leave out Ant-v4" in note for note in found.notes)
    assert [row.task for row in found.reached] == ["dog-run"]  # no score is right for every task
    assert [(pair.tasks, pair.verdict) for pair in found.pairs] == [(("Ant-v4",), "supported")]
    both = compared([*runs("a", "dog-run", GOOD), *runs("a", "dog-walk", GOOD), *runs("b", "dog-walk", GOOD)])
    assert [row.method for row in both.aggregates] == ["a"]
    assert any("no aggregate of b at frame 100: no run there on dog-run" in note for note in both.notes)


def test_one_stray_run_leaves_the_aggregates() -> None:
    whole = [run for method in "ab" for task in ("dog-run", "dog-walk") for run in runs(method, task, GOOD)]
    found = compared([*runs("c", "walker-run", POOR), *whole, *runs("a", "dog-trot", POOR)])
    assert [(row.method, row.tasks) for row in found.aggregates] == [(m, ("dog-run", "dog-walk")) for m in "ab"]
    why = "not all of a, b have runs there; choose with --methods and --tasks"
    assert f"aggregates leave out dog-trot, walker-run: {why}" in found.notes
    assert any(note.startswith("no aggregate of c at frame 100: no run there on dog-run") for note in found.notes)


def test_what_holds_for_many_methods_is_said_once() -> None:
    tasks = {"a": "dog-run", "b": "dog-run", "c": "dog-run", "d": "dog-walk", "e": "dog-walk"}
    found = compared([run for method, task in tasks.items() for run in runs(method, task, GOOD)])
    assert [note for note in found.notes if note.startswith("no aggregate")] == [
        "no aggregate of a, b, c at frame 100: no run there on dog-walk; choose other tasks with --tasks",
        "no aggregate of d, e at frame 100: no run there on dog-run; choose other tasks with --tasks",
    ]
    assert [note for note in found.notes if "in common" in note] == [
        "d has no task in common with a, b, c",
        "e has no task in common with a, b, c",
    ]


def test_few_runs_are_not_taken_at_face_value() -> None:
    found = compared(runs("a", "dog-run", GOOD[:3]))
    coverage = found.returns[0].iqm.coverage
    assert coverage.endswith("%")
    assert f"with 3 runs on one task the real coverage of a 95% interval of the IQM is about {coverage}" in found.notes
    assert not any("real coverage" in note for note in compared(runs("a", "dog-run", [*GOOD, *POOR])).notes)


def test_what_is_not_equal_is_said() -> None:
    ours, theirs = Setup(2, None, 5), Setup(1, None, 10)
    found = [
        *runs("a", "dog-run", GOOD, setup=ours),
        *runs("a", "dog-walk", GOOD[:3], setup=ours),
        *runs("b", "dog-run", GOOD[:4], frames=(25, 75, 125), setup=theirs),
        *runs("c", "dog-run", GOOD[:1], frames=(0, 50), setup=ours),
    ]
    said = differences.in_sentences(found, [100], {"published": Setup(1, None, None)})
    assert said == [
        "no value of c at frame 100 from seed 0 on dog-run (ends at 50)",
        "a has 3 to 5 runs per task (of its seeds no 3 4 on dog-walk); tasks with more weigh more in its IQM",
        "seeds differ on dog-run: a 0 1 2 3 4, b 0 1 2 3, c 0",
        "the first evaluation is at frame 0 (a, c), 25 (b)",
        "frame 100 is between two evaluations of b: values are interpolated",
        "action repeat differs: 2 (a, c), 1 (b, published); at equal frames a larger one makes fewer decisions",
        "episodes per evaluation differs: 5 (a, c), 10 (b); fewer make single values noisier",
        "not known, and so not compared: updates per frame of a, b, c",
        "not known, and so not compared: updates per frame, episodes per evaluation of published",
    ]
    assert differences.in_sentences(runs("a", "dog-run", GOOD), [100], {}) == []


def test_the_frame_is_the_last_that_all_reach_and_that_is_said() -> None:
    found = compared(
        [
            *runs("a", "dog-run", GOOD),
            *runs("b", "dog-run", GOOD, frames=(0, 25, 50)),
            Run("new", "dog-run", "0", np.array([0]), np.array([1.0]), "here"),  # has only just begun
        ]
    )
    assert found.frames == (50,)
    assert "compared at frame 50 because seed 0 of b on dog-run ends there; choose another with --at" in found.notes
    with pytest.raises(InputError, match=r"no run has a value at frame 500 .*ends at 100"):
        compared(runs("a", "dog-run", GOOD), frames=[500])


def test_references_are_of_the_tasks_and_methods_asked_for() -> None:
    chosen = {"frames": [50_000], "against": ["bro-utd10@naumix", "SAC@*"]}
    found = compared(runs("a", "walker-run", GOOD, frames=(0, 50_000)), **chosen)
    assert [(row.method, row.task, round(row.iqm)) for row in found.references] == [
        ("BRO-utd10@naumix", "walker-run", 572),
        ("SAC@SonyResearch", "walker-run", 97),
    ]
    assert {row.evaluated for row in found.references} == {"50,000"}
    assert compared(runs("a", "walker-run", GOOD, frames=(0, 50_000)), metric="loss").references == []
    for pattern in published.USUAL:
        assert compared(runs("a", "dog-run", GOOD, frames=(0, 50_000)), against=[pattern]).references


def test_references_say_where_they_are_interpolated() -> None:
    row = next(
        row for row in published.summary() if (row.method, row.task) == ("XQC-utd2@danielpalenicek", "walker-run")
    )
    assert row.env_step[:2].tolist() == [0, 100_000]
    ours = runs("a", "walker-run", GOOD, frames=(0, 100_000))
    found = compared(ours, frames=[25_000, 100_000], against=[row.method])
    between, there = found.references
    assert (between.evaluated, there.evaluated) == ("0 and 100,000 (interpolated)", "100,000")
    assert between.iqm == pytest.approx(0.75 * row.iqm[0] + 0.25 * row.iqm[1])
    assert there.iqm == row.iqm[1]


# ---- the command


def write(path: Path, found: list[Run]) -> Path:
    lines = ["exp_name,env_name,seed,metric,env_step,value"]
    for run in found:
        for frame, value in zip(run.env_step, run.value, strict=True):
            lines.append(f"{run.method},{run.task},{run.seed},eval/mean_reward,{frame},{value}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    good, poor = runs("good", "dog-run", GOOD), runs("a-poor-one-with-[markup]", "dog-run", POOR)
    tidy = write(tmp_path / "tidy.csv", [*good, *poor])
    bad = tmp_path / "bad.csv"
    bad.write_text("nothing\n")
    out = {name: str(tmp_path / f"new/out.{name}") for name in ("json", "csv")}
    arguments = ["compare", str(tidy), str(bad), "--reps", "500", "--json", out["json"], "--csv", out["csv"]]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    for words in (
        "good",
        "a-poor-one-with-[markup]",
        "supported",
        "330.0",
        "real coverage",
        "bad.csv begins with 'nothing'",
    ):
        assert words in printed
    content = json.loads(Path(out["json"]).read_text())
    assert content["returns"][0]["iqm"]["estimate"] == 330
    assert content["pairs"][0]["verdict"] == "supported"
    assert content["reached"][0]["median"] is None  # never reached: JSON has no infinity
    with Path(out["csv"]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    (pair,) = [row for row in rows if row["statistic"] == "probability_of_improvement"]
    assert (pair["method"], pair["other"], pair["verdict"]) == ("good", "a-poor-one-with-[markup]", "supported")
    (iqm,) = [row for row in rows if (row["quantity"], row["method"]) == ("eval/mean_reward", "good")]
    assert float(iqm["low"]) < float(iqm["estimate"]) == 330 < float(iqm["high"])
    assert all(None not in row and None not in row.values() for row in rows)
    first = Path(out["json"]).read_bytes()
    assert main(arguments) == 0
    assert Path(out["json"]).read_bytes() == first


def test_areas_begin_where_they_are_asked_to(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tidy = write(tmp_path / "tidy.csv", [*runs("a", "dog-run", GOOD), *runs("b", "dog-run", POOR)])
    out = tmp_path / "out.json"
    arguments = ["compare", str(tidy), "--reps", "100", "--json", str(out)]
    assert main([*arguments, "--from", "80"]) == 0
    assert "from frame 80 to 100" in capsys.readouterr().out
    content = json.loads(out.read_text())
    assert content["area_starts"] == {"dog-run": 80}
    assert [row["iqm"]["estimate"] for row in content["areas"]] == pytest.approx([330 * 0.9, 130 * 0.9])
    assert main([*arguments, "--from", "100"]) == 2
    words = "areas would go from frame 100 to 100; let them begin earlier (--from), or compare at a later frame (--at)"
    assert capsys.readouterr() == ("", f"steadyq: {words}\n")


def test_of_a_loss_larger_is_not_called_better(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tidy = tmp_path / "tidy.csv"
    write(tidy, [*runs("a", "dog-run", GOOD), *runs("b", "dog-run", POOR)])
    tidy.write_text(tidy.read_text().replace("eval/mean_reward", "train/critic_loss"))
    for over in ("seeds", "tasks"):
        assert main(["compare", str(tidy), "--reps", "100", "--metric", "train/critic_loss", "--over", over]) == 0
        printed = capsys.readouterr().out
        assert "is A larger than B" in printed
        assert "better" not in printed


def test_names_are_printed_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    names = ("sac[/a]", "sac[bold]", ":smile:")  # to rich an error, a style and a face
    tidy = write(tmp_path / "tidy.csv", [run for name in names for run in runs(name, "dog-run[red]", GOOD)])
    assert main(["compare", str(tidy), "--reps", "100", "--score", "200"]) == 0
    printed = capsys.readouterr().out
    for name in names:  # at the frame, as an area, in frames to a score, and in two pairs
        assert sum(name in line and "dog-run[red]" in line for line in printed.splitlines()) == 5


def test_a_seed_that_is_none_is_refused_before_anything_is_computed(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for count in (1, 5):  # one run is not resampled
        tidy = write(tmp_path / "tidy.csv", runs("a", "dog-run", GOOD[:count]))
        assert main(["compare", str(tidy), "--seed", "-1"]) == 2
        assert capsys.readouterr() == ("", "steadyq: the seed is -1; give a whole number >= 0\n")


def test_a_published_file_is_cut_to_the_tasks_and_methods(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    lines = ["source,algorithm,suite,task,seed,env_step,episode_return"]
    for algorithm in ("BRO-utd2", "Other"):
        for task in ("dog-run", "cheetah-run"):
            lines += [f"naumix/B,{algorithm},dmc,{task},{i},{frame},{frame}" for i in range(2) for frame in (0, 100)]
    file = tmp_path / "published.csv"
    file.write_text("\n".join(lines) + "\n")
    tidy = write(tmp_path / "tidy.csv", runs("mine", "dog-run", GOOD))
    study = read_study([tidy], published_file=file)
    assert {(run.method, run.task) for run in study.runs} == {("mine", "dog-run"), ("BRO-utd2@naumix", "dog-run")}
    alone = read_study([], published_file=file, against=["*"], tasks=["cheetah*"])
    assert {(run.method, run.task) for run in alone.runs} == {
        ("BRO-utd2@naumix", "cheetah-run"),
        ("Other@naumix", "cheetah-run"),
    }
    assert main(["compare", str(tidy), "--published", str(file), "--reps", "100"]) == 0
    assert "BRO-utd2@naumix" in capsys.readouterr().out
    nowhere = tmp_path / "nowhere.csv"
    for places, others, says in (([tidy], nowhere, "cannot read"), ([nowhere], file, "there is no")):
        rest = read_study(places, published_file=others)
        assert says in rest.complaints[0]
        assert rest.runs


def test_nothing_left_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for places in ([], [str(tmp_path)], [str(tmp_path / "nowhere"), str(tmp_path)]):
        assert main(["compare", *places]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("steadyq: nothing to read: ")
        assert err.count("\n") == 1
