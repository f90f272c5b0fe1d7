"""Damage run folders, policies and studies, or lie in them, and judge what every command then does.

    python -m tools.fuzz flips --out FOLDER [--count 500] [--seed 0]
    python -m tools.fuzz lies --out FOLDER [--count 500 | --minutes 10] [--seed 0]

`flips`: one bit of a file, of each kind in turn, and the commands that read it. Each must give what it gives on whole
files, or report what is wrong. `lies`: names, numbers, tensors, rows and whole files that no run writes, well sealed,
and pipes, devices, links and folders in the place of files; some commands on each. Nobody's code may run, nothing
outside may change, and what is refused is refused in one printable sentence within five seconds of work.

Commands run in this process, with little memory. FOLDER/TRICK.csv gets a row per damage, each of which can be made
again: `--seed S --first N --count 1`. Exit code 1 if there was a finding.
"""

import argparse
import contextlib
import csv
import faulthandler
import io
import json
import math
import os
import pickle
import random
import re
import resource
import shutil
import signal
import socket
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from PIL import Image

from steadyq.cli.main import main as steadyq
from steadyq.deploy.policy import Policy
from steadyq.engine import machine
from steadyq.output import say
from steadyq.report import serve
from steadyq.report.page import render
from steadyq.results.read import read_study
from steadyq.store import checkpoint, metrics_csv, sealed
from steadyq.store.folder import seed_folder
from steadyq.store.sealed import json_digest
from tools.same_state import read_state, whole, without_clocks

FRAMES, MORE = 60, 68
OPTIONS = {
    "frames": FRAMES,
    "learning-starts": 40,
    "batch-size": 8,
    "width": 4,
    "actor-width": 4,
    "utd": "1/4",
    "eval-every": 30,
    "eval-episodes": 1,
    "log-every": 20,
    "save-every": 45,
    "compile": "off",
    "threads": 1,
}
SECONDS, HANG = 5.0, 30.0  # of work, and by the clock of a machine that others use
MEMORY = 3 * 2**30  # more than the process has when it begins
VERDICTS: dict[int | None, str] = {0: "done", 1: "failed", 2: "refused", 75: "stopped"}
RENAMED = ".renamed"
LONGEST = 2_500  # characters of a sentence
TRAP = "open({!r}, 'w')\n"


class Told(NamedTuple):
    """What came of a command."""

    code: int | None  # None: an error that is not for users
    out: str
    err: str
    seconds: float  # of work


class TooLong(BaseException):
    """A command did not end. No error that a command would catch."""


# The subject


def make_subject(place: Path) -> None:
    """A run with everything in it, its policy in both forms, and a study with one run."""
    run, words = place / "run", [part for name, value in OPTIONS.items() for part in (f"--{name}", str(value))]
    place.mkdir(parents=True)
    options = "\n".join(f"{name} = {json.dumps(value)}" for name, value in OPTIONS.items())
    (place / "study.toml").write_text(f'[defaults]\n{options}\n[[runs]]\nrecipe = "crossq_wn"\nenv = "Pendulum-v1"\n')
    for command in (
        ["train", "crossq_wn", "--env", "Pendulum-v1", *words, "--out", str(run)],
        ["diagnose", str(run), "--episodes", "1"],
        ["export", str(run), str(place / "policy.onnx"), "--numpy", str(place / "policy.npz")],
        ["study", "run", str(place / "study.toml"), "--out", str(place / "study")],
        ["study", "collect", str(run), str(place / "table.csv")],
    ):
        if code := steadyq(command):
            raise RuntimeError(f"exit code {code} of `steadyq {' '.join(command)}`")
    Image.new("RGB", (64, 16), "red").save(run / "film_strip.png")


def commands(run: Path, place: Path, out: Path, *, minutes: float) -> dict[str, Callable[[], int]]:
    """Everything that reads a subject, by name; what trains stops after so long."""
    left = minutes + (time.time() - psutil.Process().create_time()) / 60  # it counts from the start of the process
    words = {
        "evaluate": ["evaluate", run, "--episodes", 1],
        "evaluate-best": ["evaluate", run, "--episodes", 1, "--checkpoint", "best"],
        "diagnose": ["diagnose", run, "--frames", 30, "--episodes", 1],
        "export": ["export", run, out / "policy.onnx", "--numpy", out / "policy.npz"],
        "report": ["report", run, "--out", out / "report.html"],
        "compare": ["compare", run, "--reps", 100, "--csv", out / "compare.csv"],
        "figures": ["figures", "1", run, "--out", out],
        "collect": ["study", "collect", run, out / "table.csv"],
        "status": ["study", "status", place / "study"],
        "plan": ["study", "plan", place / "study.toml", "--out", place / "study"],
        "collect-more": ["study", "collect", place / "study", place / "table.csv"],
        "resume": ["resume", run, "--frames", MORE, "--max-minutes", left],
    }
    found: dict[str, Callable[[], int]] = {name: partial(steadyq, [*map(str, one)]) for name, one in words.items()}
    for name in ("policy.npz", "policy.onnx"):
        found[name] = partial(act, place / name)
    return {**found, "watch": partial(watch, run)}


def act(path: Path) -> int:
    """What a robot does."""
    try:
        policy = Policy.load(path)
        print(policy(np.full((2, policy.spec.obs_dim), 0.5, np.float32)).tobytes().hex())
    except ValueError as error:
        say(f"steadyq: {error}", stream=sys.stderr)
        return 2
    return 0


def watch(run: Path) -> int:
    """What `steadyq watch` does every few seconds."""
    server = serve.Server([run], lambda state: render(read_study([run]), watched=state), port=0)
    try:
        return 0 if server.refresh() else 1
    finally:
        server._http.server_close()


def written(stream: io.TextIOWrapper) -> str:
    """What has been written to a text file in memory."""
    stream.seek(0)
    return stream.read()


def call(command: Callable[[], int]) -> Told:
    """Do it here, with what it prints caught as a terminal would get it."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TooLong

    out, err = (
        io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=how, newline="")
        for how in ("strict", "backslashreplace")
    )
    before, started = signal.signal(signal.SIGALRM, ring), time.process_time()
    signal.setitimer(signal.ITIMER_REAL, HANG)
    faulthandler.dump_traceback_later(4 * HANG, exit=True)  # where not even the alarm is heard
    code: int | None = None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = command()
    except KeyboardInterrupt:
        raise
    except BaseException:
        err.write(traceback.format_exc())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        faulthandler.cancel_dump_traceback_later()
    return Told(code, written(out), written(err), time.process_time() - started)


def judge(told: Told) -> list[str]:
    """What no command may do, whatever it reads."""
    lines = told.err.splitlines()
    if told.code is None:
        return ["no answer in time" if "TooLong" in told.err else f"a traceback: {lines[-1][:300]}"]
    found = []
    if told.code not in (0, 1, 2, 75):
        found.append(f"exit code {told.code}")
    if unprintable := {c for c in told.out + told.err if not c.isprintable() and c != "\n"}:
        found.append(f"not printable: {unprintable!r}")
    if odd := [line for line in lines if not line.startswith("steadyq: ")]:
        found.append(f"no sentence: {odd[0][:200]!r}")
    if told.code in (1, 2) and len(lines) != 1:
        found.append(f"{len(lines)} sentences")
    if lines and max(map(len, lines)) > LONGEST:
        found.append(f"a sentence of {max(map(len, lines)):,} characters")
    if told.seconds > SECONDS:
        found.append(f"{told.seconds:.1f} s of work")
    return found


Damage = tuple[str, list[str]]
"""What was done, and which commands may see it."""


# One bit


KINDS: dict[str, tuple[str, str]] = {
    "record": ("run/run.json", "evaluate export report compare collect resume"),
    "metrics": ("run/metrics.csv", "report compare collect resume"),
    "checkpoint": (f"run/seed-0/checkpoints/{FRAMES:012d}.safetensors", "evaluate export diagnose resume"),
    "older checkpoint": ("run/seed-0/checkpoints/*45.safetensors", "resume"),
    "replay": ("run/seed-0/checkpoints/replay/*", "export diagnose resume"),
    "snapshot": ("run/seed-0/snapshots/*30.safetensors", "diagnose"),
    "best snapshot": ("run/seed-0/snapshots/*", "evaluate-best"),
    "lock": ("run/.*", "resume"),
    "pictures": ("run/*.png", "report resume"),
    "events": ("run/tensorboard/*/*", "report resume"),
    "onnx": ("policy.onnx", "policy.onnx"),
    "npz": ("policy.npz", "policy.npz"),
    "diagnostics": ("run/diagnostics.csv", "report collect diagnose"),
    "plan": ("study/study.json", "status"),
    "study": ("study.toml", "plan"),
    "tries": ("study/workers/**/*.*", "status plan"),
    "table": ("table.csv", "collect-more"),
}
SAID = ("steadyq: ", "cannot be used", "damaged")
"""How it is said that a file is not what it was."""

UNSEALED = ("diagnostics", "plan", "study", "table", "pictures")
"""Kinds that have no digest: a flip of theirs may be a file that somebody wrote."""


def result(name: str, told: Told, run: Path, out: Path) -> Any:
    """What a command that succeeded gave, but for clocks."""
    if name == "resume":
        return whole(read_state(run, 0, checkpoint.frames(seed_folder(run, 0))[-1])), without_clocks(
            run / "metrics.csv"
        )
    if name == "diagnose":
        return without_clocks(run / "diagnostics.csv")
    date = rb"\d{4}-\d\d-\d\d \d\d:\d\d UTC"
    return {path.name: re.sub(date, b"", path.read_bytes()) for path in sorted(out.iterdir())} or told.out


def flip(trial: int, rng: random.Random, place: Path) -> Damage:
    """Flip a bit: which it was, and the commands to try."""
    kind = [*KINDS][trial % len(KINDS)]
    pattern, names = KINDS[kind]
    path = rng.choice(sorted(path for path in place.glob(pattern) if path.is_file()))
    data = bytearray(path.read_bytes())
    if not data:
        return f"{kind}: {path.name} is empty", []
    # Half of the flips are near an end, where what describes the rest lies.
    near = min(len(data), 4_096)
    at = rng.choice([rng.randrange(len(data)), rng.randrange(near), len(data) - 1 - rng.randrange(near)])
    data[at] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return f"{kind}: {path.relative_to(place)} byte {at}", names.split()


# Lies


def nested(depth: int) -> bytes:
    """JSON that a recursive reader cannot read."""
    return b"[" * depth + b"]" * depth


class Trap:
    """Its pickle, were it loaded, would leave a file in the current folder."""

    def __reduce__(self) -> tuple:
        return Path.touch, (Path("sprung"),)


NAMES = ["os:evil:Hopper-v5", "evil:Pendulum-v1", "os.evil:Pendulum-v1", "..x:Y-v0", "x.:Y-v0", ":Y-v0", "a/b:Y-v0"]
NAMES += ["../../x", "/etc/passwd", "/dev/zero", "seed-0/../../..", ".", "..", ""]
NAMES += ["nobody-v0", "dog-fly", "Pendulum-v99", "evil.py:Env", "./evil.py:Env", "os:system", "os:Hopper-v5"]
NAMES += ["\x1b[2J\x1b]0;title\x07", "a\u202eb", "\x9b31m", "\ud800", "a\nb", "a\rb", "a\0b", "[red]x[/red]", ":smile:"]
NAMES += ["x" * 10_000, "<script>alert(1)</script>", "{0.__class__}", "%s%n", "$(touch sprung)", "\U0001d7ce", "\u0663"]
NUMBERS = [-1, 0, 1, 7, 2**31, 2**53 + 1, 2**63, 10**30, 10**400, -0.5, 0.5, 1e-320, 1e16, 1e308, True]
WORDS = ["1/0", "1e999999", "9" * 5_000, ["x"] * 1_000, [*range(1_000_000)]]
OTHERS: list[Any] = [None, [], {}, [[]], {"a": {"b": 0}}, *WORDS]
ANY: tuple[list[Any], ...] = (NAMES, NUMBERS, OTHERS)


def any_lie(rng: random.Random) -> Any:
    """A value of any kind."""
    value = rng.choice(rng.choice(ANY))
    return rng.choice([value, value, value, [value], {"": value}])


def put_lie(rng: random.Random, tree: Any) -> str:
    """Another value, one more or one less somewhere in JSON; where."""
    path, at = [], tree
    while isinstance(at, (dict, list)) and at:
        key: Any = rng.choice([*at]) if isinstance(at, dict) else rng.randrange(len(at))
        path.append(key)
        parent, at = at, at[key]
        if rng.random() < 0.2:
            break
    if not path:
        return "nothing"
    how = rng.choice(["other"] * 6 + ["gone", "more"])
    if how == "gone":
        del parent[key]
    elif how == "more" and isinstance(parent, dict):
        parent[rng.choice(NAMES)] = any_lie(rng)
    else:
        parent[key] = any_lie(rng)
    return f"{how} {'.'.join(map(str, path))} {str(parent[key] if how == 'other' else '')[:60]!r}"


def reseal(path: Path, kind: str, change: Callable[[dict[str, Any], dict[str, np.ndarray]], Any]) -> Any:
    """Change a sealed file and seal it as if nothing had happened."""
    arrays, values, _ = sealed.read(path, kind)
    arrays = {name: array.copy() for name, array in arrays.items()}
    told = change(values, arrays)
    sealed.write(path, kind, arrays, values)
    return told


RUN = ["evaluate", "evaluate-best", "diagnose", "export", "report", "compare", "collect", "watch"]
STUDY, POLICY = ["status", "plan", "collect-more"], ["policy.npz", "policy.onnx"]
AREAS = [("run/**/*", RUN)] * 3 + [("study/**/*", STUDY), ("*.*", [*STUDY, *POLICY])]


def in_record(rng: random.Random, place: Path) -> Damage:
    """Anything in run.json, in half of the cases in the checkpoints' copies too."""
    path = place / "run/run.json"
    content = json.loads(path.read_bytes())
    del content["sha256"]
    aims = ["settings", "options", "env", "stretches", "all"]
    aim = rng.choice(aims)
    if aim == "env":
        content["settings"][rng.choice(["env", "env", "recipe", "name"])] = rng.choice(NAMES)
        told = f"{content['settings']['env'][:40]!r} {str(content['settings']['recipe'])[:40]!r}"
    else:
        tree = content["settings"]["options"] if aim == "options" else content if aim == "all" else content[aim]
        told = put_lie(rng, tree)
    content["sha256"] = json_digest(content)
    path.write_text(json.dumps(content))
    if both := rng.random() < 0.5:
        for file in (place / "run/seed-0/checkpoints").glob("*.safetensors"):
            reseal(file, "checkpoint", lambda values, arrays: values["meta"].update(record=content))
    return f"record{' everywhere' if both else ''}: {told}", RUN


def in_checkpoint(rng: random.Random, place: Path) -> Damage:
    """Anything in the JSON of the newest checkpoint, or in all of them."""
    files = sorted((place / "run/seed-0/checkpoints").glob("*.safetensors"), reverse=True)
    told, state = "", rng.getstate()
    for path in files[: rng.choice([1, len(files)])]:
        rng.setstate(state)
        told = reseal(path, "checkpoint", lambda values, arrays: put_lie(rng, values))
    return f"checkpoint: {told}", RUN


def in_tensors(rng: random.Random, place: Path) -> Damage:
    """Any tensor of a checkpoint, snapshot or replay: other numbers, another type or shape, or gone."""
    kind, pattern = rng.choice(
        [("checkpoint", "checkpoints/*.safetensors"), ("snapshot", "snapshots/*"), ("replay", "checkpoints/replay/*")]
    )
    state, told = rng.getstate(), ""

    def change(values: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
        rng.setstate(state)
        name = rng.choice(sorted(arrays))
        old = arrays.pop(name)
        how = rng.choice(["gone", "nan", "huge", "least", "uint8", "flat", "empty", "twice", "wide"])
        changed = {
            "nan": lambda: np.full_like(old, np.nan) if old.dtype.kind == "f" else old,
            "huge": lambda: np.full_like(old, 3e38) if old.dtype.kind == "f" else np.full_like(old, 127),
            "least": lambda: np.full_like(old, np.iinfo(old.dtype).min) if old.dtype.kind == "i" else -old,
            "uint8": lambda: np.zeros(old.shape, np.uint8),
            "flat": lambda: old.reshape(-1),
            "empty": lambda: old[:0] if old.ndim else np.zeros(0, old.dtype),
            "twice": lambda: np.stack([old, old]),
            "wide": lambda: np.zeros((100_000, 10), old.dtype),
        }
        if how != "gone":
            arrays[name] = changed[how]()
        return f"{how} {name}"

    for path in sorted((place / "run/seed-0").glob(pattern)):
        told = reseal(path, kind, change)
    return f"{kind}: {told}", RUN


def no_file(rng: random.Random, place: Path) -> Damage:
    """Something else in the place of a file, or of a folder."""
    outside = place.parent / "precious"
    area, names = rng.choice(AREAS)
    path = rng.choice(sorted(place.glob(area)))
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    how = rng.choice(["pipe", "device", "link", "link to itself", "folder", "socket", "endless", "unreadable", "zeros"])
    if how == "pipe":
        os.mkfifo(path)
    elif how == "device":
        path.symlink_to("/dev/zero")
        with contextlib.suppress(OSError):  # not everyone may make one
            device = path.with_name("device")
            os.mknod(device, 0o20666, os.makedev(1, 5))
            device.replace(path)
    elif how == "link":
        path.symlink_to(outside if rng.random() < 0.5 else outside.parent)
    elif how == "link to itself":
        path.symlink_to(path)
    elif how == "folder":
        path.mkdir()
    elif how == "socket":
        with socket.socket(socket.AF_UNIX) as one, contextlib.chdir(path.parent):
            one.bind(path.name)
    elif how == "endless":
        with path.open("wb") as file:
            file.truncate(2**40)
    else:
        path.write_bytes(bytes(1_000))
        if how == "unreadable":
            path.chmod(0)
    return f"{how} at {path.relative_to(place)}", names


BYTES: dict[str, Callable[[], bytes]] = {
    "pickle": lambda: pickle.dumps(Trap()),
    "nothing": lambda: b"",
    "deep JSON": lambda: nested(100_000),
    "deep JSON in an object": lambda: b'{"settings": ' + nested(50_000) + b', "format": 2}',
    "deep header": lambda: (200_000).to_bytes(8, "little") + nested(100_000),
    "header of an exabyte": lambda: (2**60).to_bytes(8, "little") + b"{}",
    "header of 99 MB": lambda: (99_000_000).to_bytes(8, "little") + b"{}",
    "a number of a million digits": lambda: b'{"format": ' + b"9" * 1_000_000 + b"}",
    "another encoding": lambda: '{"format": 2}'.encode("utf-16"),
    "half a character": lambda: b'{"format": "\xc3',
    "escapes": lambda: "\x1b[2J\x9b31m\u202e".encode() * 100,
    "words": lambda: b"exp_name,env_name,seed,metric,env_step,value\n" + b"x" * 300_000,
    "an open quote": lambda: b'exp_name,env_name,seed,metric,env_step,value\n"' + b"x,\n" * 100_000,
    "zero bytes": lambda: b"exp_name,env_name,seed,metric,env_step,value\na,b,0,eval/mean_reward,1\0,2\n",
    "PostScript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(sprung) (w) file\n",
    "deep TOML": lambda: b"x = " + nested(100_000),
    "many tables": lambda: b"".join(b"[a" + b".a" * number + b"]\n" for number in range(600)),
    "a line of a megabyte": lambda: b"A" * 2**20,
}


def other_bytes(rng: random.Random, place: Path) -> Damage:
    """A file with another content altogether, or with a piece of one."""
    area, names = rng.choice(AREAS)
    path, what = rng.choice(sorted(p for p in place.glob(area) if p.is_file())), rng.choice([*BYTES])
    data, old = BYTES[what](), path.read_bytes()
    at = rng.choice([0, 0, rng.randrange(len(old) + 1)])
    path.write_bytes(data if at == 0 else old[:at] + data + old[at + 64 :])
    return f"{what} in {path.relative_to(place)} at {at}", names


def in_rows(rng: random.Random, place: Path) -> Damage:
    """A field of a row that no run writes."""
    path = place / rng.choice(["run/metrics.csv", "run/diagnostics.csv", "table.csv"])
    rows = list(csv.reader(io.StringIO(path.read_text(), newline="")))
    row, column = rng.randrange(1, len(rows)), rng.randrange(6)
    value = rng.choice(
        [*NAMES, *map(str, NUMBERS), "1e999", "-inf", "nan", "0x10", "1_0", " 1", "٣", "9" * 5_000, "1,2"]
    )
    rows[row][column] = value
    if rng.random() < 0.2:
        rows.append(rows[row])
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    data = text.getvalue().encode(errors="surrogatepass")
    path.write_bytes(data)
    if path.name == "metrics.csv":
        with contextlib.suppress(Exception):
            mark = [*metrics_csv.mark(path)]
            for file in (place / "run/seed-0/checkpoints").glob("*.safetensors"):
                reseal(file, "checkpoint", lambda values, arrays: values["meta"].update(metrics=mark))
    return f"{path.name} row {row} column {column}: {value[:40]!r}", [
        "collect-more"
    ] if path.name == "table.csv" else RUN


FILES = [b"\x1b[2J", b"\xff\xfe", "\u202e".encode(), b"a\nb", b"-rf", b"--frames", b"[red]", b"x" * 250, b"%n", b"*"]
FILES += [
    b"seed-",
    b"seed--1",
    b"seed-" + b"9" * 20,
    b".tmp-x",
    b"film_strip\x1b[31m.png",
    b"seed-0",
    "\u0663".encode(),
]


def odd_names(rng: random.Random, place: Path) -> Damage:
    """Files and folders of names that nobody gives, in the run or above it."""
    name = os.fsdecode(rng.choice(FILES))
    where = rng.choice([place, place / "run", place / "run/seed-0", place / "run/seed-0/checkpoints", place / "study"])
    if where == place:
        (place / "run").rename(place / name)
        (place / RENAMED).write_bytes(os.fsencode(name))
        return f"the run is called {name!r}", RUN
    other = where / name
    with contextlib.suppress(OSError):
        if rng.random() < 0.5:
            shutil.copytree(place / "run/seed-0/snapshots", other)
        else:
            shutil.copy(place / "run/metrics.csv", other)
        if rng.random() < 0.3:
            deep = other
            for _ in range(rng.choice([20, 300])):
                deep /= "d"
                deep.mkdir(parents=True)
    return f"{name!r} in {where.relative_to(place)}", STUDY if where.name == "study" else RUN


def in_study(rng: random.Random, place: Path) -> Damage:
    """Anything in a study's plan or file."""
    path = place / "study/study.json"
    if rng.random() < 0.5:
        content = json.loads(path.read_bytes())
        told = put_lie(rng, content)
        path.write_text(json.dumps(content))
        return f"plan: {told}", STUDY
    path = place / "study.toml"
    lines = path.read_text().splitlines()
    values = [json.dumps(any_lie(rng), default=str), "nan", "inf", "1979-05-27", "0xff", "'''\n'''", "{a.b.c = 1}"]
    value, key = (
        rng.choice(values),
        rng.choice([*OPTIONS, "env", "recipe", "seeds", "out", "name", "seeds-together", "order"]),
    )
    lines.insert(rng.randrange(len(lines) + 1), f"{key} = {value}")
    path.write_text("\n".join(lines), errors="surrogatepass")
    return f"study file: {key} = {value[:40]!r}", ["plan"]


def in_policy(rng: random.Random, place: Path) -> Damage:
    """Anything in an exported policy, sealed where it is."""
    from steadyq.deploy import policy as form

    path = place / "policy.npz"
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    content = json.loads(arrays.pop(form.KEY).tobytes())
    if rng.random() < 0.6:
        told = put_lie(rng, content)
    else:
        name = rng.choice([*arrays])
        shape = rng.choice([(), (0,), (1, 1), (7, 7, 7), (1_000_000,)])
        arrays[name] = np.zeros(shape, rng.choice([np.float32, np.float64, np.uint8]))
        told = f"{name} of shape {shape}"
    arrays[form.KEY] = np.frombuffer(json.dumps(content).encode(errors="surrogatepass"), np.uint8)
    rng.choice([np.savez, np.savez_compressed])(path, **arrays)
    return f"policy: {told}", ["policy.npz"]


LIES = [in_record, in_checkpoint, in_tensors, no_file, other_bytes, in_rows, odd_names, in_study, in_policy]


def lie(trial: int, rng: random.Random, place: Path) -> Damage:
    """Lie once: how, and the commands to try; those for runs end with `resume`."""
    told, names = LIES[trial % len(LIES)](rng, place)
    chosen = rng.sample(names, min(4, len(names)))
    if names[0] == RUN[0]:
        chosen += ["figures"] * (rng.random() < 0.1) + ["resume"]
    return told, chosen


# A campaign


class Arena:
    """A folder for one damage at a time: a copy of the subject, what must not change, and traps to import."""

    def __init__(self, out: Path, *, minutes: float) -> None:
        self.minutes = minutes  # of training, after which a command stops
        self.subject, self.folder = out / "subject", out / "arena"
        self.place, self.out, self.here = (self.folder / name for name in ("place", "out", "here"))
        if not self.subject.is_dir():
            make_subject(self.subject)

    def lay(self) -> None:
        """Everything anew."""
        if self.folder.exists():
            shutil.rmtree(self.folder)
        shutil.copytree(self.subject, self.place)
        self.here.mkdir()
        (self.folder / "precious").write_text("words")
        for name in ("evil", "os:evil", "jax", "nobody", "a", "x", "Y"):
            (self.here / f"{name}.py").write_text(TRAP.format(str(self.folder / "sprung")))
        os.chdir(self.here)

    def ask(self, name: str) -> Told:
        """One command on what is there, with an empty folder for what it writes."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        return call(commands(self.run, self.place, self.out, minutes=self.minutes)[name])

    @property
    def run(self) -> Path:
        """The run, whatever it is called by now."""
        renamed = self.place / RENAMED
        return self.place / (os.fsdecode(renamed.read_bytes()) if renamed.is_file() else "run")

    def outside(self) -> dict[str, bytes]:
        """What no command may change."""
        there = [path for path in self.folder.iterdir() if path not in (self.place, self.out)]
        return {str(path): path.read_bytes() for path in (*there, *self.here.rglob("*")) if path.is_file()}


def baseline(arena: Arena) -> dict[str, Any]:
    """What each command gives on whole files, asked twice: only what repeats itself can be compared."""
    names = sorted({name for _, names in KINDS.values() for name in names.split()})
    found: list[dict[str, Any]] = [{}, {}]
    for results in found:
        for name in names:
            arena.lay()
            answer = arena.ask(name)
            if answer.code != 0:
                raise RuntimeError(f"{name}: {answer}")
            results[name] = result(name, answer, arena.run, arena.out)
    if odd := [name for name in names if found[0][name] != found[1][name]]:
        raise RuntimeError(f"these do not repeat themselves: {odd}")
    return found[0]


def main() -> int:
    """A campaign, or a part of one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trick", choices=("flips", "lies"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=500, help="so many damages [500]")
    parser.add_argument("--minutes", type=float, default=math.inf, help="at most so long [no limit]")
    parser.add_argument("--first", type=int, default=0, help="number of the first damage [0]")
    parser.add_argument("--seed", type=int, default=0, help="of all of them [0]")
    values = parser.parse_args()
    torch.set_num_threads(1)
    sys.path[:] = [path for path in sys.path if path]
    out = values.out.resolve()
    arena = Arena(out, minutes=1 if values.trick == "flips" else 0.06)
    limit = psutil.Process().memory_info().vms + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    usual = baseline(arena) if values.trick == "flips" else {}
    trick = flip if values.trick == "flips" else lie
    count, slowest, bad = Counter[str](), 0.0, 0
    end, commit = time.monotonic() + 60 * values.minutes, machine.commit()
    table = out / f"{values.trick}.csv"
    header = not table.exists()
    with table.open("a", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        if header:
            rows.writerow(["seed", "number", "damage", "command", "code", "seconds", "finding", "commit"])
        for trial in range(values.first, values.first + values.count):
            if time.monotonic() > end:
                break
            arena.lay()
            told, names = trick(trial, random.Random(f"{values.trick} {values.seed} {trial}"), arena.place)
            told, before = told.encode(errors="backslashreplace").decode(), arena.outside()
            count["damages"] += bool(names)
            for name in names:
                answer = arena.ask(name)
                findings, verdict = judge(answer), VERDICTS.get(answer.code, "no answer")
                if answer.code == 0 and name in usual and not told.startswith(UNSEALED):
                    same = result(name, answer, arena.run, arena.out) == usual[name]
                    verdict = "the same" if same else "another result, and said so"
                    if not same and not any(word in answer.out + answer.err for word in SAID):
                        findings.append("another result, and not a word about it")
                if arena.outside() != before:
                    findings.append("something outside has changed")
                    before = arena.outside()
                count[verdict] += 1
                slowest = max(slowest, answer.seconds)
                seconds = f"{answer.seconds:.2f}"
                rows.writerow([values.seed, trial, told, name, answer.code, seconds, "; ".join(findings), commit])
                if findings:
                    bad += 1
                    print(f"{trial}: {told!r}, {name}: {'; '.join(findings)}", flush=True)
                    (out / f"finding-{trial}-{name}.txt").write_text(f"{answer.out}\n{answer.err}", errors="replace")
            file.flush()
    print(
        f"{', '.join(f'{number:,} {word}' for word, number in count.items())}; {slowest:.1f} s at most; {bad} findings"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
