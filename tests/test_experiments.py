"""The scripts behind the evidence: which rows they keep, and that the page has what they print."""

import csv
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import authors, fifteen, tables
from experiments.names import named
from experiments.numbers import Published
from steadyq.results.read import read_runs
from steadyq.store.metrics_csv import HEADER, Logger
from steadyq.store.names import CRITIC_NORM, DIAGNOSED_NORM, WALL_TIME
from steadyq.study import collect, file

ELR = "diag/critic/elr"
NORM = {"train/critic_weight_norm": 7.0}


def make_run(folder: Path, *, last: int) -> Path:
    """A run that was evaluated and diagnosed each ten frames."""
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    log = Logger(folder, exp_name="sac", env_name="dog-run", seeds=[0], tensorboard=False)
    for frame in range(0, last + 1, 10):
        log.write(
            seed=0, frame=frame, metrics={"eval/mean_reward": float(frame), ELR: 1.0, "rollout/ep_len_mean": 1.0} | NORM
        )
    log.close()
    return folder


def collected(out: Path, *runs: Path, layers: bool = True) -> tuple[dict[tuple[str, int], float], list[str]]:
    """Values of the table, by metric and frame, after it took up these runs; and the complaints."""
    with pytest.MonkeyPatch.context() as patch:
        how = {"from_frame": 0, "precision": "bfloat16", "threads": 1, "commit": "abc", "machine": {"cpu": "some"}}
        changed = how | {"from_frame": 20, "precision": "float32", "commit": "def"}
        patch.setattr(collect, "read_record", lambda run: SimpleNamespace(stretches=[how, changed]))
        complaints = collect.collect(list(runs), out, layers=layers).complaints
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {(row["metric"], int(row["env_step"])): float(row["value"]) for row in rows}
    assert len(found) == len(rows)
    return found, complaints


def test_what_was_diagnosed_twice_is_collected_once(tmp_path: Path) -> None:
    run, out = make_run(tmp_path / "run", last=20), tmp_path / "table.csv"
    later = [f"sac,dog-run,0,{ELR},{frame},2\n" for frame in (0, 5, 20)]
    (run / "diagnostics.csv").write_text(HEADER + "".join(later))
    found, complaints = collected(out, run)
    wanted = {("eval/mean_reward", f): f for f in (0, 10, 20)} | {(ELR, f): 1 for f in (0, 10, 20)}
    assert found == wanted | {(ELR, 5): 2} | {("train/critic_weight_norm", f): 7 for f in (0, 10, 20)}
    assert complaints == read_runs([out]).complaints == []


def test_the_run_that_got_further_is_kept(tmp_path: Path) -> None:
    long, short, out = make_run(tmp_path / "m", last=50), make_run(tmp_path / "z", last=30), tmp_path / "table.csv"
    says = f"seed 0 of sac on dog-run is in {long} to frame 50 and in {short} to frame 30; only the first counts"
    found, complaints = collected(out, long, short)
    assert ("eval/mean_reward", 50) in found
    assert complaints == [says]
    early = short.rename(tmp_path / "a")  # the order of their names does not matter
    out.unlink()
    found, complaints = collected(out, early, long)
    assert ("eval/mean_reward", 50) in found
    assert complaints == [says.replace(str(short), str(early))]
    found, complaints = collected(out, early)
    assert ("eval/mean_reward", 50) in found
    assert complaints == [says.replace(str(short), str(early)).replace(str(long), str(out))]
    found, complaints = collected(out, make_run(tmp_path / "further", last=60))
    assert ("eval/mean_reward", 60) in found
    assert complaints == []  # brought up to date


def test_rows_tell_how_their_own_stretch_was_made(tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    collected(out, make_run(tmp_path / "run", last=40))
    with out.open(newline="") as file:
        how = {(int(row["env_step"]), row["precision"], row["commit"]) for row in csv.DictReader(file)}
    before, after = ("bfloat16", "abc"), ("float32", "def")
    assert how == {(0, *before), (10, *before), (20, *before), (30, *after), (40, *after)}


def test_what_a_copy_was_diagnosed_of_is_not_lost(tmp_path: Path) -> None:
    """Whichever of the two comes first, and whether it is a folder or what the table has of one."""
    plain, copy, out = make_run(tmp_path / "a", last=30), make_run(tmp_path / "b", last=20), tmp_path / "table.csv"
    (copy / "diagnostics.csv").write_text(HEADER + "".join(f"sac,dog-run,0,diag/alpha,{f},2\n" for f in (0, 5)))
    for order in ((plain, copy), (copy, plain), (plain,)):  # the last time the rows are in the table alone
        found, _ = collected(out, *order)
        assert found["diag/alpha", 0] == found["diag/alpha", 5] == 2
        assert ("eval/mean_reward", 30) in found
    (copy / "diagnostics.csv").write_text(HEADER + f"sac,dog-run,0,{DIAGNOSED_NORM}/hidden_0,0,2\n")
    found, _ = collected(out, plain, copy, layers=False)
    assert (f"{DIAGNOSED_NORM}/hidden_0", 0) not in found


def test_another_run_of_the_same_name_is_reported(tmp_path: Path) -> None:
    out, first, second = tmp_path / "table.csv", make_run(tmp_path / "first", last=20), tmp_path / "second"
    assert collected(out, first)[1] == []
    make_run(second, last=30)
    text = (second / "metrics.csv").read_text()
    (second / "metrics.csv").write_text(text.replace("eval/mean_reward,10,10\n", "eval/mean_reward,10,99\n"))
    found, complaints = collected(out, second)
    assert found["eval/mean_reward", 10] == 99
    assert complaints == [
        f"seed 0 of sac on dog-run is in {second} to frame 30 and, with other numbers (eval/mean_reward at frame 10: "
        f"99 and 10), in {out} to frame 20; only the first counts"
    ]


def test_layers_can_be_left_out(tmp_path: Path) -> None:
    run, out = make_run(tmp_path / "run", last=0), tmp_path / "table.csv"
    of_layers = [f"sac,dog-run,0,{name},0,2\n" for name in (f"{DIAGNOSED_NORM}/hidden_0", "diag/actor/elr/readout_1")]
    of_all = [f"sac,dog-run,0,{name},0,2\n" for name in (DIAGNOSED_NORM, "diag/q_bias/per_state_std", "diag/alpha")]
    (run / "diagnostics.csv").write_text(HEADER + "".join([*of_layers, *of_all]))
    few, _ = collected(out, run, layers=False)
    all_of_them, _ = collected(out, run)  # and brought up to date, they come in
    assert len(few) == 3 + len(of_all)
    assert all_of_them.keys() - few.keys() == {(line.split(",")[3], 0) for line in of_layers}


PAGE = Path(tables.__file__).parents[1] / "docs/evidence.md"
BY_HAND = ("| claim | looked at on |", "| recipe | next to |", "| of the plan | state |")
"""How the tables of the page begin that no script prints."""


def blocks(text: str) -> list[str]:
    """The tables of a page, each after the bold title in the paragraph above it, if it has one."""
    found, title = [], ""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        lines = paragraph.splitlines()
        if lines and lines[0].startswith("|"):
            found.append("\n".join([title, *lines]))
            title = ""
        elif lines:
            title = lines[0] if lines[0].startswith("**") and lines[0].endswith(":") else ""
    return found


def test_the_evidence_has_the_tables_that_its_script_prints(capsys: pytest.CaptureFixture[str]) -> None:
    tables.main()
    printed, page = capsys.readouterr().out, PAGE.read_text()
    here = [table for table in blocks(page) if not table.lstrip().startswith(BY_HAND)]
    assert len(here) == 25
    assert here == blocks(printed)
    (difference,) = (line for line in printed.splitlines() if line.startswith("bfloat16 - float32"))
    assert difference in page.splitlines()


def test_the_fifteen_tasks_have_the_methods_that_their_tables_ask_for() -> None:
    planned = {Path(run.folder).parent.name for run in file.read(PAGE.parents[1] / "experiments/fifteen.toml")}
    alone = {fifteen.FLOAT32, fifteen.READOUT, fifteen.MOMENTS, named(2, authors.WHOLE)}
    assert planned == {*fifteen.UTDS.values(), *fifteen.FREE.values(), *alone}


def test_claims_over_fifteen_tasks_are_decided_as_counting_signs_by_hand_decides_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """UTD 10 is twice as good on all tasks, UTD 2 and float32 are alike on all, and the norm grows on six of six.

    A run at UTD 10 takes twelve minutes.
    """
    table = tmp_path / "fifteen.csv"
    rows = ["exp_name,env_name,seed,metric,env_step,value"]
    level = {fifteen.UTDS[10]: 2, fifteen.UTDS[2]: 1, fifteen.FLOAT32: 1.01}
    for place, task in enumerate(fifteen.TASKS):
        for method, times in level.items():
            rows.append(f"{method},{task},0,eval/mean_reward,0,99")  # untrained: it must not count
            rows += [f"{method},{task},0,eval/mean_reward,{frame},{times * (place + 1)}" for frame in (10_000, 50_000)]
        rows += [
            f"{fifteen.UTDS[10]},{task},0,{WALL_TIME},{frame},{seconds}" for frame, seconds in ((0, 1), (50_000, 720))
        ]
    for task in fifteen.TASKS[:6]:
        rows.append(f"{fifteen.FREE[2]},{task},0,eval/mean_reward,0,1")
        for method, norm in ((fifteen.UTDS[2], 1.0), (fifteen.FREE[2], 1.5)):
            for frame in (10_000, 20_000, 50_000):
                value = norm if frame == 50_000 else 1
                rows.append(f"{method},{task},0,{DIAGNOSED_NORM},{frame},{value}")
    table.write_text("\n".join(rows) + "\n")
    fifteen.print_all(read_runs([table]))
    printed = capsys.readouterr().out.splitlines()
    assert "| UTD 10 is better than UTD 2 | 50,000 | 15 | +50% | +50% to +50% (95%) | 6.1e-05 | supported |" in printed
    (equal,) = (line for line in printed if "equal to float32" in line)
    assert equal.endswith("| -1% | -1% to -1% (90%) | 6.1e-05 | equal |")
    (grown,) = (line for line in printed if line.startswith("| not projected, UTD 2 | `crossq_wn`, UTD 2 | 50,000 |"))
    assert grown.count(" 1.50 (1.00)") == 6
    assert grown.endswith(" | 6 of 6 | 0.031 | supported |")
    assert f"| `{fifteen.UTDS[10]}` | 15 | 750,000 | 3.0 | 0.2 |" in printed
    assert any(line.startswith("| mean of all 15 | 8 | 16 |") for line in printed)
    head = printed.index("**Next to their runs at frame 50,000**:")
    (simba,) = (line for line in printed[head:] if line.startswith("| SimBa-utd2@SonyResearch |"))
    # Counted by hand: humanoid-run, -stand and -walk (10, 11, 12) above; hopper-hop, hopper-stand and pendulum-swingup
    # (8, 9, 13) within, and with twice the return finger-turn_hard (12 of 11.7 to 527) too; the others below.
    assert simba.startswith("| SimBa-utd2@SonyResearch | 3, 3, 9; ")
    assert " | 3, 4, 8; " in simba


def test_ours_has_a_place_among_theirs_over_tasks() -> None:
    """Above all of theirs on five tasks of six, in their middle on one: of 64 signs, four go as far."""
    theirs = {str(task): Published(iqm=10, mean=10, p05=5, p25=8, p75=12, p95=15) for task in range(6)}
    found = fifteen.next_to({task: 10 if task == "0" else 20 for task in theirs}, theirs)
    assert found == "5, 1, 0; 0.90 (p 0.062)"


def test_the_share_of_their_runs_below_ours_is_read_off_their_percentiles() -> None:
    runs = np.arange(1.0, 102)  # of 101 equally spaced runs, percentiles are exact
    theirs = Published(51, 51, *np.percentile(runs, (5, 25, 75, 95)))
    assert [theirs.share_below(value) for value in (6, 26, 31, 51, 91)] == pytest.approx([0.05, 0.25, 0.3, 0.5, 0.9])
    assert (theirs.share_below(0), theirs.share_below(200)) == (0.025, 0.975)  # in the middle of what is left
    never = Published(0, 0, 0, 0, 0, 20)
    assert never.share_below(0) == pytest.approx(0.35)  # at three of the percentiles


def test_the_authors_runs_stand_next_to_ours_seed_by_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, rows = tmp_path / "authors.csv", ["exp_name,env_name,seed,metric,env_step,value"]
    for method, seed, first in (("authors-utd2", 1, 8), ("authors-utd2", 0, 5), (fifteen.UTDS[2], 0, 3)):
        values = {"eval/mean_reward": 100 * first, CRITIC_NORM: first + 0.25}
        rows += [f"{method},dog-stand,{seed},{metric},20000,{value}" for metric, value in values.items()]
    rows.append(f"{fifteen.UTDS[2]},walker-run,0,eval/mean_reward,20000,1")
    table.write_text("\n".join(rows) + "\n")
    authors.print_all(read_runs([table]))
    printed = capsys.readouterr().out
    assert "\n**dog-stand, UTD 2**, by seed:\n" in printed
    assert "\n| Return | theirs | 500, 800 |  |  |  |\n| Return | ours | 300 |  |  |  |\n" in printed
    of_norms = "| Weight norm of the critic |"
    assert f"\n{of_norms} theirs | 5.2, 8.2 |  |  |  |\n{of_norms} ours | 3.2 |  |  |  |\n" in printed
    assert "walker-run" not in printed  # there is nothing of theirs
