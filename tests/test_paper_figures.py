"""The paper's figures: what is drawn, and what is said on their face."""

import itertools
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image
from scipy.stats import trim_mean

from steadyq.cli.main import main
from steadyq.errors import InputError
from steadyq.figures import panels, paper, plotting
from steadyq.results import bands, measures, variants
from steadyq.results.read import read_runs
from steadyq.results.runs import Run, Study

FRAMES = np.array([0, 50_000, 100_000])
NORM = "train/critic_weight_norm"


def runs(method: str, task: str, ends: list[float], *, frames: np.ndarray = FRAMES, first: int = 0) -> list[Run]:
    """Runs that grow linearly to these returns."""
    return [
        Run(method, task, str(first + seed), frames, frames / frames[-1] * end, "here") for seed, end in enumerate(ends)
    ]


def five(end: float) -> list[float]:
    return [end + 10 * k for k in range(5)]


def texts(where: Figure | Axes) -> str:
    """Everything that is written there."""
    found = []
    for axes in where.get_axes() if isinstance(where, Figure) else [where]:
        found += [axes.get_title(loc="left"), axes.get_xlabel(), *(text.get_text() for text in axes.texts)]
        found += [label.get_text() for label in axes.get_yticklabels()]
    if isinstance(where, Figure):
        found.append(where.get_suptitle())
    return " ".join(" ".join(found).split())


def lines(axes: Axes) -> list[list[float]]:
    return [
        np.asarray(line.get_ydata(), dtype=float).tolist() for line in axes.get_lines() if len(line.get_ydata()) > 1
    ]


def boxes_of(figure: Figure, written: Iterable[Text]) -> list[Bbox]:
    """Where these texts of a figure stand, once it is drawn."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return [Text.get_window_extent(text, canvas.get_renderer()) for text in written]


# ---- names


@pytest.mark.parametrize(
    ("name", "recipe", "utd", "options"),
    [
        ("crossq_wn-utd2", "crossq_wn", 2, ()),
        ("sac-utd1over3", "sac", Fraction(1, 3), ()),
        ("crossq-utd1-lr=1e-05-width=512", "crossq", 1, (("lr", "1e-05"), ("width", "512"))),
        ("sac-utd2-env.gain=2-width=64", "sac", 2, (("env.gain", "2"), ("width", "64"))),
        ("BRO-utd10@naumix", "BRO@naumix", 10, ()),
        ("SR-SAC-rr32@proceduralia", "SR-SAC@proceduralia", 32, ()),
    ],
)
def test_a_name_tells_its_variant(name: str, recipe: str, utd: Fraction, options: tuple) -> None:
    assert variants.parse(name) == variants.Variant(recipe, Fraction(utd), options)


@pytest.mark.parametrize("name", ["mine", "sac-utd", "sac-utd2-oops", "sac-utd1over0", "", "sac-utd2-width"])
def test_a_name_by_hand_tells_nothing(name: str) -> None:
    assert variants.parse(name) is None
    assert variants.label(name) == name


def test_an_options_value_is_the_recipes_default_where_it_was_not_changed() -> None:
    changed, plain = variants.parse("crossq_wn-utd2-width=64"), variants.parse("crossq_wn-utd2")
    assert changed is not None
    assert plain is not None
    assert (changed.value("width"), plain.value("width")) == (64, 512)
    assert plain.value("colour") is None
    assert plain._replace(recipe="BRO@naumix").value("width") is None


# ---- curves


def test_a_curve_is_the_iqm_where_all_runs_are() -> None:
    short = Run("a", "dog-run", "9", np.array([0, 50_000]), np.array([0.0, 1.0]), "here")
    begun = Run("a", "dog-run", "10", np.array([0]), np.array([0.0]), "here")
    group = runs("a", "dog-run", five(300))
    line = bands.line([*group, short, begun])
    assert line.band.points.tolist() == [0, 50_000]
    assert line.band.estimate[-1] == pytest.approx(trim_mean([*(v / 2 for v in five(300)), 1.0], 0.25))
    assert line.until == "drawn to frame 50,000, where seed 9 of a on dog-run ends"
    whole = bands.line(group)
    assert whole.until == ""
    assert whole.band.low[-1] < whole.band.estimate[-1] < whole.band.high[-1]
    assert whole.spread.low[-1] == pytest.approx(np.quantile(five(300), 0.05))
    plain = bands.line(group, interval=False)
    assert plain.band.estimate.tolist() == whole.band.estimate.tolist()
    assert np.isnan(plain.band.low).all()


def test_a_curve_goes_on_to_the_frame_that_is_named() -> None:
    coarse, fine = (
        Run("a", "dog-run", seed, frames, frames / 1000, "here")
        for seed, frames in (("0", FRAMES), ("1", np.arange(0, 45_001, 5_000)))
    )
    line = bands.line([coarse, fine])
    assert line.until == "drawn to frame 45,000, where seed 1 of a on dog-run ends"
    assert line.band.points.tolist() == [0, 45_000]
    assert line.band.estimate.tolist() == [0, 45]


def test_published_runs_end_where_ones_own_do() -> None:
    theirs = [run._replace(source="x/y") for run in runs("b", "dog-run", [8.0], frames=2 * FRAMES)]
    other = [run._replace(source="x/y") for run in runs("b", "dog-walk", [8.0])]
    late = [run._replace(source="x/y", env_step=run.env_step + 10**6) for run in runs("c", "dog-run", [8.0])]
    found = bands.cut_published([*runs("a", "dog-run", [1.0]), *theirs, *other, *late])
    assert [(run.method, run.env_step.tolist()) for run in found] == [
        ("a", FRAMES.tolist()),
        ("b", [0, 100_000]),
        ("b", FRAMES.tolist()),
    ]


def test_thinning_keeps_both_ends() -> None:
    assert bands.thin(np.arange(1000), 7).tolist()[::6] == [0, 999]
    assert len(bands.thin(np.arange(1000), 7)) == 7
    assert bands.thin(np.arange(5), 7).tolist() == [0, 1, 2, 3, 4]


# ---- figures


def test_figure_1_draws_what_there_is_and_says_what_is_not() -> None:
    study = Study(
        [*runs("sac-utd1", "dog-run", five(100)), *runs("crossq-utd1", "dog-run", five(300))],
        [],
        {NORM: runs("sac-utd1", "dog-run", five(40))},
    )
    figure = paper.draw("1", study)
    found = {axes.get_title(loc="left"): axes for axes in figure.get_axes()}
    assert len(found) == 2 + len(measures.Q_BIAS)
    assert lines(found["return"]) == [[0, 60, 120], [0, 160, 320]]
    assert "5 seeds" in texts(found["return"])
    assert "dog-run; to frame 100,000" in texts(found["return"])
    assert lines(found["weight norm of the critic"]) == [[0, 30, 60]]
    assert f"no {NORM} of crossq, UTD 1: training logs it" in texts(found["weight norm of the critic"])
    for measure in measures.Q_BIAS:
        assert not lines(found[measure.title])
        assert f"no {measure.metric} in these runs: measure it with `steadyq" in texts(found[measure.title])
    assert "TOO FEW" not in texts(figure)


def test_what_some_tasks_lack_is_told_task_by_task() -> None:
    tasks = [f"dog-{letter}" for letter in "abcdefg"]
    study = Study(
        [run for name in ("sac-utd1", "crossq-utd1") for task in tasks for run in runs(name, task, five(100))],
        [],
        {
            NORM: [run for task in tasks[:3] for run in runs("sac-utd1", task, five(40))],
            measures.Q_BIAS[0].metric: [run for task in tasks for run in runs("sac-utd1", task, five(40))]
            + runs("crossq-utd1", tasks[0], five(1)),
        },
    )
    found = {axes.get_title(loc="left"): texts(axes) for axes in paper.draw("1", study).get_axes()}
    assert (
        f"no {NORM} of crossq, UTD 1; of sac, UTD 1 on dog-d, dog-e, dog-f, dog-g:" in found[measures.WEIGHT_NORM.title]
    )
    missing = f"no {measures.Q_BIAS[0].metric} of crossq, UTD 1 on dog-b, dog-c, dog-d, dog-e and 2 more:"
    assert missing in found[measures.Q_BIAS[0].title]


def test_methods_whose_seeds_share_no_frame_are_named() -> None:
    early, late = runs("sac-utd2", "dog-run", [1.0]), runs("sac-utd2", "dog-run", [1.0], first=1)
    late = [run._replace(env_step=run.env_step + 200_000) for run in late]
    study = Study([*runs("sac-utd1", "dog-run", five(100)), *early, *late], [])
    for number in ("2", "3"):
        told: list[str] = []
        figure = paper.draw(number, study, against=[], tell=told.append)
        assert "not drawn: sac, UTD 2 (no frame that all of its seeds reach)" in texts(figure)


def test_seeds_are_counted_where_they_are_drawn() -> None:
    """A stray run elsewhere does not make the rest look too few."""
    study = Study(
        [
            *runs("sac-utd1", "dog-run", five(100)),
            *runs("sac-utd2", "dog-run", five(200)),
            *runs("sac-utd1-width=64", "dog-run", five(200)),
            *runs("sac-utd1", "hopper-hop", [1.0]),
        ],
        [],
    )
    for number in ("2", "5", "6"):
        assert "TOO FEW" not in texts(paper.draw(number, study)), number


def test_no_band_is_cut_off_at_zero() -> None:
    bias = [
        Run("a", "dog-run", str(seed), FRAMES, np.full(3, value), "here") for seed, value in enumerate((-0.3, 0.2, 0.5))
    ]
    study = Study(runs("a", "dog-run", [100, 200, 300]), [], {measures.Q_BIAS[0].metric: bias})
    found = {axes.get_title(loc="left"): axes for axes in paper.draw("1", study).get_axes()}
    assert lines(found[measures.Q_BIAS[0].title])[0] == pytest.approx([0.4 / 3] * 3)  # above, but its interval is not
    assert found[measures.Q_BIAS[0].title].get_ylim()[0] < -0.3
    assert found["return"].get_ylim()[0] == 0


def test_each_method_has_its_line_whatever_its_name() -> None:
    names = ("a-utd2", "a-rr2", "a-utd2.0")
    study = Study([run for k, name in enumerate(names) for run in runs(name, "dog-run", five(100 * k))], [])
    for number in ("1", "2", "3"):
        axes = paper.draw(number, study, against=[]).get_axes()[0]
        assert [line[-1] for line in lines(axes)] == [20, 120, 220]
        labels = {text.get_text() for text in axes.texts if "seeds" in text.get_text()}
        assert labels == {f"{'a, UTD 2' if name == 'a-utd2' and number != '2' else name}\n5 seeds" for name in names}


def test_long_names_find_room(tmp_path: Path) -> None:
    options = "-actor_width=32-batch_size=32-buffer_size=2000-learning_starts=50-width=32"
    names = [f"{recipe}{options}" for recipe in ("sac-utd1", "crossq_wn-utd2", "bro_fast-utd10")]
    apart = Study([run for k, name in enumerate(names) for run in runs(name, f"dog-run{k}", five(100))], [])
    paper.write(paper.draw("2", apart), tmp_path / "2")  # where there is none, Matplotlib warns
    together = Study([run for name in names for run in runs(name, "dog-run", five(100))], [])
    figure = paper.draw("3", together)
    (axes,) = figure.get_axes()
    boxes = boxes_of(figure, [text for text in axes.texts if "seeds" in text.get_text()])
    assert len(boxes) == 4
    for one, other in itertools.combinations(boxes, 2):
        assert not one.padded(-2).overlaps(other)


def test_what_is_said_below_a_panel_is_neither_cut_off_nor_hidden() -> None:
    names = [f"crossq_wn-utd{utd}-precision=bfloat16-project=none" for utd in (1, 2, 5, 10)]
    study = Study(
        [run for name in names for run in runs(name, "walker-run", five(100))],
        [],
        {
            measure.metric: runs(names[0], "walker-run", five(1), frames=FRAMES // 2)
            for measure in (*measures.Q_BIAS, measures.WEIGHT_NORM, measures.GRADIENT_NORM, *measures.DEAD)
        },
    )
    for number in ("1", "4"):
        figure = paper.draw(number, study)
        notes = [axes.xaxis.label for axes in figure.get_axes() if "no " in axes.get_xlabel()]
        ends = [text for axes in figure.get_axes() for text in axes.texts if "seeds" in text.get_text()]
        boxes = boxes_of(figure, [*notes, *ends])
        assert len(notes) > 1
        assert max(box.x1 for box in boxes[: len(notes)]) < figure.bbox.width
        for one, other in itertools.combinations(boxes, 2):
            assert not one.padded(-2).overlaps(other)


def test_few_seeds_are_said_on_the_face() -> None:
    for count, says in (
        (1, "TOO FEW SEEDS: 1 on some task. No interval"),
        (3, "3 on some task. Real coverage of a 95% interval: about 76"),
    ):
        study = Study([*runs("a", "dog-run", five(100)), *runs("b", "dog-run", five(100)[:count])], [])
        for number in ("1", "3"):
            assert says in texts(paper.draw(number, study))


def test_what_hardly_moves_looks_so() -> None:
    same = [run._replace(value=np.full(3, 46.669 + 1e-6 * k)) for k, run in enumerate(runs("a", "dog-run", five(1)))]
    figure = paper.draw("1", Study(runs("a", "dog-run", five(300)), [], {NORM: same}))
    bottom, top = figure.get_axes()[-1].get_ylim()
    assert bottom < 46 < 47 < top
    boxes_of(figure, [])  # draws it
    assert not figure.get_axes()[-1].yaxis.get_offset_text().get_text()


def test_a_multiplier_of_ticks_stands_clear_of_the_title() -> None:
    huge = {measures.Q_BIAS[0].metric: runs("a", "dog-run", five(1e8))}
    figure = paper.draw("1", Study(runs("a", "dog-run", five(300)), [], huge))
    axes = figure.get_axes()[1]
    multiplier, *titles = boxes_of(figure, [axes.yaxis.get_offset_text(), *axes.texts])
    assert axes.yaxis.get_offset_text().get_text() == "1e8"
    assert titles
    assert not any(multiplier.overlaps(title) for title in titles)


def test_figure_2_has_a_line_for_each_utd_and_the_values_at_the_end() -> None:
    study = Study(
        [
            run
            for utd, end in ((10, 500), (2, 300))
            for task in ("dog-run", "dog-walk")
            for run in runs(f"crossq_wn-utd{utd}", task, five(end))
        ],
        [],
    )
    figure = paper.draw("2", study)
    left, right = figure.get_axes()
    assert lines(left) == [[0, 160, 320], [0, 260, 520]]  # in the order of UTD
    (points,) = [line for line in right.get_lines() if line.get_marker() == "o"]
    assert points.get_xdata().tolist() == [2, 10]
    assert points.get_ydata().tolist() == [320, 520]
    assert "UTD 10 5 seeds" in texts(left)
    assert "dog-run, dog-walk; frame 100,000; 5 seeds" in texts(right)
    untold = texts(paper.draw("2", Study(runs("a", "dog-run", [1.0]), [])))
    assert "no method with a value after frame 0 tells its UTD" in untold


def test_values_close_together_have_room_above_them() -> None:
    found = [run for utd, end in ((2, 259), (10, 248)) for run in runs(f"crossq_wn-utd{utd}", "dog-run", five(end))]
    _, right = paper.draw("2", Study(found, [])).get_axes()
    assert right.get_ylim()[1] > 1.04 * max(max(line.get_ydata()) for line in right.get_lines())


def test_figure_3_has_tasks_aggregates_and_published_curves() -> None:
    tasks = ("cheetah-run", "dog-run", "dog-walk")
    study = Study([run for task in tasks for run in runs("mine", task, five(300))], [])
    found = {axes.get_title(loc="left"): axes for axes in paper.draw("3", study).get_axes()}
    assert list(found) == [*tasks, "dog and humanoid: 2 tasks", "all 3 tasks"]
    assert "BRO-utd10@naumix published, 10 seeds" in texts(found["dog-run"])
    assert len(lines(found["dog-run"])) == 2  # ours and BRO's; SAC with resets was not run on dogs
    assert len(lines(found["cheetah-run"])) == 3
    assert lines(found["all 3 tasks"]) == [[0, 160, 320]]
    assert "from per-seed results only (--published)" in texts(found["all 3 tasks"])
    half = Study([*study.runs, *runs("other", "dog-run", five(1))], [])
    last = paper.draw("3", half, against=["nobody"]).get_axes()[-1]
    assert "not on all of them: other" in texts(last)
    assert "published" not in texts(last)


def test_a_long_heading_takes_no_room_from_the_panels() -> None:
    heights = []
    for seeds in (5, 2):  # of two too few are told
        figure = paper.draw("3", Study(runs("mine", "dog-run", five(300)[:seeds]), []))
        figure.draw_without_rendering()
        heights.append(figure.get_axes()[0].get_window_extent().height)
        assert "several tasks" not in figure.get_suptitle()
    assert figure.get_suptitle().count("\n") == 2
    assert heights[1] == pytest.approx(heights[0], rel=0.02)


def test_figure_3_says_where_published_curves_begin_that_begin_too_late() -> None:
    figure = paper.draw("3", Study(runs("mine", "cheetah-run", five(300), frames=FRAMES // 10), []))
    (axes,) = figure.get_axes()
    assert len(lines(axes)) == 1
    assert "BRO-utd10@naumix: published from frame 25,000 on" in texts(axes)
    figure.draw_without_rendering()  # which warns if the panel has no room


def test_figure_3_shows_a_published_curve_of_one_point() -> None:
    study = Study(runs("mine", "cheetah-run", five(300), frames=FRAMES // 4), [])  # to 25,000
    (axes,) = paper.draw("3", study).get_axes()
    points = [line for line in axes.get_lines() if len(line.get_xdata()) == 1]
    assert [(line.get_xdata().tolist(), line.get_marker()) for line in points] == [([25_000], "o")] * 2
    bars = [band for band in axes.collections if band.get_linewidth()[0]]
    assert len(bars) == 2


def test_one_stray_run_empties_no_figure(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tasks = ("dog-run", "dog-walk", "walker-run")
    methods = ("crossq_wn-utd2", "crossq_wn-utd10", "crossq_wn-utd2-width=128")
    whole = [run for method in methods for task in tasks for run in runs(method, task, five(300))]
    stray = runs("crossq_wn-utd20", "hopper-hop", [1.0])
    table = write(tmp_path / "runs.csv", [*stray, *whole])
    assert main(["figures", "all", str(table), "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().err
    words = "left out: crossq_wn, UTD 20 (not on all of 3 tasks)"
    for number, sentence in (("1", words), ("2", words), ("3", f"of several tasks together {words}"), ("4", words)):
        assert f"figure {number}: {sentence}" in told
    study = Study([*stray, *whole], [])
    overview = paper.draw("1", study)
    assert lines(overview.get_axes()[0]) == [[0, 160, 320]] * 3
    assert words in texts(overview)
    left, right = paper.draw("2", study).get_axes()[:2]
    assert lines(left) == [[0, 160, 320]] * 2
    assert words in texts(left)
    (points,) = [line for line in right.get_lines() if line.get_marker() == "o"]
    assert points.get_xdata().tolist() == [2, 10]
    found = {axes.get_title(loc="left"): axes for axes in paper.draw("3", study, against=[]).get_axes()}
    assert list(found) == ["dog-run", "dog-walk", "hopper-hop", "walker-run", "dog and humanoid: 2 tasks", "3 tasks"]
    assert lines(found["3 tasks"]) == [[0, 160, 320]] * 3
    more = [*whole, *runs(methods[2], "hopper-hop", [1.0])]
    said = texts(paper.draw("5", Study(more, [])))
    assert "left out: hopper-hop (not all of these methods have runs there)" in said
    assert "width 128 5 seeds" in said


def test_methods_without_a_common_task_leave_one_of_them() -> None:
    study = Study([*runs("a-utd1", "dog-run", five(100)), *runs("b-utd1", "cheetah-run", five(100))], [])
    for number in ("1", "3"):
        figure = paper.draw(number, study, against=[])
        assert "b, UTD 1" in texts(figure)
        assert lines(figure.get_axes()[0]) == [[0, 60, 120]]
    assert [axes.get_title(loc="left") for axes in figure.get_axes()] == ["cheetah-run", "dog-run"]


def test_figure_5_compares_with_the_recipe_as_it_is() -> None:
    study = Study(
        [*runs("crossq_wn-utd2", "dog-run", five(300)), *runs("crossq_wn-utd2-target=none", "dog-run", five(100))], []
    )
    said = texts(paper.draw("5", study))
    assert "as it is 5 seeds" in said
    assert "target none 5 seeds" in said
    assert "320" in said
    assert "no recipe here was run with an option changed" in texts(paper.draw("5", Study(study.runs[:5], [])))


def test_figure_5_has_room_for_many_changes() -> None:
    names = ["crossq_wn-utd2", *(f"crossq_wn-utd2-{name}=1" for name in "abcdefghijklmn")]
    figure = paper.draw("5", Study([run for name in names for run in runs(name, "dog-run", five(300))], []))
    (axes,) = figure.get_axes()
    boxes = boxes_of(figure, axes.get_yticklabels())
    assert len(boxes) == len(names)
    for one, other in itertools.pairwise(boxes):
        assert not one.overlaps(other)


def test_figure_6_is_over_the_options_values() -> None:
    study = Study(
        [*runs("crossq_wn-utd2", "dog-run", five(300)), *runs("crossq_wn-utd2-width=128", "dog-run", five(100))], []
    )
    rate, width = paper.draw("6", study).get_axes()
    assert "two values of --lr" in texts(rate)
    (points,) = [line for line in width.get_lines() if line.get_marker() == "o"]
    assert points.get_xdata().tolist() == [128, 512]
    assert points.get_ydata().tolist() == [120, 320]


def test_returns_without_a_common_scale_are_not_averaged() -> None:
    study = Study([*runs("a-utd1", "Ant-v4", five(3000)), *runs("a-utd1", "Hopper-v4", five(1000))], [])
    assert "have no common scale: choose one with --tasks" in texts(paper.draw("1", study))
    assert [axes.get_title(loc="left") for axes in paper.draw("3", study).get_axes()] == ["Ant-v4", "Hopper-v4"]
    paper.draw("2", study)


def test_more_methods_than_colours_are_left_out_and_said() -> None:
    study = Study([run for k in range(9) for run in runs(f"m{k}", "dog-run", five(k))], [])
    figure = paper.draw("3", study, against=[])
    assert "The first 7 of 9 methods" in texts(figure)
    (axes,) = figure.get_axes()
    drawn = axes.get_lines()
    assert len({line.get_color() for line in drawn}) == len(drawn) == len(plotting.COLOURS)
    grey = {(look.marker, look.style) for look in panels.looks(plotting.COLOURS).values()}
    assert len(grey) == len(plotting.COLOURS)


def test_an_unknown_figure_is_refused() -> None:
    with pytest.raises(InputError, match="unknown figure '9'"):
        paper.draw("9", Study(runs("a", "dog-run", [1.0]), []))


# ---- the command


def write(path: Path, found: list[Run]) -> Path:
    rows = [
        f"{run.method},{run.task},{run.seed},eval/mean_reward,{frame},{value}"
        for run in found
        for frame, value in zip(run.env_step, run.value, strict=True)
    ]
    path.write_text("\n".join(["exp_name,env_name,seed,metric,env_step,value", *rows]) + "\n")
    return path


def test_the_command_writes_png_and_pdf(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    table = write(tmp_path / "runs.csv", [*runs("a-$x_1$-utd1", "dog-run", five(100)), *runs("b", "dog-run", [1.0])])
    broken = tmp_path / "broken.csv"
    broken.write_text("nothing\n")
    arguments = ["figures", "all", str(table), str(broken), "--out", str(tmp_path / "new/out")]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    files = [Path(line) for line in out.splitlines()]
    assert [path.name for path in files] == [f"figure-{n}.{kind}" for n in "123456" for kind in ("png", "pdf")]
    assert "broken.csv begins with 'nothing'" in err
    assert files[1].read_bytes().startswith(b"%PDF")
    with Image.open(files[0]) as image:
        assert (np.asarray(image.convert("L")) < 128).mean() > 0.003
    before = [path.read_bytes() for path in files]
    assert main([*arguments, "--methods", "*"]) == 0
    assert [path.read_bytes() for path in files] == before
    capsys.readouterr()
    for wrong, says in (
        ([str(table)], "which figure?"),
        (["1"], "nothing to read"),
        (["1", str(table), "--methods", "c*"], "no method matches c*; there are a-$x_1$-utd1, b"),
    ):
        assert main(["figures", *wrong, "--out", str(tmp_path)]) == 2
        assert says in capsys.readouterr().err


def test_more_metrics_are_read_in_the_same_pass(tmp_path: Path) -> None:
    table = write(tmp_path / "runs.csv", runs("a", "dog-run", [1.0]))
    table.write_text(table.read_text() + f"a,dog-run,0,{NORM},5,46\na,dog-run,0,other,5,1\n")
    study = read_runs([table])
    assert [run.value[-1] for run in study.runs] == [1.0]
    assert {name: [run.value.tolist() for run in found] for name, found in study.more.items()} == {NORM: [[46.0]]}
