"""Studies: what a file asks for, and that every run of it is made once, whatever happens meanwhile."""

import contextlib
import cProfile
import errno
import json
import os
import pstats
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import gymnasium
import numpy as np
import pytest
from safetensors.numpy import save_file

import steadyq
from runs import run_at, steps_take, stopped_at
from steadyq.cli.main import main
from steadyq.engine import machine
from steadyq.errors import InputError
from steadyq.results.read import read_runs
from steadyq.run.choices import settings_of
from steadyq.store import disk, lock, metrics_csv
from steadyq.store.metrics_csv import Row
from steadyq.store.record import read_record
from steadyq.store.replay import Replay
from steadyq.study import collect, estimate, file, local, make, plan, state, status, tries, worker
from steadyq.study.plan import Planned
from toy import Point

TINY = """
[defaults]
width = 16
actor-width = 16
frames = 90
learning_starts = 40
batch_size = 8
eval_every = 40
eval_episodes = 2
log_every = 30
save_every = 30
compile = "off"
threads = 1
utd = "1/4"
"""
FOUR = (
    TINY
    + """
[[runs]]
recipe = "crossq_wn"
env = "deadly:Point-v0"
seeds = [0, 1]
utd = ["1/4", "1/2"]
"""
)
ONE = TINY + '[[runs]]\nrecipe = "sac"\nenv = "toy:Point-v0"\nseeds = [0]\n'
LIMIT = 300  # seconds after which a command has hung


def command(
    *words: object, deaths: Path | None = None, program: tuple[str, ...] = ("-m", "steadyq")
) -> "subprocess.Popen[str]":
    """`steadyq study ...` as a process."""
    sources = os.pathsep.join(map(str, (Path(steadyq.__file__).parents[1], Path(__file__).parents[1])))
    environment = {**os.environ, "DEADLY": str(deaths or "/nowhere"), "PYTHONPATH": sources}
    return subprocess.Popen(
        [sys.executable, *program, "study", *map(str, words)],
        cwd=Path(__file__).parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def done(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Exit code, output and complaints of a process that has come to its end."""
    try:
        out, err = process.communicate(timeout=LIMIT)
    finally:
        process.kill()  # does nothing to one that has ended
    return process.returncode, out, err


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def table(study: Path) -> list[str]:
    """The collected table of a study, without what depends on a clock, on commits made meanwhile, or on who dies."""
    out = study.with_suffix(".csv")
    assert main(["study", "collect", str(study), str(out)]) == 0
    rows = [line.split(",") for line in out.read_text().replace("deadly:", "toy:").splitlines()]
    return [",".join([*row[:8], *row[9:]]) for row in rows if not row[3].startswith("time/")]


class Fake:
    """A process that has ended with this code."""

    pid = os.getpid()

    def __init__(self, code: int) -> None:
        self.returncode = code

    def poll(self) -> int:
        return self.returncode

    wait = poll

    def send_signal(self, number: int) -> None:
        raise AssertionError("nobody asked")

    def terminate(self) -> None:
        pass


class Here:
    """Starts workers in this process, where PyTorch is imported already; `first` is called before the first one."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.first: list[Callable[[Path, Planned], None]] = []
        patch.setattr(worker, "begin", self.begin)
        patch.setattr(local, "NICE", 0)
        patch.setattr(make, "POLL", 0.0)
        patch.setenv("DEADLY", "/nowhere")

    def begin(self, study: Path, run: Planned, **_: object) -> Fake:
        if self.first:
            self.first.pop(0)(study, run)
        place = tries.place(study, run)
        place.mkdir(parents=True, exist_ok=True)
        with (place / worker.LOG).open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            print("$ in this process")
            return Fake(main(plan.command(run, study)))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Here:
    return Here(monkeypatch)


def run_study(path: Path, study: Path, *words: str) -> int:
    """`steadyq study run` in this process; its exit code."""
    return main(["study", "run", str(path), "--out", str(study), *words])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study of four runs, each made without a process of its own."""
    place = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        Here(patch)
        assert run_study(written(place / "four.toml", FOUR.replace("deadly", "toy")), place / "study") == 0
    return place / "study"


# The file


def asked(tmp_path: Path, text: str) -> list[Planned]:
    return file.read(written(tmp_path / "study.toml", text))


def test_lists_multiply_and_runs_lie_where_train_would_put_them(tmp_path: Path) -> None:
    runs = asked(
        tmp_path,
        """
        [defaults]
        frames = 100_000
        [[runs]]
        recipe = ["crossq_wn", "sac"]
        env = ["walker-run", "HalfCheetah-v5"]
        seeds = [0, 1, 2]
        utd = [1, 2, 10]
        width = 512
        """,
    )
    assert len(runs) == 2 * 2 * 3 * 3
    first = settings_of("crossq_wn", env="walker-run", choices={"frames": 100_000, "utd": 1, "width": 512})
    assert runs[0].folder == str(first.folder) == "runs/walker-run/crossq_wn-utd1/seeds-0"
    assert [run.seeds for run in runs[:4]] == [(0,), (1,), (2,), (0,)]
    assert {run.frames for run in runs} == {100_000}
    assert len({run.folder for run in runs}) == len(runs)


def test_seeds_together_are_one_run(tmp_path: Path) -> None:
    (run,) = asked(tmp_path, '[[runs]]\nrecipe = "sac"\nenv = "walker-run"\nseeds = [0, 1]\nseeds-together = true')
    assert run.seeds == (0, 1)
    assert run.folder.endswith("/seeds-0-1")


def test_the_order_says_which_loops_are_outermost(tmp_path: Path) -> None:
    text = """
    [[runs]]
    recipe = "sac"
    env = ["walker-run", "cheetah-run"]
    seeds = [1, 0]
    utd = [1, 2]
    [[runs]]
    recipe = "crossq_wn"
    env = "walker-run"
    seeds = [1, 0]
    """
    places = [tuple(run.folder.split("/")[1:]) for run in asked(tmp_path, 'order = ["seeds", "utd"]' + text)]
    assert places == [
        ("walker-run", "sac-utd1", "seeds-1"),
        ("cheetah-run", "sac-utd1", "seeds-1"),
        ("walker-run", "sac-utd2", "seeds-1"),
        ("cheetah-run", "sac-utd2", "seeds-1"),
        ("walker-run", "crossq_wn-utd2", "seeds-1"),
        ("walker-run", "sac-utd1", "seeds-0"),
        ("cheetah-run", "sac-utd1", "seeds-0"),
        ("walker-run", "sac-utd2", "seeds-0"),
        ("cheetah-run", "sac-utd2", "seeds-0"),
        ("walker-run", "crossq_wn-utd2", "seeds-0"),
    ]


def test_sets_are_environments_that_exist() -> None:
    assert {name: len(tasks) for name, tasks in file.SETS.items()} == {"dmc15": 15, "dog_humanoid": 7, "mujoco": 5}
    for tasks in file.SETS.values():
        for task, sizes in tasks.items():
            if not task.startswith("dog"):  # which take a second to make
                assert file.sizes_of(task) == sizes
    assert file.sizes_of("dog-run") == file.SETS["dmc15"]["dog-run"]
    assert {"hopper-stand", "walker-run"} < {*file.SETS["dmc15"]}
    assert "acrobot-swingup" not in file.SETS["dmc15"]


def test_every_fault_is_named_with_its_line(tmp_path: Path) -> None:
    text = """\
[defaults]
frames = 90
[[runs]]
recipe = ["crossq_wn", "sacc"]
env = "walker-run"
[[runs]]
recipe = "sac"
env = ["walker-run", "walker-rum"]
widht = 3
[[runs]]
recipe = "sac"
env = "walker-rum"
[[runs]]
recipe = "sac"
env = "walker-run"
seeds = [0, 0]
[[runs]]
recipe = "sac"
env = "walker-run"
frames = 91
[[runs]]
env = "walker-run"
[[runs]]
recipe = "sac"
env = "toy:Nowhere-v0"
out = "elsewhere"
[[runs]]
recipe = "sac"
env = "walker-run"
width = []
"""
    with pytest.raises(InputError) as caught:
        asked(tmp_path, text)
    found = re.split(r"; (?=line \d)", str(caught.value).removeprefix(f"{tmp_path / 'study.toml'}, "))
    wanted = [
        r"line 4: unknown recipe 'sacc'; did you mean 'sac'",
        "line 9: unknown option 'widht'; did you mean 'width'",
        "line 12: unknown environment 'walker-rum'; did you mean 'walker-run'",
        "line 16: --seeds is 0 0; give distinct",
        "line 20: --frames is 91; give a multiple",
        "line 21: there is no recipe",
        "line 26: out is not for a study",
        "line 30: width is an empty list",
    ]
    assert len(found) == len(wanted), found
    for got, words in zip(found, wanted, strict=True):
        assert got.startswith(words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[runs]\n", "is not TOML: .*line 1"),
        ("x = " + "[" * 5_000 + "]" * 5_000, "is not TOML: .*recursion"),
        ("frames = 3\n[[runs]]\nrecipe='sac'\nenv='walker-run'", "line 1: unknown part of a study file 'frames'"),
        ("[defaults]\nframes = 3\n", "there are no runs"),
        ("order = ['utd']\n[[runs]]\nrecipe='sac'\nenv='walker-run'", "line 1: unknown option to order by 'utd'"),
        (
            "[[runs]]\nrecipe='sac'\nenv='walker-run'\n[[runs]]\nrecipe='sac'\nenv='walker-run'\nframes=500",
            r"line 4: line 1 asks for the same run, .*another frames",
        ),
        ("[[runs]]\nrecipe='sac'\nenv='toy:Missing-v0'", "line 3: .*Missing-v0"),
    ],
)
def test_what_cannot_be_a_study_is_refused_in_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        asked(tmp_path, text)


def test_a_worker_is_asked_for_exactly_what_the_file_says(tmp_path: Path) -> None:
    (run,) = asked(
        tmp_path,
        TINY + '[[runs]]\nrecipe = "crossq_wn"\nenv = "toy:Point-v0"\nseeds = 3\ndecay-norms = true\nlr = 3e-5\n',
    )
    words = plan.command(run, tmp_path)
    assert words[:2] == ["train", "crossq_wn"]
    assert {"--decay-norms", "--lr=3e-05", "--width=16", "--threads=1", "--resume"} < {*words}
    assert words[-2:] == ["--seeds", "3"]
    plan.write(tmp_path, [run])
    assert plan.read(tmp_path) == [run]


def test_commands_may_write_the_plan_at_the_same_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another command writes all of its own between any two calls of the system; nobody fails, and the last counts."""
    first, second = asked(tmp_path, "[[runs]]\nrecipe='sac'\nenv='walker-run'\nseeds=[1, 2]")
    real, calls, at = disk.do, 0, 0

    def do(operation: Callable[..., Any], *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            with monkeypatch.context() as inner:
                inner.setattr(disk, "do", real)
                plan.write(folder, [second])
        return real(operation, *arguments)

    monkeypatch.setattr(disk, "do", do)
    for at in range(1, 100):
        calls, folder = 0, tmp_path / str(at)
        plan.write(folder, [first])
        if calls < at:
            break
        assert plan.read(folder) in ([first], [second])
        assert [path.name for path in folder.iterdir()] == [plan.FILE]
    assert at > 5


@pytest.mark.parametrize("key", plan.Planned._fields)
def test_a_plan_with_values_of_other_types_is_refused(tmp_path: Path, key: str) -> None:
    (one,) = asked(tmp_path, "[[runs]]\nrecipe='sac'\nenv='walker-run'")
    for value in ({"a": [1]}, 1e300, None):
        (tmp_path / plan.FILE).write_text(json.dumps([one._asdict() | {key: value}]))
        if not (key == "choices" and isinstance(value, dict)):
            with pytest.raises(InputError, match=f"study.json cannot be read .*run.{key}"):
                plan.read(tmp_path)


def test_what_went_wrong_in_too_deep_words_is_nothing(tmp_path: Path) -> None:
    (one,) = asked(tmp_path, "[[runs]]\nrecipe='sac'\nenv='walker-run'")
    tries.place(tmp_path, one).mkdir(parents=True)
    (tries.place(tmp_path, one) / "tries.json").write_text("[" * 100_000)
    assert tries.read(tmp_path, one).failures == []


def test_what_workers_say_is_not_written_elsewhere(tmp_path: Path) -> None:
    runs = asked(tmp_path, "[[runs]]\nrecipe='sac'\nenv='walker-run'")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / tries.WORKERS).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is a symbolic link"):
        make.make(tmp_path, runs, local.Local(tmp_path, runs))
    assert not list((tmp_path / "elsewhere").iterdir())


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    for name in ("study.toml", "table.csv"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="it is not a regular file; give a study file"):
        file.read(tmp_path / "study.toml")
    with pytest.raises(InputError, match="it is not a file"):
        collect.collect([tmp_path / "study"], tmp_path / "table.csv")


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfe",
        b'"' + b"x,\n" * 100_000,
        ",".join(collect.COLUMNS).encode() + b"\na,b,0,c," + b"9" * 5_000 + b",1,,,,\n",
        ",".join(collect.COLUMNS).encode() + b"\na,b,0,c\n",
    ],
)
def test_a_table_of_something_else_is_not_written_over(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "table.csv").write_bytes(data)
    with pytest.raises(InputError, match="is not a table of `steadyq study collect`"):
        collect.collect([tmp_path], tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_bytes() == data


# Whole studies


def test_a_study_is_made_and_seen(undisturbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "status", str(undisturbed)]) == 0
    assert capsys.readouterr().out == "4 runs: 0 running, 0 failed, 0 waiting, 4 done\n"
    assert main(["study", "status", str(undisturbed), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["runs"]
    assert {(row["state"], row["frame"], row["frames"]) for row in found} == {("done", 90, 90)}
    assert [row["run"] for row in found] == [run.folder for run in plan.read(undisturbed)]


def test_other_commands_take_its_folder_and_its_table(undisturbed: Path, tmp_path: Path) -> None:
    assert len(table(undisturbed)) > 90
    for place in (undisturbed, undisturbed.with_suffix(".csv")):
        study = read_runs([place])
        assert study.complaints == []
        assert len(study.runs) == 4
        assert {"train/critic_weight_norm", "train/critic_grad_norm"} < study.more.keys()
    for words in (
        ["compare", str(undisturbed), "--reps", "100"],
        ["figures", "1", "2", str(undisturbed.with_suffix(".csv")), "--out", str(tmp_path)],
        ["report", str(undisturbed), "--out", str(tmp_path / "report.html")],
    ):
        assert main(words) == 0


def starts(study: Path) -> list[list[int]]:
    """For each run, the frames at which its processes began."""
    runs = plan.read(study)
    return [[stretch["from_frame"] for stretch in read_record(study / run.folder).stretches] for run in runs]


def test_two_drivers_and_kills_leave_no_trace(undisturbed: Path, tmp_path: Path) -> None:
    """Two drivers at once; workers and a driver are killed."""
    deaths, study, path = tmp_path / "deaths", tmp_path / "study", written(tmp_path / "four.toml", FOUR)
    deaths.mkdir()
    words, how = ("run", path, "--out", study, "--workers", 1), {"deaths": deaths, "program": ("forked.py",)}
    drivers = [command(*words, **how), command(*words, **how)]
    for name in ("15-worker", f"37-{drivers[0].pid}", "52-worker", "77-worker"):
        (deaths / name).touch()
    ends = [done(driver) for driver in drivers]
    assert ends[0][0] == -signal.SIGKILL
    code, out, err = ends[1]
    assert code == 0, out + err
    assert "4 runs done, 0 set aside, 0 to do" in out
    assert not list(deaths.iterdir())
    assert table(study) == table(undisturbed)
    assert sum(map(len, starts(study))) == 4 + 3 - 1  # the first kill came before there was a checkpoint
    for frames in starts(study):
        assert frames == sorted(frames)


SBATCH = """#!/bin/bash
echo "$*" > "$FAKE/options"
script="${@: -1}"
for element in $(seq $(sed -n "s/^#SBATCH --array=1-//p" "$script")); do
    touch "$FAKE/requeued"
    while [ -e "$FAKE/requeued" ]; do
        rm "$FAKE/requeued"
        SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$element bash "$script" >> "$FAKE/log" 2>&1
        echo "$element ended with $?" >> "$FAKE/log"
    done
done
echo Submitted batch job 7
"""
SCONTROL = """#!/bin/bash
[ "$*" = "requeue 7_1" ] && touch "$FAKE/requeued"
"""


def test_an_element_of_a_slurm_array_is_warned_and_requeued(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(gymnasium.registry, "Point-v0")  # until deadly has one
    monkeypatch.chdir(Path(__file__).parent)
    text = FOUR.replace('["1/4", "1/2"]', '"1/2"').replace("[0, 1]", "[1]")
    path, study = written(tmp_path / "it's one.toml", text), tmp_path / "a b"
    words = ["study", "slurm", str(path), "--out", str(study), "--max-minutes", "600"]
    assert main([*words, "--dry-run"]) == 0
    script = capsys.readouterr().out
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert {"#SBATCH --array=1-1", "#SBATCH --time=605", "#SBATCH --signal=B:USR1@120"} < {*script.splitlines()}
    assert not study.exists()
    for name, text in (("sbatch", SBATCH), ("scontrol", SCONTROL)):
        written(tmp_path / name, text).chmod(0o755)
    written(tmp_path / "60-warned", "")
    for name, value in (("PATH", f"{tmp_path}:{os.environ['PATH']}"), ("FAKE", tmp_path), ("DEADLY", tmp_path)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("PYTHONPATH", str(Path(steadyq.__file__).parents[1]))
    assert main([*words, "--", "--partition=short"]) == 0
    assert capsys.readouterr().out == "Submitted batch job 7\n"
    assert (study / "slurm.sh").read_text() == script
    assert (tmp_path / "options").read_text() == f"--partition=short {study}/slurm.sh\n"
    log = (tmp_path / "log").read_text()
    assert re.findall("ended with (.*)", log) == ["75", "0"], log
    (frames,) = starts(study)
    assert frames[0] == 0 < frames[1]
    wanted = re.compile(r"exp_name|crossq_wn-utd1over2-[^,]*,[^,]*,1,")
    assert table(study) == [row for row in table(undisturbed) if wanted.match(row)]
    assert main(words) == 0
    assert "nothing is left to do" in capsys.readouterr().out


def test_a_command_that_does_not_wait_leaves_a_run_to_whoever_has_it(
    here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, study = written(tmp_path / "study.toml", ONE.replace("[0]", "[0, 1]")), tmp_path / "study"
    first, second = file.read(path)
    with lock.hold(study / first.folder) as held:
        assert held.path
        assert run_study(path, study, "--no-wait") == 0
    assert capsys.readouterr().out.endswith("1 run done, 0 set aside, 1 to do\n")
    assert state.look(study, second).name == "done"
    assert run_study(path, study, "--no-wait") == 0
    assert state.look(study, first).name == "done"


def test_what_fails_is_set_aside_and_the_rest_goes_on(
    here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = TINY + '[[runs]]\nrecipe = "sac"\nenv = ["toy:BadPoint-v0", "toy:Point-v0"]\nseeds = [0]\n'
    by_hand = '[[runs]]\nrecipe = "sac"\nenv = "toy:Point-v0"\nutd = 3\n'
    study, path = tmp_path / "study", written(tmp_path / "study.toml", text + by_hand)
    bad, good, taken = file.read(path)
    (study / taken.folder).mkdir(parents=True)
    written(study / taken.folder / "notes.txt", "mine")
    assert run_study(path, study) == 1
    assert "1 run done, 2 set aside, 0 to do" in capsys.readouterr().out
    assert "exists and is not a run folder" in state.look(study, taken).reason
    assert (study / taken.folder / "notes.txt").read_text() == "mine"
    assert main(["study", "status", str(study)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "3 runs: 0 running, 2 failed, 0 waiting, 1 done"
    assert shown[1].startswith(f"failed    {bad.folder}  0 of 90  ")
    assert state.look(study, good).name == "done"
    failed = state.look(study, bad)
    assert failed.name == "failed"
    assert "reward" in failed.reason
    assert len(tries.read(study, bad).failures) == 3
    assert run_study(path, study) == 1  # not tried again
    assert "started" not in capsys.readouterr().out
    assert main(["study", "slurm", str(path), "--out", str(study), "--dry-run"]) == 1
    assert "nothing is left to do; 2 runs set aside: see `steadyq study status" in capsys.readouterr().out
    # An edited file: the bad run is asked for otherwise, the good one goes on, and there is a seed more.
    edited = text.replace("[0]", "[0, 1]").replace("frames = 90", 'frames = 120\non_bad_step = "end-episode"')
    assert run_study(written(path, edited), study) == 0
    assert "4 runs done" in capsys.readouterr().out
    assert {state.look(study, run).frame for run in plan.read(study)} == {120}
    begun = (study / "workers" / good.folder / "log.txt").read_text()
    assert begun.count("frames 0 to 90") == begun.count("frames 90 to 120") == 1


def test_a_file_that_changes_under_a_command_counts_for_the_next_one(
    here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, study = written(tmp_path / "study.toml", ONE.replace("[0]", "[0, 1]")), tmp_path / "study"
    here.first.append(lambda *_: written(path, "nonsense"))
    assert run_study(path, study) == 0
    before = table(study)
    capsys.readouterr()
    assert run_study(path, study) == 2
    assert capsys.readouterr().err.startswith(f"steadyq: {path} is not TOML: ")
    with monkeypatch.context() as patch:  # it was made where there are more cores: here nothing is made of it
        patch.setattr(machine, "usable_cores", lambda: 2)
        assert run_study(written(path, ONE.replace("threads = 1", "threads = 8")), study) == 0
        assert capsys.readouterr().out == f"{study}: 1 run done, 0 set aside, 0 to do\n"
    for more in ("diagnose_every = 30", "eval_every = 45"):  # a run that is done stays done
        written(path, ONE.replace("eval_every = 40", "") + f"{more}\n")
        assert run_study(path, study) == 0
        assert capsys.readouterr().out == f"{study}: 1 run done, 0 set aside, 0 to do\n"
    # The same run, to be made longer and evaluated otherwise: what is there stays as it is.
    written(path, ONE.replace("frames = 90", "frames = 120").replace("eval_episodes = 2", "eval_episodes = 3"))
    assert run_study(path, study) == 1
    assert "eval" in state.look(study, plan.read(study)[0]).reason
    assert table(study) == before


def test_an_environment_that_raises_is_named(here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(env: Point, action: object) -> None:
        raise RuntimeError("the motor is gone")

    monkeypatch.setattr(Point, "step", step)
    path, study = written(tmp_path / "study.toml", ONE), tmp_path / "study"
    assert run_study(path, study) == 1
    reason = state.look(study, file.read(path)[0]).reason
    assert "the motor is gone" in reason
    assert "\n" not in reason


def test_clocks_that_differ_by_an_hour_change_nothing(
    here: Here, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, study = written(tmp_path / "four.toml", FOUR.replace("deadly", "toy")), tmp_path / "study"
    real, shift = time.time, [0]
    monkeypatch.setattr(time, "time", lambda: real() + shift[0])
    stops = pytest.MonkeyPatch()

    def ahead(*_: object) -> None:  # a node whose run is stopped in its middle
        shift[0] = 3_600
        stopped_at(45, stops)

    def behind(*_: object) -> None:  # another, which resumes it
        stops.undo()
        shift[0] = -3_600
        for place in study.rglob("*"):
            os.utime(place, (real() + 3_600,) * 2)

    here.first += [ahead, behind]
    assert run_study(path, study) == 0
    assert [len(frames) for frames in starts(study)] == [2, 1, 1, 1]
    assert table(study) == table(undisturbed)


class Busy(Fake):
    """A process that works until a signal asks it to stop; while it works, somebody presses Ctrl-C."""

    def __init__(self) -> None:
        self.heard: list[int] = []

    def poll(self) -> int | None:  # type: ignore[override]
        if not self.heard:
            signal.raise_signal(signal.SIGINT)
        return 75 if self.heard else None

    def send_signal(self, number: int) -> None:
        self.heard.append(number)


def test_workers_are_stopped_though_nobody_reads_any_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ctrl-C ends `| tee` too, and with a terminal goes what could be written to."""

    def gone(words: str) -> None:
        raise BrokenPipeError

    busy = Busy()
    monkeypatch.setattr(worker, "begin", lambda *_, **__: busy)
    monkeypatch.setattr(local, "NICE", 0)
    runs = [run_of("a"), run_of("b")]
    engine = local.Local(tmp_path, runs, workers=1)
    count = make.make(tmp_path, runs, engine, say=gone)
    assert busy.heard == [signal.SIGTERM]
    assert (count.done, count.more, count.stopped) == (0, 2, True)


def test_a_driver_that_fails_does_not_leave_its_workers_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(engine: local.Local, seconds: float) -> NoReturn:
        raise MemoryError

    busy = Busy()
    monkeypatch.setattr(worker, "begin", lambda *_, **__: busy)
    monkeypatch.setattr(local, "NICE", 0)
    monkeypatch.setattr(local.Local, "ended", full)
    runs = [run_of("a")]
    with pytest.raises(MemoryError):
        make.make(tmp_path, runs, local.Local(tmp_path, runs, workers=1), say=lambda words: None)
    assert busy.heard == [signal.SIGTERM]


def test_ctrl_c_stops_workers_politely_and_is_heard_as_long_as_a_study_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    busy, before = Busy(), signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(worker, "begin", lambda *_, **__: busy)
    monkeypatch.setattr(local, "NICE", 0)
    path = written(tmp_path / "study.toml", ONE.replace("[0]", "[0, 1]"))
    assert run_study(path, tmp_path / "study", "--workers", "1") == 75
    assert busy.heard == [signal.SIGTERM]
    out = capsys.readouterr().out
    assert "workers save and stop (1)" in out
    assert out.endswith("0 runs done, 0 set aside, 2 to do\n")
    assert signal.getsignal(signal.SIGINT) is before


# The engine, with workers that are made up


def run_of(folder: str, **changes: Any) -> Planned:
    whole = Planned("sac", "toy:Point-v0", (0,), {}, f"runs/{folder}", 90, 10, 10)
    return whole._replace(**changes)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[make.Count, list[str]]]:
    """Makes a study whose workers end with the codes given, in turn, each after it has said a sentence."""

    def made(
        runs: list[Planned], *codes: int, said: str = "", lies: bool = False, workers: int = 1
    ) -> tuple[make.Count, list[str]]:
        left, lines = list(codes), list[str]()
        for run in runs:
            tries.place(tmp_path, run).mkdir(parents=True, exist_ok=True)

        def begin(study: Path, run: Planned, **_: object) -> Fake:
            (tries.place(study, run) / worker.LOG).write_text(f"$ some command\nsteadyq: {said}\n")
            code = left.pop(0)
            if code == 0 and not lies:
                lines.append("finished " + run.folder)
            return Fake(code)

        def look(study: Path, run: Planned) -> state.State:
            if "finished " + run.folder in lines:
                return state.State("done", run.frames)
            return real(study, run)

        real = state.look
        with monkeypatch.context() as patch:
            patch.setattr(worker, "begin", begin)
            patch.setattr(state, "look", look)
            patch.setattr(local, "NICE", 0)
            patch.setattr(make, "POLL", 0.0)
            engine = local.Local(tmp_path, runs, workers=workers)
            return make.make(tmp_path, runs, engine, say=lines.append), lines

    return made


def test_a_refusal_is_not_tried_again(fake: Callable) -> None:
    runs = [run_of("a"), run_of("b")]
    count, lines = fake(runs, 2, 0, said="runs/a exists and is not a run folder")
    assert count == make.Count(done=1, set_aside=1, more=0, stopped=False)
    assert "set aside  runs/a: runs/a exists and is not a run folder" in lines


def test_a_folder_that_another_process_has_is_looked_at_again(fake: Callable) -> None:
    count, lines = fake([run_of("a")], 2, 0, said=f"runs/a {lock.IN_USE} process 3")
    assert count.done == 1
    assert any(line.startswith("elsewhere") for line in lines)


def test_a_worker_that_is_killed_is_started_again_but_not_for_ever(fake: Callable) -> None:
    count, _ = fake([run_of("a")], *[-9] * (tries.KILLS - 1), 0)
    assert count.done == 1
    count, lines = fake([run_of("b")], *[-9] * tries.KILLS)
    assert count.set_aside == 1
    assert lines[-1].endswith("killed by signal 9 after the checkpoint of frame 0")


def test_the_last_run_is_tried_again_when_there_are_more_workers_than_runs(fake: Callable) -> None:
    count, lines = fake([run_of("a")], -9, 1, 0, workers=3)
    assert count == make.Count(done=1, set_aside=0, more=0, stopped=False), lines


def test_kills_count_only_where_a_run_gets_no_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for frame in range(3 * tries.KILLS):
        monkeypatch.setattr(state, "look", lambda study, run, frame=frame: state.State("waiting", frame))
        monkeypatch.setattr(worker, "last_words", lambda study, run: "")
        assert worker.conclude(tmp_path, run_of("a"), -9)[0] == "failed"
    assert tries.read(tmp_path, run_of("a")).reason == ""


def test_a_worker_that_only_says_it_is_done_is_not_believed(fake: Callable) -> None:
    count, lines = fake([run_of("a")], 0, 0, 0, lies=True)
    assert count.set_aside == 1
    assert lines[-1] == "set aside  runs/a: it ended as if it were done, and its folder has no finished run"


def test_what_does_not_fit_into_memory_is_not_started(fake: Callable) -> None:
    count, lines = fake([run_of("a", memory=10**15), run_of("b")], 0)
    assert count == make.Count(done=1, set_aside=0, more=1, stopped=True)
    assert lines[-1].startswith("nothing more is started: runs/a needs about 1000000.0 GB of memory and ")


def test_a_full_disk_is_no_runs_fault(fake: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free = [10**12, 5]
    monkeypatch.setattr(
        shutil, "disk_usage", lambda place: type("usage", (), {"free": free.pop(0) if len(free) > 1 else free[0]})
    )
    count, lines = fake([run_of("a"), run_of("b")], 1)
    assert count.more == 2
    words = f"the disk of {tmp_path} is full (0 MB left); make room, and run the same command again"
    assert lines[-1] == f"nothing more is started: {words}"
    assert tries.read(tmp_path, run_of("a")).failures == []


def test_a_quota_that_keeps_failures_from_being_written_down_is_no_runs_fault(
    fake: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(tries, "write", write)
    count, lines = fake([run_of("a"), run_of("b")], 1)
    assert count == make.Count(done=0, set_aside=0, more=2, stopped=True)
    assert lines[-1].startswith("nothing more is started: ")
    assert lines[-1].endswith("Disk quota exceeded; see to it, and run the same command again")


@pytest.mark.parametrize(
    ("runs", "threads", "workers", "shared"),
    [
        ([{}] * 20, None, None, (1, 8)),
        ([{}] * 3, None, None, (2, 4)),
        ([{}], None, None, (8, 1)),
        ([{"threads": 4}, *[{}] * 20], None, None, (1, 2)),  # eight at once could be 32 threads
        ([{"threads": 64}], None, None, (8, 1)),
        ([{}] * 20, 2, None, (2, 4)),
        ([{}] * 20, None, 3, (1, 3)),
    ],
)
def test_no_core_has_two_threads_unless_asked(
    monkeypatch: pytest.MonkeyPatch, runs: list[dict], threads: int | None, workers: int | None, shared: tuple
) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 8)
    planned = [run_of("a", choices=choices) for choices in runs]
    assert local.share_out(planned, threads=threads, workers=workers) == shared


def test_a_run_that_was_begun_elsewhere_is_left_alone(undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = plan.read(undisturbed)
    engine = local.Local(undisturbed, runs)
    assert engine.look()
    assert engine.obstacle(runs[0]) == ""
    monkeypatch.setattr(machine, "versions", lambda: {"torch": "1.0"})
    words = local.Local(undisturbed, runs)
    words.look()
    assert f"{runs[0].folder} was begun on another machine (torch was " in words.obstacle(runs[0])


def test_arguments_of_an_environment_decide_its_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sized.py").write_text(
        "import gymnasium, numpy as np\n"
        "class Sized(gymnasium.Env):\n"
        "    action_space = gymnasium.spaces.Box(-1, 1, (1,))\n"
        "    def __init__(self, size=3):\n"
        "        self.observation_space = gymnasium.spaces.Box(-1, 1, (size,))\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        return self.observation_space.sample(), {}\n"
    )
    head = '[[runs]]\nrecipe = "sac"\nenv = "sized.py:Sized"\n'
    small, large = asked(tmp_path, head + """env_kwargs = ['{"size": 3}', '{"size": 2000}']\n""")
    assert large.memory - small.memory > 4 * 1997 * large.frames
    with pytest.raises(InputError, match="sise"):
        asked(tmp_path, head + """env_kwargs = ['{"size": 3}', '{"sise": 3}']\n""")


def test_transitions_to_be_loaded_take_memory(undisturbed: Path, tmp_path: Path) -> None:
    save_file({"obs": np.zeros((50_000, 24), np.float32)}, tmp_path / "data.safetensors")
    text = "[[runs]]\nrecipe = 'sac'\nenv = 'walker-run'\nframes = 20_000\n"
    (plain,) = asked(tmp_path, text)
    for place, number in (
        (tmp_path / "data.safetensors", 50_000),
        (undisturbed / plan.read(undisturbed)[0].folder, 90),
        (tmp_path / "nothing", 0),
    ):
        (run,) = asked(tmp_path, f"{text}load-replay = '{place}'\n")
        row = Replay.bytes_needed(2, 24, 6) - Replay.bytes_needed(1, 24, 6)
        assert run.memory - plain.memory == run.disk - plain.disk == number * row
    (apart,) = asked(tmp_path, f"{text}load-replay = '{tmp_path / 'data.safetensors'}'\nprior-share = 0.5\n")
    assert apart.memory - plain.memory == 50_000 * row


# What is shown


def test_a_live_table_shows_what_goes_on_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [run_of(f"r{number}") for number in range(40)]
    states = {run.folder: state.State("done", 90) for run in runs}
    states["runs/r7"] = state.State("running", 60, frames_per_second=0.5)
    states["runs/r9"] = state.State("failed", 30, "the robot fell over")
    monkeypatch.setattr(state, "look", lambda study, run: states[run.folder])
    found = status.rows(tmp_path, runs)
    made = status.table(found)
    assert made.title == "40 runs: 1 running, 1 failed, 0 waiting, 38 done"
    assert made.caption == "and 10 more"
    cells = [list(column.cells) for column in made.columns]
    assert [column[0] for column in cells] == ["running", "runs/r7", "60 of 90", "0.5/s", "1 min", ""]
    assert [column[1] for column in cells] == ["failed", "runs/r9", "30 of 90", "", "", "the robot fell over"]
    assert found[7]["seconds_left"] == 60
    assert list(status.lines(found))[1:] == [
        "running   runs/r7  60 of 90  0.5/s  1 min",
        "failed    runs/r9  30 of 90  the robot fell over",
    ]


def test_a_running_run_is_read_off_the_end_of_its_record(tmp_path: Path) -> None:
    run = run_of("a", seeds=(0, 1))
    rows = [
        Row("sac", "e", seed, metric, frame, value)
        for frame in range(10, 5_000, 10)
        for seed in (0, 1)
        for metric, value in (("time/fps", 100.0 * frame + seed), ("train/q_mean", 1.0))
    ]
    metrics_csv.replace(tmp_path / run.folder / "metrics.csv", rows)
    assert state.look(tmp_path, run) == state.State("waiting")
    with lock.hold(tmp_path / run.folder):
        assert state.look(tmp_path, run) == state.State("running", 4_990, frames_per_second=499_000.0)
        with (tmp_path / run.folder / "metrics.csv").open("a") as file:
            file.write(f'sac,e,0,a,{"9" * 5_000},1\nsac,e,0,a,"\nsac,e,0,a,5000,1\n')
        assert state.look(tmp_path, run).frame == 5_000


def test_a_run_is_done_once_its_end_is_evaluated(tmp_path: Path) -> None:
    (run,) = asked(tmp_path, TINY + '[[runs]]\nrecipe = "crossq_wn"\nenv = "toy:Point-v0"\n')
    place = run_at(tmp_path / run.folder).folder
    record, checkpoints = place / "metrics.csv", sorted(place.glob("seed-0/checkpoints/*"))
    whole = record.read_text()
    record.write_text(whole[: whole.index("eval_end/std_reward")])  # as if it had been killed then
    assert state.look(tmp_path, run) == state.State("waiting", 90)
    steadyq.resume(place)
    assert state.look(tmp_path, run) == state.State("done", 90)
    assert record.read_text().count("eval_end/mean_reward") == 1
    assert sorted(place.glob("seed-0/checkpoints/*")) == checkpoints


# Size


def test_ten_thousand_runs_cost_two_questions_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = ", ".join(map(str, range(1_000)))
    text = f'[[runs]]\nrecipe = "sac"\nenv = ["walker-run", "cheetah-run"]\nutd = [1, 2, 3, 4, 5]\nseeds = [{seeds}]\n'
    settings, asks = [], []
    monkeypatch.setattr(file, "settings_of", lambda *a, **k: settings.append(a) or settings_of(*a, **k))
    runs = asked(tmp_path, text)
    assert len(runs) == 10_000
    assert len(settings) == 10  # not once per seed
    plan.write(tmp_path, runs)
    for name in ("stat", "lstat", "open", "scandir"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, real=real, **k: asks.append(a) or real(*a, **k))
    found = status.rows(tmp_path, plan.read(tmp_path))
    assert status.summary(found) == "10,000 runs: 0 running, 0 failed, 10,000 waiting, 0 done"
    assert 10_000 < len(asks) <= 2 * 10_000 + 10


def test_cores_are_asked_for_where_the_runs_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)
    text = '[[runs]]\nrecipe = "sac"\nenv = "walker-run"\n'
    path = str(written(tmp_path / "plain.toml", text))
    wide = str(written(tmp_path / "wide.toml", f"{text}threads = 8\ndevice = 'cuda'\n"))
    out = ["--out", str(tmp_path / "study")]
    assert main(["study", "plan", wide, *out]) == 0
    assert main(["study", "slurm", wide, *out, "--dry-run"]) == 0
    assert "#SBATCH --cpus-per-task=8\n" in capsys.readouterr().out
    for words, line in ((["plan", wide, "--calibrate"], "line 4: "), (["run", wide], "line 4: "), (["run", path], "")):
        more = ["--threads", "8"] if not line else []
        assert main(["study", *words, *out, *more]) == 2
        assert f"{line}--threads is 8 and 2 cores may be used here; give at most that" in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


def test_one_more_run_costs_few_calls(tmp_path: Path) -> None:
    def planned(seeds: int) -> None:
        text = f'[[runs]]\nrecipe = "sac"\nenv = "walker-run"\nutd = [1, 2]\nseeds = {[*range(seeds)]}\n'
        runs = asked(tmp_path, text)
        plan.write(tmp_path, runs)
        assert len([*estimate.lines(estimate.forecast(tmp_path, runs), workers=2)]) == 2 * seeds + 3

    def looked_at(_: int) -> None:
        assert [*status.lines(status.rows(tmp_path, plan.read(tmp_path)))]

    def calls(work: Callable[[int], None], seeds: int) -> int:
        profile = cProfile.Profile()
        profile.runcall(work, seeds)
        return pstats.Stats(profile).total_calls  # type: ignore[attr-defined]

    few, many = ([calls(work, seeds) for work in (planned, looked_at)] for seeds in (50, 100))
    to_plan, to_look = ((b - a) / 100 for a, b in zip(few, many, strict=True))
    assert to_plan < 150  # 77 on Python 3.11; 250 where a run's needs and settings were made for each seed
    assert to_look < 300  # 204; 630 where the types of its fields were looked up each time


def test_time_is_read_off_runs_of_the_same_kind(tmp_path: Path) -> None:
    runs = [run_of("a"), run_of("b", env="other"), run_of("c", choices={"utd": 10}), run_of("d", frames=1_000)]
    folder = tmp_path / runs[0].folder
    rows = [Row("sac", "e", 0, "time/time_elapsed", frame, seconds) for frame, seconds in ((10, 1), (30, 9), (60, 69))]
    rows += [Row("sac", "e", 0, "train/utd", frame, 1.0) for frame in (30, 60)]
    metrics_csv.replace(folder / "metrics.csv", rows)
    (folder / "seed-0/checkpoints").mkdir(parents=True)
    (folder / "seed-0/checkpoints/000000000060.safetensors").touch()
    found = estimate.forecast(tmp_path, runs)
    assert [one.seconds for one in found] == [180, 180, None, 2_000]  # 2 seconds per frame once it learns
    assert [one.exact for one in found] == [True, False, False, True]
    assert [one.left and round(one.left) for one in found] == [60, 180, None, 2_000]
    text = "\n".join(estimate.lines(found, workers=2))
    assert "3 of them take about 33 min more, 2 at once" in text


def test_a_plan_calibrates_each_kind_of_run_once(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps_take(2.0, monkeypatch)
    monkeypatch.setattr(estimate, "LOG_EVERY", 10)
    path, study = written(tmp_path / "study.toml", ONE.replace("[0]", "[0, 1]")), tmp_path / "study"
    words = ["study", "plan", str(path), "--out", str(study)]
    assert main(words) == 0
    assert "add --calibrate" in capsys.readouterr().out
    assert main([*words, "--calibrate"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("measuring 1 kind of runs, ")
    assert "seeds-0: 0.5 frames/s" in out
    assert "2 of them take about 3 min more, " in out
    assert {path.name for path in study.iterdir()} == {estimate.CALIBRATION}
    assert main([*words, "--calibrate"]) == 0
    assert "measuring" not in capsys.readouterr().out
    (study / estimate.CALIBRATION).write_text("[1]")
    assert [one.seconds for one in estimate.forecast(study, file.read(path))] == [None, None]


EXPERIMENTS = sorted((Path(__file__).parents[1] / "experiments").glob("*.toml"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_the_studies_that_ship_can_be_planned(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "plan", str(path), "--out", str(tmp_path)]) == 0
    count = len(file.read(path))
    assert f"\n{count:,} runs, {count:,} to do; " in capsys.readouterr().out
    small = path.with_name(f"{path.stem}-small.toml")
    if path.stem in ("fig1", "fig2", "fig3"):
        assert small in EXPERIMENTS
        assert count >= 450


def test_the_page_shows_the_file_as_it_is(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs/study.md").read_text()
    text = page.partition("```toml\n")[2].partition("```")[0]
    assert len(asked(tmp_path, text)) == 2 * 16 * 3 * 3 + 7
