"""Under which conditions a stretch of a run is trained: machine, versions, precision. Its bits depend on them."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from steadyq.engine import compiler, machine
from steadyq.errors import InputError
from steadyq.output import plural
from steadyq.settings import Settings, resumable

MACHINE = {key: "compiled" if key == "compile" else key for key in resumable("inexactly")}
"""Settings of the machine, and what each decides in a stretch of a run."""


def choose_machine(settings: Settings) -> dict[str, Any]:
    """What `auto` means here: precision, compilation, device and threads of this run."""
    check_threads(settings.threads)
    device = machine.choose_device(settings.device)
    return {
        "precision": "float32" if settings.precision == "auto" else settings.precision,
        "compiled": compiler.choose(settings.compile, device=device),
        "device": device,
        "threads": settings.threads or machine.usable_cores(),
        "products": machine.products(),
    }


def check_threads(threads: int | None) -> None:
    """InputError if these are more threads than cores may be used here."""
    if threads and threads > (cores := machine.usable_cores()):
        raise InputError(f"--threads is {threads} and {plural(cores, 'core')} may be used here; give at most that")


def conditions_again(settings: Settings, before: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """How a resumed run is run: as before, but for what was asked to change and what is not to be had here."""
    kept = {key: before[key] for key in (*MACHINE.values(), "products", "reproducible")}
    if changes.keys() & MACHINE.keys():
        fresh = choose_machine(settings)
        kept |= {MACHINE[key]: fresh[MACHINE[key]] for key in changes if key in MACHINE}
    if kept["device"] == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "this run was trained on a GPU and there is none here; resume it where there is, or add --device cpu",
            add="--device cpu",
        )
    if kept["compiled"] and kept["device"] == "cpu" and not (trial := compiler.works()).ok:
        raise InputError(
            f"this run is compiled, which does not work here: {trial.reason}; {trial.fix}, or add --compile off",
            add="--compile off",
        )
    if kept["products"] == "onednn" and not torch.backends.mkldnn.is_available():
        kept["products"] = machine.products()
    return kept


def stretch(frame: int, how: Mapping[str, Any]) -> dict[str, Any]:
    """How the frames from this one on are run, for run.json."""
    return {
        "from_frame": frame,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **how,
        "commit": machine.commit(),
        "versions": machine.versions(),
        "machine": machine.facts(),
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any], *, asked: Iterable[str]) -> tuple[str, str]:
    """What is another than before, of the things that bits depend on: all of it, and the part nobody asked for."""

    def facts(stretch: Mapping[str, Any]) -> dict[str, Any]:
        how = {key: stretch[key] for key in (*MACHINE.values(), "products")}
        cpu = {key: stretch["machine"].get(key) for key in ("cpu", "cpu_capability")}
        return how | cpu | stretch["versions"]

    then, here = facts(before), facts(now)
    wanted = {MACHINE[key] for key in asked if key in MACHINE}
    changed = {key: f"{key} was {then.get(key)} and is {here[key]}" for key in here if then.get(key) != here[key]}
    if before["commit"] != now["commit"]:
        changed["commit"] = f"steadyq's commit was {before['commit']} and is {now['commit']}"
    unasked = [words for key, words in changed.items() if key not in wanted and key != "commit"]
    return ", ".join(changed.values()), ", ".join(unasked)
