"""Tables of the authors' own code next to ours: from results/authors.csv, default.csv and fifteen.csv, by tables.py.

`authors-utdN` is danielpalenicek/xqc at 9a6832b with its crossq_wn.yaml, by its own loop, in float32. What is no return
is the last update's value there, and the mean of the last 5,000 frames' updates here.
"""

from experiments.choice import PLAIN, QUIRKS
from experiments.names import FULL, named
from experiments.printing import print_head, print_row
from steadyq.results.runs import Run, Study
from steadyq.store.names import ALPHA, CRITIC_NORM, ENTROPY, Q

TASKS, FRAMES = ("walker-run", "dog-stand"), (20_000, 30_000, 40_000, 50_000)
BOTH = f"-decay_norms=True{FULL}-project_readout=True"
WHOLE = f"-actor_moments=critic{BOTH}"
"""Their code in full, in their precision; and without what was found last."""

SHOWN = {  # what, in which metric, and how it is written
    "Return": ("", ".0f"),
    "Mean Q": (Q, ".0f"),
    "Alpha": (ALPHA, ".4f"),
    "Entropy": (ENTROPY, ".0f"),
    "Weight norm of the critic": (CRITIC_NORM, ".1f"),
}


def print_all(study: Study) -> None:
    """A table for each task and UTD that the authors' code was run with."""
    for utd in (2, 10):
        methods = {
            "theirs": f"authors-utd{utd}",
            "ours, in full": named(utd, WHOLE),
            "ours, both, float32": named(utd, BOTH),
            "ours, float32": named(utd, FULL),
        } | {"ours" if words == PLAIN else f"ours, {words}": named(utd, options) for words, options in QUIRKS.items()}
        for task in TASKS:
            if not any(run.task == task and run.method == methods["theirs"] for run in study.runs):
                continue
            print(f"\n**{task}, UTD {utd}**, by seed:")
            print_head("", "whose", *(f"{frame:,}" for frame in FRAMES))
            for title, (metric, form) in SHOWN.items():
                for words, method in methods.items():
                    if metric and words not in ("theirs", "ours, in full", "ours"):
                        continue
                    runs = study.more.get(metric, []) if metric else study.runs
                    own = [run for run in runs if (run.task, run.method) == (task, method)]
                    if own:
                        own.sort(key=lambda run: run.seed)
                        print_row(title, words, *(at(own, frame, form) for frame in FRAMES))


def at(runs: list[Run], frame: int, form: str) -> str:
    """Each run's value at a frame where it has one."""
    return ", ".join(format(float(run.value[run.env_step == frame][0]), form) for run in runs if frame in run.env_step)
