"""Runs read from run folders, tidy CSV files and files of published results: what figures and statistics start from.

What cannot be read is a complaint, one sentence each, and the rest is read all the same.
"""

import functools
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from steadyq.errors import InputError
from steadyq.results import measures, published
from steadyq.results.csv_columns import read_columns, whole
from steadyq.results.runs import Run, Setup, Study, by_method, group, matches
from steadyq.results.untrusted import attempt, check_file, printable
from steadyq.settings import parse_env
from steadyq.store import metrics_csv, packed, sealed, state
from steadyq.store.disk import FileError
from steadyq.store.folder import DIAGNOSTICS, newest_mark
from steadyq.store.metrics_csv import Row
from steadyq.store.names import EVALUATION, in_a_curve
from steadyq.store.state import State

COLUMNS: dict[str, Callable[[str], Any]] = {
    "exp_name": str,
    "env_name": str,
    "seed": str,
    "metric": str,
    "env_step": whole,
    "value": float,  # `group` refuses what is not finite; of a metric that nobody asked for it may be
}
MOST_TASKS = 500
Reader = Callable[[Path, str, list[str]], dict[str, list[Run]]]
RECORD = "run.json"
MOST_BYTES = {RECORD: 2**22, metrics_csv.FILE: 2**28, DIAGNOSTICS: 2**28}
"""How large a file of a run folder may be: hundreds of times what a long run writes."""
NAMED = 6  # so many missing seeds are named, of more only their number


class Made(NamedTuple):
    """How a run was made, as far as it matters to what was measured."""

    setup: Setup
    settings: dict[str, Any]  # all of them, as they were read
    frames: int
    seeds: list[int]
    log_every: int
    eval_every: int


def read_study(
    places: Sequence[Path],
    *,
    published_file: Path | None = None,
    against: Sequence[str] | None = None,
    tasks: Sequence[str] = ("*",),
    methods: Sequence[str] = ("*",),
    metric: str = EVALUATION,
    say: Callable[[str], None] = lambda text: None,
) -> Study:
    """One's own runs in these places, and the published runs of a file: on the same tasks, or on all if there are none.

    Args:
        places: as `read_runs`.
        published_file: as `published.read_published`.
        against: patterns of the published methods to keep, such as `BRO*`; None for the usual ones.
        tasks: patterns of the tasks to keep.
        methods: patterns of the methods to keep, published ones among them.
        metric: the one to compare.
        say: as `read_runs`.

    Raises:
        InputError: nothing could be read, and all complaints are in the sentence; or no method is wanted.
    """
    own = read_runs(places, metric=metric, say=say)
    runs = [run for run in own.runs if matches(run.task, tasks)]
    more = {name: [run for run in found if matches(run.task, tasks)] for name, found in own.more.items()}
    complaints = list(own.complaints)
    if own.runs and not runs:
        complaints.append(f"no run is on a task like {' or '.join(tasks)}")
    if published_file is not None:
        ours = {run.task for run in runs}

        def keep(method: str, task: str) -> bool:
            return (
                matches(method, published.USUAL if against is None else against)
                and matches(task, tasks)
                and (not ours or task in ours)
            )

        if metric == EVALUATION:
            read = functools.partial(published.read_published, published_file, keep=keep)
            theirs = attempt(read, complaints, failing=f"{published_file} cannot be read") or []
            runs, _ = _once([*runs, *theirs], complaints)
        else:
            complaints.append(f"published results have returns only ({EVALUATION}), not {metric}; leave them out")
    if (count := len({run.task for run in runs})) > MOST_TASKS:
        raise InputError(
            f"there are {count:,} tasks, which no table or figure shows; choose at most {MOST_TASKS} with --tasks"
        )
    if not runs:
        usual = "name run folders or tidy CSV files, before --methods, --tasks and --against, which take what follows"
        raise InputError("nothing to read: " + ("; ".join(complaints) or usual))
    chosen = [run for run in runs if matches(run.method, methods)]
    if not chosen:
        raise InputError(f"no method matches {' or '.join(methods)}; there are {', '.join(by_method(runs))}")
    return Study(
        chosen,
        complaints,
        {name: [run for run in found if matches(run.method, methods)] for name, found in more.items()},
    )


def read_runs(
    places: Iterable[Path],
    *,
    metric: str = EVALUATION,
    say: Callable[[str], None] = lambda text: None,
) -> Study:
    """The runs in these places: run folders, folders with them anywhere below, packs (zip), and tidy CSV files.

    A tidy file has the columns `exp_name,env_name,seed,metric,env_step,value`, in any order and among others, and may
    be compressed with gzip. Experiments of one name are one method. Of a run still being written, what is there counts.
    What figures and the report draw next to the metric (`measures.wanted`) is in `Study.more`, where it was measured.

    Args:
        places: what to read.
        metric: the one that every run must have.
        say: takes one line about each file or folder before it is read.
    """
    found: dict[str, list[Run]] = {metric: []}
    complaints: list[str] = []
    inputs = chain.from_iterable(_inputs(place, complaints) for place in places)
    for number, (reader, path) in enumerate(inputs, start=1):
        say(f"reading {number}: {path}")
        read = functools.partial(reader, path, metric, complaints)
        for name, runs in (attempt(read, complaints, failing=f"{path} cannot be read") or {}).items():
            found.setdefault(name, []).extend(runs)
    runs, counted = _once(found.pop(metric), complaints)
    more = {name: _like(runs, counted) for name, runs in found.items()}
    known = {run[:2] for run in runs}
    for method, task in sorted({run[:2] for others in more.values() for run in others} - known):
        complaints.append(f"{method} on {task} has no {metric} and is left out")
    more = {name: [run for run in others if run[:2] in known] for name, others in more.items()}
    return Study(runs, [printable(sentence) for sentence in complaints], more)


def read_folder(folder: Path, complaints: list[str]) -> dict[str, list[Run]]:
    """Every metric of a run folder, by its name: one run per seed. How they were made is not looked up.

    Raises:
        InputError: it is not the folder of a run, or its record is malformed.
    """
    rows = read_rows(folder, complaints)
    if (count := len({row[:2] for row in rows})) > 1:
        raise InputError(f"{folder} holds measurements of {count} runs; a run has one name and one task: restore it")
    return _by_metric(rows, folder)


def _by_metric(rows: list[Row], origin: Path) -> dict[str, list[Run]]:
    found = defaultdict(list)
    for row in rows:
        found[row.metric].append((row.exp_name, row.env_name, str(row.seed), row.env_step, row.value))
    return {metric: group(points, origin=str(origin)) for metric, points in found.items()}


def read_record(folder: Path) -> dict[str, Any]:
    """What run.json says, of whatever version: for words about a run, and never to resume it.

    Raises:
        Exception: of many kinds, where it is not JSON of this form; `attempt` makes a sentence of each.
    """
    path = folder / RECORD
    if not os.path.lexists(path):
        raise FileNotFoundError(f"there is no {RECORD}")
    check_file(path, most=MOST_BYTES[RECORD])
    content = json.loads(path.read_bytes())
    if not isinstance(content, dict) or not isinstance(content.get("settings"), dict):
        raise ValueError("it is not the record of a run")
    if "sha256" in content and content["sha256"] != sealed.json_digest(content):
        raise ValueError("it is damaged or was edited: its SHA-256 is another one than it was written with")
    return content


def run_folders(place: Path, complaints: list[str]) -> list[Path]:
    """A place itself if it is a run folder, or every one anywhere below it. Links to folders are not followed.

    What goes away meanwhile is left out; what cannot be looked into is a complaint.
    """
    if any(os.path.isfile(place / name) for name in (RECORD, metrics_csv.FILE)):
        return [place]
    found, pending = list[Path](), [str(place)]
    while pending:  # no recursion: folders may be nested deeper than Python's stack
        folder = pending.pop()
        try:
            with os.scandir(folder) as entries:
                inside = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
        except FileNotFoundError:
            continue
        except OSError as error:
            complaints.append(f"{folder} cannot be looked into ({error.strerror}); what is in it is left out")
            continue
        is_run = RECORD in inside or metrics_csv.FILE in inside
        if is_run:
            found.append(Path(folder))
        below = (name for name, is_dir in inside.items() if is_dir and not (is_run and is_made(name)))
        pending += [os.path.join(folder, name) for name in below]
    return sorted(found)


def is_made(name: str) -> bool:
    """Whether a folder in a run folder is the run's own: checkpoints and events, many files and nothing to show."""
    return name.startswith("seed-") or name == "tensorboard"


def read_rows(folder: Path, complaints: list[str]) -> list[Row]:
    """What a run's own record has, and then what was measured later, of each metric at the frames it did not have.

    The evaluation at a run's end is the last one of its curve. A last line that is still being written is left out, so
    the folder of a run in progress can be read. What was measured later is left out, with a complaint, where it cannot
    be read.

    Raises:
        InputError: as `read_folder`; a record without a row is fine.
    """
    path = folder / metrics_csv.FILE
    if not os.path.isfile(path):
        raise InputError(
            f"{folder} is not the folder of a run: it holds no {metrics_csv.FILE}; give one `steadyq train` made"
        )
    own = [row._replace(metric=in_a_curve(row.metric)) for row in _in_order(path)]
    later = attempt(functools.partial(_later, folder, own), complaints, failing=f"{folder / DIAGNOSTICS} is left out")
    return own + (later or [])


def _later(folder: Path, own: list[Row]) -> list[Row]:
    """The rows of what was measured later, if there is any, which are rows of this run and none of its own."""
    path = folder / DIAGNOSTICS
    if not os.path.isfile(path):
        return []
    measured, whose = {row[:5] for row in own}, {row[:3] for row in own}
    found = [row for row in _in_order(path) if row[:5] not in measured]
    if any(row[:3] not in whose for row in found):
        raise InputError(f"{path} holds measurements of another run and is left out; remove it")
    _by_metric(found, path)  # which refuses numbers that nobody can compute with
    return found


def check_record(folder: Path, complaints: list[str]) -> None:
    """One more complaint where a run's newest checkpoint, or the list of digests of a pack, knows another record."""
    try:
        if (mark := newest_mark(folder)) is not None:
            metrics_csv.check_prefix(folder / metrics_csv.FILE, mark)
        else:
            packed.check_sum(folder, metrics_csv.FILE)
    except FileError as error:
        complaints.append(f"{error}; its numbers are shown as they are now")


def _in_order(path: Path) -> list[Row]:
    """The rows of a file that has each curve's frames in their order."""
    check_file(path, most=MOST_BYTES[path.name])
    found, last = metrics_csv.read(path), dict[tuple, int]()
    for row in found:
        if row.env_step <= last.get(row[:4], -1):
            raise InputError(
                f"{path} has {row.metric} of seed {row.seed} at frame {row.env_step} twice or out of order; "
                "a run writes each row once, in order: restore the file"
            )
        last[row[:4]] = row.env_step
    return found


def _inputs(place: Path, complaints: list[str]) -> Iterator[tuple[Reader, Path]]:
    """What there is to read in a place, in a fixed order."""
    if not os.path.exists(place):
        complaints.append(f"there is no {place}; give run folders or tidy CSV files")
    elif packed.is_pack(place):
        yield _from_pack, place
    elif os.path.isfile(place):
        of_run = place.name == metrics_csv.FILE and os.path.isfile(place.parent / RECORD)
        yield (_from_folder, place.parent) if of_run else (_from_table, place)
    else:
        folders = run_folders(place, complaints)
        if not folders:
            complaints.append(f"{place} is not a run folder and holds none (no {metrics_csv.FILE} in or below it)")
        for folder in folders:
            yield _from_folder, folder


def _from_table(path: Path, metric: str, _: list[str]) -> dict[str, list[Run]]:
    rows: dict[str, list[tuple[str, str, str, int, float]]] = {}
    wanted = functools.cache(lambda measured: measured == metric or measures.wanted(measured))
    for name, env, seed, measured, frame, value in read_columns(path, COLUMNS):
        measured = in_a_curve(measured)
        if wanted(measured):
            rows.setdefault(measured, []).append((name, env, seed, frame, value))
    if metric not in rows:
        raise InputError(f"{path} has no row of the metric {metric}; name one that it has with --metric")
    return {measured: group(found, origin=str(path)) for measured, found in rows.items()}


def _from_folder(folder: Path, metric: str, complaints: list[str]) -> dict[str, list[Run]]:
    check_record(folder, complaints)
    everything = read_folder(folder, complaints)
    why = f"how the run in {folder} was made is not known: its {RECORD} cannot be read"
    made = attempt(functools.partial(_made, folder), complaints, failing=why)
    stands = made and attempt(functools.partial(_look, folder, made), complaints, failing=f"{folder} cannot be read")
    if metric not in everything:
        yet = "" if stands and stands.name == "done" else " yet"
        raise InputError(f"{folder} has no {metric}{yet}" + (f" ({stands.words})" if stands else ""))
    if made is not None:
        last: dict[str, int] = {}
        for run in chain.from_iterable(everything.values()):
            last[run.seed] = max(last.get(run.seed, 0), int(run.env_step[-1]))
        whole = min(int(run.env_step[-1]) for run in everything[metric]) >= made.frames
        if stands is not None and not (whole and stands.name == "stopped"):
            complaints += _not_whole(folder, made, stands, min(last.values()))
        have = {run.seed for run in everything[metric]}
        missing = [str(seed) for seed in sorted(made.seeds) if str(seed) not in have]
        if missing:
            more = f" and {len(missing) - NAMED:,} more" if len(missing) > NAMED else ""
            which = f"seed{'s' * (len(missing) > 1)} {' '.join(missing[:NAMED])}{more}"
            complaints.append(f"{folder} has no {metric} of {which}, which it was to train")
    return {
        name: [run if made is None else run._replace(setup=made.setup) for run in runs]
        for name, runs in everything.items()
        if name == metric or measures.wanted(name)
    }


def _from_pack(path: Path, metric: str, complaints: list[str]) -> dict[str, list[Run]]:
    with packed.opened(path) as folder:
        found = list[str]()
        try:
            everything = _from_folder(folder, metric, found)
        finally:
            complaints += [sentence.replace(str(folder), str(path)) for sentence in found]
    return {name: [run._replace(origin=str(path)) for run in runs] for name, runs in everything.items()}


def stands(folder: Path) -> State:
    """Where the run in a folder stands; errors as of `read_record`, for `attempt`."""
    return _look(folder, _made(folder))


def _look(folder: Path, made: Made) -> State:
    return state.look(folder, seeds=made.seeds, frames=made.frames)


def _not_whole(folder: Path, made: Made, stands: State, last: int) -> list[str]:
    """What to report of a run that is not done; `last` is the frame to which all of its seeds were measured."""
    if stands.name == "done":
        return []
    if stands.name == "running":
        return [f"{folder} is {stands.words}"]
    if stands.name == "failed":
        return [f"{folder} {stands.words}"]
    if stands.frame is not None:
        return [f"{folder} {stands.words}; resume it with: {state.resume_command(folder, made.settings)}"]
    due = min(made.log_every, made.eval_every or made.log_every)  # frames between two measurements
    if last + due <= made.frames:  # else it is a copy of a whole one
        return [f"{folder} ends at frame {last:,} of {made.frames:,}, and has no checkpoint to resume from"]
    return []


def _made(folder: Path) -> Made:
    """Checked to the last number: what a stranger's run.json says is printed, compared and computed with."""
    settings = read_record(folder)["settings"]

    def whole(key: str, *, least: int = 1) -> int:
        value = settings[key]
        if type(value) is not int or not least <= value < 2**63:
            raise ValueError(f"{key} is {value!r}")
        return value

    repeat, utd, seeds = whole("action_repeat"), settings["utd"], settings["seeds"]
    if not isinstance(utd, str) or re.fullmatch("[0-9]{1,20}(/[0-9]{1,20})?", utd) is None:  # no 1e999999
        raise ValueError(f"utd is {utd!r}")
    if not isinstance(seeds, list) or not all(type(seed) is int and 0 <= seed < 2**63 for seed in seeds):
        raise ValueError(f"seeds is {seeds!r}")
    try:
        parse_env(settings["env"])
    except InputError as error:
        raise ValueError(str(error)) from None  # which needs the file's name
    return Made(
        setup=Setup(repeat, Fraction(utd) / repeat, whole("eval_episodes")),
        settings=settings,
        frames=whole("frames"),
        seeds=seeds,
        log_every=whole("log_every"),
        eval_every=whole("eval_every", least=0),
    )


def _once(runs: list[Run], complaints: list[str]) -> tuple[list[Run], dict[tuple[str, ...], str]]:
    """Each run once: of copies the one that goes furthest; what only has another run's name is a method of its own.

    So nobody's runs are hidden by what somebody put, under the same name, into a place that is read earlier.

    Returns:
        The runs; and by method, task, seed and place the method that it counts as.
    """
    versions: dict[tuple[str, str, str], list[Run]] = defaultdict(list)
    counted: dict[tuple[str, ...], str] = {}
    for run in runs:
        there = versions[run[:3]]
        number = next((i for i, other in enumerate(there) if _agree(run, other)), len(there))
        method = f"{run.method} #{number + 1}" if number else run.method
        counted[*run[:3], run.origin] = method
        if number < len(there):
            complaints.append(f"{run.name} is in {there[number].origin} and in {run.origin}; it counts once")
            there[number] = max(there[number], run._replace(method=method), key=lambda one: one.env_step[-1])
            continue
        if number:
            words = f"{run.name} is in {there[0].origin} and, with other numbers, in {run.origin}"
            complaints.append(f"{words}; the latter is shown as {method}")
        there.append(run._replace(method=method))
    return list(chain.from_iterable(versions.values())), counted


def _agree(a: Run, b: Run) -> bool:
    """Whether two runs of one name can be copies: equal at the frames that both have, to the digits of a table."""
    _, ours, theirs = np.intersect1d(a.env_step, b.env_step, return_indices=True)
    return bool(ours.size) and np.allclose(a.value[ours], b.value[theirs], rtol=1e-5)


def _like(runs: list[Run], counted: Mapping[tuple[str, ...], str]) -> list[Run]:
    """Runs of a further metric under the methods that their places count as: of each the one that goes furthest."""
    found: dict[tuple[str, ...], Run] = {}
    for run in runs:
        run = run._replace(method=counted.get((*run[:3], run.origin), run.method))
        found[run[:3]] = max(found.get(run[:3], run), run, key=lambda one: one.env_step[-1])
    return list(found.values())
