"""A study as one array job of Slurm: each element is `steadyq study run` with one worker, until its time is up.

Elements know nothing of each other. As between any two commands on one study, locks keep a run to one of them.
"""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from steadyq.errors import InputError
from steadyq.store import disk
from steadyq.study import tries
from steadyq.study.plan import Planned

FILE = "slurm.sh"
"""The job script, in the study's folder."""

MOST_ELEMENTS = 1_000  # of an array job, unless a cluster's MaxArraySize says otherwise
DRIVER = 500_000_000  # bytes of an element without its worker: it has imported PyTorch
MARGIN = 5  # minutes of the job behind those of its runs, to start and to save
WARNING = 120  # seconds before the job's end, when Slurm sends SIGUSR1 to an element that is still at work

SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=1-{workers}
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={threads}
#SBATCH --mem={megabytes}M
#SBATCH --time={time}
#SBATCH --signal=B:USR1@{warning}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={log}

cd {folder} || exit 2
{command} &
again=yes
trap 'kill -USR1 $!' USR1
trap 'again=; kill -USR1 $!' TERM  # it was cancelled, or preempted, and then Slurm requeues it
wait $!
code=$?
while kill -0 $! 2>/dev/null; do  # a signal ended the wait
    wait $!
    code=$?
done
if [ $code = 75 ] && [ $again ]; then  # more to do
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
fi
exit $code
"""


def script(
    file: Path, study: Path, runs: Sequence[Planned], *, workers: int | None, threads: int, minutes: float
) -> str:
    """The job script that makes a study.

    Args:
        file: the study file.
        study: the study's folder.
        runs: what is to be made; of them the job's size follows.
        workers: elements of the array; None for one per run.
        threads: of each run that the file gives none.
        minutes: that an element has for its runs before it saves and is requeued.
    """
    words = ["study", "run", str(file.resolve()), f"--out={study.resolve()}", "--workers=1", f"--threads={threads}"]
    log = str(study.resolve() / tries.WORKERS / "slurm-").replace("%", "%%") + "%A_%a.txt"
    return SCRIPT.format(
        name=shlex.quote(study.resolve().name),
        workers=min(workers or len(runs), MOST_ELEMENTS),
        threads=max(int(run.choices.get("threads", threads)) for run in runs),
        megabytes=(max(run.memory for run in runs) + DRIVER) // 10**6,
        time=int(minutes) + MARGIN,
        warning=WARNING,
        log=shlex.quote(log),
        folder=shlex.quote(str(Path.cwd())),
        command=shlex.join([sys.executable, "-m", "steadyq", *words, f"--max-minutes={minutes:g}", "--no-wait"]),
    )


def submit(study: Path, text: str, options: Sequence[str]) -> str:
    """Write a job script into the study's folder and submit it; what `sbatch` answered.

    Raises:
        InputError: there is no `sbatch` here, or it refused.
    """
    path = study.resolve() / FILE
    (path.parent / tries.WORKERS).mkdir(parents=True, exist_ok=True)  # Slurm makes no folders for its logs
    disk.write(path, text.encode(), shared=True)
    try:
        answer = subprocess.run(["sbatch", *options, str(path)], capture_output=True, text=True)
    except FileNotFoundError:
        raise InputError(
            f"there is no sbatch here; submit {path} on a machine of the cluster, or give `steadyq study run`"
        ) from None
    if answer.returncode:
        raise InputError(f"sbatch refused {path} ({' '.join(answer.stderr.split())}); give it options after `--`")
    return answer.stdout.strip()
