"""Run the same command twice and compare what comes out.

    python -m tools.twice --out FOLDER [-- train ARGUMENTS ...]

By default `crossq_wn` on dog-run with 10,000 learning steps at UTD 1, compiled, with an evaluation at the start, in the
middle and at the end. Both runs and FOLDER/results.json stay; a run that is there whole is not done again. Exit code 1
if they differ.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from steadyq.engine import machine
from steadyq.store import checkpoint
from steadyq.store.folder import seed_folder
from steadyq.store.record import read_record
from tools.process import run_to_end
from tools.same_state import differences, read_state, whole

WARM_UP, LEARNING = 1_000, 10_000  # agent steps of two frames
FRAMES = 2 * (WARM_UP + LEARNING)
DEFAULT = [
    *("train", "crossq_wn", "--env", "dog-run", "--utd", "1", "--learning-starts", str(WARM_UP), "--threads", "1"),
    *("--frames", str(FRAMES), "--eval-every", str(FRAMES // 2), "--eval-episodes", "1", "--log-every", "1000"),
]


def finished(run: Path) -> bool:
    """Whether a run is there and came to its end."""
    if not (run / "run.json").exists():
        return False
    settings = read_record(run).settings
    return all(settings.frames in checkpoint.frames(seed_folder(run, seed)) for seed in settings.seeds)


def main() -> int:
    """Run twice, compare, write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("command", nargs="*", default=DEFAULT, help="what follows `steadyq`, without --out")
    values = parser.parse_args()
    values.out.mkdir(parents=True, exist_ok=True)
    runs = [values.out / "once", values.out / "again"]
    for run in runs:
        if not finished(run):
            shutil.rmtree(run, ignore_errors=True)
            process = run_to_end([*values.command, "--out", str(run)], log=run.with_suffix(".log"))
            print(f"{run}: {process.seconds:.0f} s", flush=True)
    found = differences(*runs)
    states = {
        f"{run.name}, seed {seed}, frame {frame}": whole(read_state(run, seed, frame))
        for run in runs
        for seed in read_record(run).settings.seeds
        for frame in checkpoint.frames(seed_folder(run, seed))[-1:]
    }
    result = {
        "command": " ".join(values.command),
        "states": states,
        "differences": found,
        "commit": machine.commit(),
        "versions": machine.versions(),
        "machine": machine.facts(),
    }
    (values.out / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    print("\n".join([*(f"{sha256}  {name}" for name, sha256 in states.items()), *(found or ["the same run"])]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
