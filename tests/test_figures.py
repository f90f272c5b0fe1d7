"""Run folders read as curves, and drawn."""

import itertools
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from steadyq.errors import InputError
from steadyq.figures import panels
from steadyq.figures.learning_curve import draw_learning_curve, mean_at_common_frames, write_learning_curve
from steadyq.results.read import read_folder
from steadyq.results.runs import Run
from steadyq.store.metrics_csv import Logger

HEADER = "exp_name,env_name,seed,metric,env_step,value\n"


def make_run(
    folder: Path, *, name: str = "crossq_wn-utd2", env: str = "walker-run", returns: dict[int, list[float]]
) -> Path:
    """A run of these evaluation returns per seed, at every 5,000 frames, with training episodes in between."""
    folder.mkdir()
    log = Logger(folder, exp_name=name, env_name=env, seeds=list(returns), tensorboard=False)
    for seed, values in returns.items():
        for i, value in enumerate(values):
            log.write(seed=seed, frame=5000 * i, metrics={"eval/mean_reward": value})
            log.write(seed=seed, frame=5000 * i + 2500, metrics={"rollout/ep_rew_mean": value / 2, "time/fps": 9.0})
    log.close()
    return folder


def lines(figure: Figure, *, label: str | None = None) -> list[Line2D]:
    (axes,) = figure.get_axes()
    return [line for line in axes.get_lines() if label is None or line.get_label() == label]


def texts(figure: Figure) -> list[str]:
    (axes,) = figure.get_axes()
    return [axes.get_title(loc="left"), *(text.get_text() for text in axes.texts)]


# ---- curves


def test_curves_are_what_the_file_says(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", returns={0: [1.0, 0.1 + 0.2], 3: [4.0]})
    found = read_folder(run, [])
    assert {metric: [one[:3] for one in runs] for metric, runs in found.items()} == {
        metric: [("crossq_wn-utd2", "walker-run", seed) for seed in ("0", "3")]
        for metric in ("eval/mean_reward", "rollout/ep_rew_mean", "time/fps")
    }
    first = found["eval/mean_reward"][0]
    assert first.env_step.dtype == np.int64
    assert first.env_step.tolist() == [0, 5000]
    assert first.value.dtype == np.float64
    assert first.value.tolist() == [1.0, 0.30000000000000004]


def test_a_half_written_last_line_is_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", returns={0: [1.0, 2.0]})
    path = run / "metrics.csv"
    whole = path.read_bytes()
    path.write_bytes(whole + b"crossq_wn-utd2,walker-run,0,eval/mean_reward,10000,31")  # of 312.4
    assert [one.value.tolist() for (one,) in read_folder(run, []).values()] == [[1.0, 2.0], [0.5, 1.0], [9.0, 9.0]]


def test_what_was_diagnosed_later_is_read_too(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", returns={0: [1.0, 2.0]})
    name = "crossq_wn-utd2,walker-run,0"
    (run / "diagnostics.csv").write_text(f"{HEADER}{name},time/fps,2500,7\n{name},diag/x,0,1\n{name},diag/x,5000,2\n")
    found = {metric: one.value.tolist() for metric, (one,) in read_folder(run, []).items()}
    assert found["diag/x"] == [1.0, 2.0]
    assert found["time/fps"] == [9.0, 9.0]  # the run's own record goes first


def test_a_later_diagnosis_at_further_frames_counts_too(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", returns={0: [1.0]})
    name = "crossq_wn-utd2,walker-run,0,diag/x"
    with (run / "metrics.csv").open("a") as file:
        file.write(f"{name},0,1\n{name},10000,3\n")
    (run / "diagnostics.csv").write_text(f"{HEADER}{name},0,8\n{name},5000,2\n{name},10000,9\n")
    (diagnosed,) = read_folder(run, [])["diag/x"]
    assert diagnosed.env_step.tolist() == [0, 5000, 10000]
    assert diagnosed.value.tolist() == [1.0, 2.0, 3.0]


ROW = "a,b,0,eval/mean_reward,0,1\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "begins with ''"),
        ("exp_name,env", "begins with ''"),
        ("step,return\n1,2\n", "begins with 'step,return'"),
        (HEADER + ROW + "a,b,0,eval/mean_reward,5\n", "line 3 of"),
        (HEADER + ROW + "a,b,0,eval/mean_reward,5,1,1\n", "line 3 of"),
        (HEADER + "\n" + ROW, "line 2 of"),
        (HEADER + "a,b,zero,eval/mean_reward,0,1\n", "line 2 of"),
        (HEADER + "a,b,0,eval/mean_reward,0.5,1\n", "line 2 of"),
        (HEADER + "a,b,0,eval/mean_reward,0,high\n", "line 2 of"),
        (HEADER + "a,b,0,eval/mean_reward,0,nan\n", "not finite"),
        (HEADER + 'a,"b,0,eval/mean_reward,0,1\n', "of"),
        (HEADER + ROW + ROW, "at frame 0 twice or out of order"),
        (HEADER + ROW.replace(",0,1", ",9,1") + ROW, "at frame 0 twice or out of order"),
    ],
)
def test_a_malformed_record_is_refused_by_name(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        read_folder(tmp_path, [])
    assert says in str(caught.value)
    assert str(tmp_path / "metrics.csv") in str(caught.value)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="is not the folder of a run"):
            read_folder(folder, [])


def test_the_mean_is_over_common_frames_only() -> None:
    def run(frames: list[int], values: list[float]) -> Run:
        return Run("a", "b", "0", np.array(frames), np.array(values), "here")

    frames, values = mean_at_common_frames([run([0, 5, 10, 15], [0, 1, 2, 3]), run([0, 10, 20], [4, 6, 8])])
    assert frames.tolist() == [0, 10]
    assert values.tolist() == [2.0, 4.0]
    with pytest.raises(InputError, match="share no frame"):
        mean_at_common_frames([run([1], [0]), run([2], [0])])


# ---- figures


def test_one_run_of_several_seeds(tmp_path: Path) -> None:
    returns = {0: [1.0, 20.0, 300.0], 1: [3.0, 40.0, 500.0], 2: [2.0, 90.0, 100.0]}
    figure = draw_learning_curve(make_run(tmp_path / "run", returns=returns))
    each = lines(figure, label="evaluation, each seed")
    assert [line.get_ydata().tolist() for line in each] == list(returns.values())
    assert all(line.get_xdata().tolist() == [0, 5000, 10000] for line in each)
    (mean,) = lines(figure, label="evaluation, mean of seeds")
    assert mean.get_ydata().tolist() == [2.0, 50.0, 300.0]
    assert mean.get_linewidth() > 2 * each[0].get_linewidth()
    training = lines(figure, label="training episodes")
    assert [line.get_ydata().tolist() for line in training] == [[v / 2 for v in values] for values in returns.values()]
    assert training[0].get_xdata().tolist() == [2500, 7500, 12500]
    assert training[0].get_zorder() < each[0].get_zorder() < mean.get_zorder()
    (axes,) = figure.get_axes()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("environment frames", "return")
    assert "walker-run" in texts(figure)[0]
    assert "crossq_wn-utd2" in texts(figure)[0]
    assert "3 seeds, 10,000 environment frames" in texts(figure)
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "training episodes",
        "evaluation, each seed",
        "evaluation, mean of seeds",
    ]


def test_one_run_of_one_seed(tmp_path: Path) -> None:
    figure = draw_learning_curve(make_run(tmp_path / "run", env="Pendulum-v1", returns={8: [-1500.0, -200.0]}))
    (line,) = lines(figure, label="evaluation")
    assert line.get_ydata().tolist() == [-1500.0, -200.0]
    assert len(lines(figure)) == 2  # and its training episodes
    assert "1 seed, 5,000 environment frames" in texts(figure)
    (axes,) = figure.get_axes()
    assert axes.get_ylim()[0] < -1500


def test_a_run_without_evaluation_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(HEADER + "a,b,0,rollout/ep_rew_mean,0,1\n")
    with pytest.raises(InputError, match="no evaluation"):
        draw_learning_curve(tmp_path)


def test_the_file_is_a_png_of_1200_by_750_whatever_the_users_settings(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", name="a-rather-long-name-$x_1$", returns={0: [1.0, 20.0], 1: [3.0, 40.0]})
    before = dict(mpl.rcParams)
    with mpl.rc_context({"savefig.bbox": "tight", "savefig.dpi": 30, "figure.dpi": 30}):
        path = write_learning_curve(run, tmp_path / "new/folder/one.png")
    assert dict(mpl.rcParams) == before
    assert path == tmp_path / "new/folder/one.png"
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.size == (1200, 750)
        pixels = np.asarray(image.convert("L"))
    assert 0.005 < (pixels < 128).mean() < 0.2  # ink, on mostly white
    assert (pixels == 255).mean() > 0.7
    with pytest.raises(InputError, match=r"one\.pdf"):
        write_learning_curve(run, tmp_path / "one.pdf")


def test_drawing_does_not_load_pyplot(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", returns={0: [1.0, 20.0]})
    code = (
        "import sys; from pathlib import Path; from steadyq.figures.learning_curve import write_learning_curve;"
        "write_learning_curve(Path(sys.argv[1]), Path(sys.argv[2]));"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(run), str(tmp_path / "curve.png")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"


def test_labels_keep_their_order_and_their_distance() -> None:
    sizes = [0.1, 0.2, 0.1, 0.1]
    wanted = [0.98, 0.5, 0.97, 0.45]
    centres = panels.keep_apart(wanted, sizes)
    order = np.argsort(wanted)
    assert np.argsort(centres).tolist() == order.tolist()
    for below, above in itertools.pairwise(order):
        assert centres[above] - centres[below] >= (sizes[above] + sizes[below]) / 2 - 1e-9
    assert max(c + s / 2 for c, s in zip(centres, sizes, strict=True)) <= 1 + 1e-9
    assert panels.keep_apart([0.2, 0.8], [0.1, 0.1]) == [0.2, 0.8]  # left alone where there is room
