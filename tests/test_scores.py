"""Runs read from folders and tidy files, good and bad, and their scores at equal frames."""

import gzip
import json
import os
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steadyq.errors import InputError
from steadyq.report import details as details_of
from steadyq.report import page
from steadyq.results import compare, scores, untrusted
from steadyq.results.read import read_runs, read_study, run_folders
from steadyq.results.runs import UNKNOWN, Run, Setup, Study

HEADER = "exp_name,env_name,seed,metric,env_step,value\n"
SETTINGS = {"action_repeat": 2, "utd": "1/3", "eval_episodes": 5, "frames": 10, "log_every": 5, "eval_every": 5}
SETTINGS |= {"env": "walker-run", "diagnose_every": 0}


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
        (HEADER + rows("sac", "walker-run", 0, [float("nan")]), "has the value nan at frame 0 of seed 0; wanted"),
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
        "empty has no eval/mean_reward yet (stopped without a checkpoint)",
        "young has no eval/mean_reward yet (stopped without a checkpoint)",
        "half ends at frame 5 of 10, and has no checkpoint to resume from",
        "half has no eval/mean_reward of seed 2",
        "run.json cannot be read",
    ]
    assert len(found.complaints) == len(expected)
    for complaint, words in zip(found.complaints, expected, strict=True):
        assert words in complaint
    assert [(run.seed, run.value.tolist()) for run in found.runs] == [("1", [1, 2]), ("3", [1, 2, 3])]


def test_copies_count_once_and_what_has_only_the_same_name_stands_apart(tmp_path: Path) -> None:
    """Whichever is read first: nothing hides another run."""
    norm = "train/critic_weight_norm"
    text = rows("sac", "walker-run", 0, [1, 2, 3 + 1e-9]) + rows("sac", "walker-run", 0, [5, 6], metric=norm)
    run = make_run(tmp_path / "run", text, seeds=[0])
    short = make_run(tmp_path / "short.csv.d", rows("sac", "walker-run", 0, [1, 2]), seeds=[0], frames=5)
    other = tmp_path / "other.csv"
    other.write_text(HEADER + rows("sac", "walker-run", 0, [7, 8, 9]) + rows("sac", "walker-run", 0, [1], metric=norm))
    found = read_runs([short, run, other])
    assert [(r.method, r.value.round(3).tolist()) for r in found.runs] == [("sac", [1, 2, 3]), ("sac #2", [7, 8, 9])]
    assert found.complaints == [
        f"seed 0 of sac on walker-run is in {short} and in {run}; it counts once",
        f"seed 0 of sac on walker-run is in {run} and, with other numbers, in {other}; the latter is shown as sac #2",
    ]
    assert [(r.method, r.value.tolist()) for r in found.more[norm]] == [("sac", [5, 6]), ("sac #2", [1])]
    assert [(r.method, r.value[-1]) for r in read_runs([other, short]).runs] == [("sac", 9), ("sac #2", 2)]


@pytest.mark.parametrize(
    "text",
    [
        "nothing\n",
        HEADER + "sac,walker-run,0,diag/x,5,nan\n",
        HEADER + rows("other", "walker-run", 0, [1], metric="diag/x"),
        HEADER + rows("sac", "walker-run", 0, [1e200], metric="diag/x"),
        HEADER + 2 * rows("sac", "walker-run", 0, [1], metric="diag/x"),
    ],
)
def test_damaged_diagnoses_leave_the_rest_of_their_run(tmp_path: Path, text: str) -> None:
    run = make_run(tmp_path / "run", rows("sac", "walker-run", 0, [1, 2, 3]), seeds=[0])
    (run / "diagnostics.csv").write_text(text)
    found = read_runs([run])
    assert [one.value.tolist() for one in found.runs] == [[1, 2, 3]]
    assert found.more == {}
    (complaint,) = found.complaints
    assert str(run / "diagnostics.csv") in complaint


# ---- one bad folder among three


def three(place: Path) -> list[Path]:
    """Three whole runs of three methods."""
    return [
        make_run(place / name, rows(f"{name}-utd1", "walker-run", 0, [1, 2, 3]), seeds=[0]) for name in ("a", "b", "c")
    ]


def plain(run: Run) -> tuple:
    return (*run[:3], run.env_step.tolist(), run.value.tolist(), *run[5:])


def drawn(study: Study) -> bool:
    return all(method in page.render(study) for method in ("a, UTD 1", "c, UTD 1"))


def compared(study: Study) -> bool:
    """Everything but the curves, which take long."""
    told = [details.facts for details in details_of.of_runs(study.runs)]
    found = compare.compare(study, resamples=10)
    return len(told) >= 2 and {"a-utd1", "c-utd1"} <= {entry.method for entry in found.returns}


def others_are_read(place: Path, *, used: Callable[[Study], bool] = drawn, **more: Any) -> list[str]:
    """What is said of three runs of which the second is bad; it is named, and the others are as ever."""
    found = read_runs([place], **more)
    runs = {run.method: plain(run) for run in found.runs}
    for name in ("a", "c"):
        whole = [0, 5, 10], [1, 2, 3], str(place / name), Setup(2, Fraction(1, 6), 5), ""
        assert runs[f"{name}-utd1"] == (f"{name}-utd1", "walker-run", "0", *whole)
        assert not any(
            f"{place / name} " in sentence or f"{place / name}/" in sentence for sentence in found.complaints
        )
    if "b-utd1" not in runs or runs["b-utd1"][6] == UNKNOWN:
        assert any(str(place / "b") in sentence for sentence in found.complaints)
    for sentence in found.complaints:
        assert len(sentence) < 1_000
    assert used(found)
    return found.complaints


def said(**changed: Any) -> str:
    return json.dumps({"settings": SETTINGS | {"seeds": [0]} | changed})


def row(frame: object, value: object, *, name: str = "b-utd1") -> str:
    return HEADER + rows("b-utd1", "walker-run", 0, [1, 2]) + f"{name},walker-run,0,eval/mean_reward,{frame},{value}\n"


RECORDS = {
    "empty": "",
    "null": "null",
    "a list": "[]",
    "a list of settings": '{"settings": []}',
    "deep": "[" * 100_000 + "]" * 100_000,
    "deep settings": said(options=0).replace(": 0}", ": " + '{"a":' * 900 + "1" + "}" * 900 + "}"),
    "no settings": "{}",
    "UTD that fills the memory": said(utd="1e999999"),
    "UTD of no updates": said(utd="1/0"),
    "UTD that is a list": said(utd=[1]),
    "seeds in one word": said(seeds="0"),
    "seeds that are words": said(seeds=["0"]),
    "seeds that are true": said(seeds=[True]),
    "frames without end": said().replace('"frames": 10', '"frames": 1e999'),
    "frames in words": said(frames="10"),
    "frames of 5,000 digits": said().replace('"frames": 10', '"frames": 1' + "0" * 5_000),
    "no action": said(action_repeat=0),
    "NaN": said().replace('"eval_episodes": 5', '"eval_episodes": NaN'),
    "a long word": said(utd="1" * 1_000_000),
    "not UTF-8": b'{"settings": "\xff"}',
    "edited": said().replace("{", '{"sha256": "0", ', 1),
}
TABLES = {
    "empty": "",
    "no row": HEADER,
    "not UTF-8": (HEADER + rows("b-?", "walker-run", 0, [1, 2, 3])).encode().replace(b"?", b"\xff"),
    "NaN": row(10, "nan"),
    "infinite": row(10, "-inf"),
    "a frame twice": row(5, 1),
    "a frame out of order": row(3, 1),
    "a frame below zero": row(-5, 1),
    "a huge frame": row(10**30, 1),
    "a frame of 5,000 digits": row("1" * 5_000, 1),
    "a value whose square is infinite": row(10, 1e200),
    "two runs": row(10, 1, name="other"),
    "a long name": HEADER + rows("b" * 300, "walker-run", 0, [1, 2, 3]),
    "a word of 100,000 letters": row(10, "x" * 100_000),
    "one of 200,000": row(10, "x" * 200_000),
    "zeros": bytes(1000),
}
KINDS: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a loop of links": lambda path: path.symlink_to(path),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a folder": lambda path: path.mkdir(),
    "a terabyte": lambda path: (path.touch(), os.truncate(path, 2**40)),
    "nothing": lambda path: None,
}


@pytest.mark.parametrize("what", RECORDS)
def test_a_record_that_lies_is_named(tmp_path: Path, what: str) -> None:
    text = RECORDS[what]
    three(tmp_path)[1].joinpath("run.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    complaints = others_are_read(tmp_path)
    if what != "deep settings":  # which can be read, and is only too much to tell
        (complaint,) = complaints
        assert str(tmp_path / "b") in complaint
        assert "run.json" in complaint


def test_a_million_seeds_are_one_sentence(tmp_path: Path) -> None:
    three(tmp_path)[1].joinpath("run.json").write_text(said(seeds=[*range(500_000)]))
    (complaint,) = others_are_read(tmp_path)
    assert complaint.endswith("b has no eval/mean_reward of seeds 1 2 3 4 5 6 and 499,993 more, which it was to train")


@pytest.mark.parametrize("what", TABLES)
def test_rows_that_lie_are_named(tmp_path: Path, what: str) -> None:
    text = TABLES[what]
    three(tmp_path)[1].joinpath("metrics.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    (complaint,) = others_are_read(tmp_path)
    assert str(tmp_path / "b") in complaint


@pytest.mark.parametrize("what", KINDS)
@pytest.mark.parametrize("name", ["run.json", "metrics.csv", "diagnostics.csv"])
def test_what_is_no_file_is_not_read(tmp_path: Path, name: str, what: str) -> None:
    path = three(tmp_path)[1] / name
    path.unlink(missing_ok=True)
    KINDS[what](path)
    complaints = others_are_read(tmp_path)
    assert bool(complaints) == (name != "diagnostics.csv" or what == "a terabyte")


def test_a_folder_that_goes_away_before_it_is_read(tmp_path: Path) -> None:
    bad = three(tmp_path)[1]
    (complaint,) = others_are_read(tmp_path, say=lambda text: shutil.rmtree(bad, ignore_errors=True))
    assert str(bad) in complaint


@pytest.mark.parametrize(("error", "names"), [(FileNotFoundError, 0), (PermissionError, 1), (OSError, 1)])
def test_a_folder_that_cannot_be_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[OSError], names: int
) -> None:
    three(tmp_path)
    closed = tmp_path / "closed"
    closed.mkdir()
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if Path(path) == closed:
            raise error(5, "it will not", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    found = read_runs([tmp_path])
    assert len(found.runs) == 3
    expected = f"{closed} cannot be looked into (it will not); what is in it is left out"
    assert found.complaints == [expected] * names


def test_folders_are_found_at_any_depth_and_loops_are_not_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "x/run", rows("sac", "walker-run", 0, [1, 2, 3]), seeds=[0])
    make_run(run / "seed-0", rows("sac", "walker-run", 1, [1, 2, 3]), seeds=[1])  # a run's own
    make_run(run / "later", rows("sac", "walker-run", 2, [1, 2, 3]), seeds=[2])
    (tmp_path / "x/loop").symlink_to(tmp_path)
    (tmp_path / "x/empty").mkdir()
    assert run_folders(tmp_path, []) == [run, run / "later"]
    monkeypatch.chdir(tmp_path)
    for _ in range(1_100):
        os.mkdir("d")
        os.chdir("d")
    try:
        assert run_folders(tmp_path, []) == [run, run / "later"]
    finally:
        for _ in range(1_100):
            os.chdir("..")
            os.rmdir("d")


def test_a_table_that_unpacks_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb, good = tmp_path / "bomb.csv.gz", tmp_path / "good.csv"
    bomb.write_bytes(gzip.compress(bytes(100_000)))
    good.write_text(HEADER + rows("sac", "walker-run", 0, [1, 2]))
    monkeypatch.setattr("steadyq.results.csv_columns.MOST_BYTES", 50_000)
    found = read_runs([bomb, good])
    assert len(found.runs) == 1
    assert found.complaints == [f"{bomb} unpacks to more than the 50,000 bytes that are read; split or remove it"]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    good = three(tmp_path)[0]
    shutil.copytree(good, tmp_path / os.fsdecode(b"\xff"))
    (tmp_path / "b/run.json").write_text('{"settings": "\\ud800"}')
    found = read_runs([tmp_path])
    assert [r"is in" in sentence and r"\udcff" in sentence for sentence in found.complaints] == [False, True]
    assert "\\ud" in page.render(found).encode().decode()


def test_whatever_goes_wrong_is_a_sentence() -> None:
    complaints: list[str] = []
    for error in (InputError("x.csv is bad"), KeyError("settings"), RecursionError("deep"), MemoryError()):

        def fail(error: Exception = error) -> None:
            raise error

        assert untrusted.attempt(fail, complaints, failing="x.csv cannot be read") is None
    assert complaints == [
        "x.csv is bad",
        "x.csv cannot be read (KeyError: 'settings')",
        "x.csv cannot be read (RecursionError: deep)",
        "x.csv cannot be read (MemoryError: )",
    ]
    with pytest.raises(KeyboardInterrupt):
        untrusted.attempt(lambda: (_ for _ in ()).throw(KeyboardInterrupt), [], failing="")


NASTY = (
    *("1e999999", "1/0", "9" * 5_000, "nan", "\ud800", "../..", "\x1b]0;x", [], [[]], {}, True, -1, 0.5),
    *(10**30, 10**400, 1e308, float("inf"), float("nan")),
)
LIES = st.sampled_from(NASTY) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
@given(data=st.data())
def test_a_lie_in_one_folder_hides_no_other(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.getbasetemp() / "lied"
    shutil.rmtree(place, ignore_errors=True)
    bad = three(place)[1]
    what = data.draw(st.sampled_from([*SETTINGS, "seeds", "options", "stretches", "cell", "run.json", "metrics.csv"]))
    if what == "cell":
        table = [line.split(",") for line in (bad / "metrics.csv").read_text().splitlines()]
        data.draw(st.sampled_from(table))[data.draw(st.integers(0, 5))] = str(data.draw(LIES))
        text = "".join(",".join(line) + "\n" for line in table)
        (bad / "metrics.csv").write_bytes(text.encode(errors="surrogatepass"))
    elif what in ("run.json", "metrics.csv"):
        whole = (bad / what).read_bytes()
        start = data.draw(st.integers(0, len(whole)))
        end = data.draw(st.integers(start, min(len(whole), start + 64)))
        (bad / what).write_bytes(whole[:start] + data.draw(st.binary(max_size=64)) + whole[end:])
    else:
        told: dict[str, Any] = SETTINGS | {"seeds": [0], "options": {}}
        stretches: Any = [{"from_frame": 0}]
        if what == "stretches":
            stretches = data.draw(LIES | st.just([{"from_frame": data.draw(LIES)}]))
        else:
            told[what] = data.draw(LIES)
        (bad / "run.json").write_text(json.dumps({"settings": told, "stretches": stretches}))
    others_are_read(place, used=compared)


# ---- scores


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


def test_tables_of_spreadsheets_and_of_pandas_are_read(tmp_path: Path) -> None:
    """With a byte order mark, Windows line ends, a blank line, whole numbers as floats, NaN where nobody asked."""
    path = tmp_path / "table.csv"
    text = HEADER + rows("sac", "walker-run", 0, [1, 2]).replace(",5,", ",5.0,") + "sac,walker-run,0,loss,5,nan\n\n"
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    found = read_runs([path])
    assert found.complaints == []
    assert [(run.env_step.tolist(), run.value.tolist()) for run in found.runs] == [([0, 5], [1, 2])]
    path.write_text(text.replace("5.0", "5.5"))
    assert "line 3 of" in (complaint := read_runs([path]).complaints[0])
    assert "not a whole number: 5.5" in complaint


def test_a_tables_curve_ends_with_the_evaluation_at_the_end(tmp_path: Path) -> None:
    text = rows("sac", "walker-run", 0, [1, 2]) + "sac,walker-run,0,eval_end/mean_reward,8,7\n"
    folder = make_run(tmp_path / "run", text, seeds=[0])
    copy = shutil.copy(folder / "metrics.csv", tmp_path / "copy.csv")
    for place in (folder, Path(copy)):
        (run,) = read_runs([place]).runs
        assert (run.env_step.tolist(), run.value.tolist()) == ([0, 5, 8], [1, 2, 7])


def test_a_method_without_the_metric_is_left_out_and_reported(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    loss = rows("crossq", "walker-run", 0, [1, 2], metric="train/critic_loss")
    path.write_text(HEADER + rows("sac", "walker-run", 0, [1, 2]) + loss)
    found = read_runs([path])
    assert found.complaints == ["crossq on walker-run has no eval/mean_reward and is left out"]
    assert not any(found.more.values())
    page.render(found)


def test_a_folder_without_its_record_is_read_all_the_same(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", rows("sac", "walker-run", 0, [1, 2]), seeds=[0])
    (folder / "run.json").unlink()
    found = read_runs([folder])
    assert len(found.runs) == 1
    assert "how the run in" in found.complaints[0]
    assert "was made is not known" in found.complaints[0]


def test_published_runs_hide_no_other_runs(tmp_path: Path) -> None:
    own, published = tmp_path / "own.csv", tmp_path / "published.csv"
    own.write_text(HEADER + rows("X@own", "walker-run", 0, [1, 900]))
    suites = [("dmc", 100), ("dmc-pixels", 400)]
    lines = [f"own/code,X,{suite},walker-run,0,{frame},{value}" for suite, value in suites for frame in (0, 5)]
    published.write_text("\n".join(["source,algorithm,suite,task,seed,env_step,episode_return", *lines]) + "\n")
    found = read_study([own], published_file=published, against=["X*"])
    assert {run.method: run.value[-1] for run in found.runs} == {"X@own": 900, "X@own #2": 100, "X@own #3": 400}
    assert len(found.complaints) == 2


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


def test_areas_start_where_they_are_told_to() -> None:
    runs = [one([0, 10, 20], [99, 10, 20]), one([12, 20], [0, 8], method="late")]
    found, starts = scores.areas(runs, start=15, stop=20)
    assert starts == {"walker-run": 15}
    assert found["m"].tasks["walker-run"].tolist() == [[17.5]]
    assert found["late"].tasks["walker-run"].tolist() == [[5.5]]
    _, starts = scores.areas(runs, start=5, stop=20)  # one run is not there yet
    assert starts == {"walker-run": 12}
    with pytest.raises(InputError, match="from frame 20 to 20; let them begin earlier"):
        scores.areas(runs, start=20, stop=20)
    assert scores.areas(runs, stop=0) == ({}, {})  # a run that has just begun


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
