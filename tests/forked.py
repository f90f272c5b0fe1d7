"""`python forked.py study run ...`: the command, whose workers are forks of it and so need not import PyTorch."""

import sys
from pathlib import Path
from typing import Any

from steadyq.cli.main import process
from steadyq.study import local, plan, tries, worker
from steadyq.study.plan import Planned
from tools.process import Fork, forked


def begin(study: Path, run: Planned, **_: Any) -> Fork:
    """As `worker.begin`."""
    log = tries.place(study, run) / worker.LOG
    with log.open("a") as file:
        file.write("$ a fork\n")
    made = Fork(target=forked, args=(plan.command(run, study), log, log.with_name("stacks.txt")))
    made.start()
    return made


if __name__ == "__main__":
    worker.begin = begin
    local.NICE = 0  # they would wait for whoever else works here
    sys.argv[0] = "steadyq"
    process()
