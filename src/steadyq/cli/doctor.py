"""`steadyq doctor`: what this machine has, what each missing thing costs, and how to get it.

Everything is tried rather than looked up where that takes seconds: a file is compiled, a simulation takes a step, an
image is drawn. Modules that may be broken are imported inside the check that is about them.
"""

import os
import platform
from collections.abc import Callable
from typing import Literal, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from steadyq.cli.parser import DONE, FAILED, Parser, parse
from steadyq.engine import compiler, machine

GB = 1e9
COLOURS = {"ok": "green", "missing": "yellow", "broken": "red"}


class Finding(NamedTuple):
    """One line of the report.

    state: `ok`; `missing`: training works without it; `broken`: training does not.
    found: what there is.
    cost: what the lack of it costs; empty if ok.
    fix: how to get it; empty if ok.
    """

    subject: str
    state: Literal["ok", "missing", "broken"]
    found: str
    cost: str = ""
    fix: str = ""


def doctor(parser: Parser, arguments: list[str]) -> int:
    """`steadyq doctor`, which fails if something that training needs is broken."""
    parse(parser, arguments)
    findings = report()
    show(findings, Console(highlight=False))
    return FAILED if any(finding.state == "broken" for finding in findings) else DONE


def report() -> list[Finding]:
    """Look at everything; takes a few seconds, most of them PyTorch's import."""
    findings = [_python(), _packages(), torch := _torch(), _simulation(), _compiler(), _cores(), _opengl()]
    if torch.state == "ok":
        findings += [_cpu(), _memory(), _gpu()]
    return findings


def show(findings: list[Finding], console: Console) -> None:
    """Print findings as a table, each lack with its cost and its cure, and one closing sentence."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        colour = COLOURS[finding.state]
        table.add_row(escape(finding.subject), f"[{colour}]{finding.state}[/]", escape(finding.found))
        for label, text in (("costs", finding.cost), ("to get it", finding.fix)):
            if text:
                table.add_row("", "", f"[{colour}]{label}:[/] {escape(text)}")
    console.print(table)
    if broken := [finding.subject for finding in findings if finding.state == "broken"]:
        console.print(f"\nTraining cannot work yet: {escape(', '.join(broken))}.")
    else:
        console.print("\nEverything that training needs works.")


def _try(subject: str, check: Callable[[], str], *, fix: str) -> Finding:
    """A thing that training needs: what `check` found, or the error it met."""
    try:
        return Finding(subject, "ok", check())
    except Exception as error:  # whatever is wrong with the installation, it is the finding
        first = next(iter(str(error).splitlines()), "")
        return Finding(subject, "broken", f"{type(error).__name__}: {first}", "nothing can be trained", fix)


def _python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}")


def _packages() -> Finding:
    found = machine.versions()
    if commit := machine.commit():
        found["steadyq"] += f" ({commit[:10]}{'-dirty' if commit.endswith('-dirty') else ''})"
    text = ", ".join(f"{name} {version}" for name, version in found.items())
    if absent := [name for name in machine.PACKAGES if name not in found]:
        text = f"not installed: {', '.join(absent)}; installed: {text}"
        return Finding("packages", "broken", text, "nothing can be trained", f"`pip install {' '.join(absent)}`")
    return Finding("packages", "ok", text)


def _torch() -> Finding:
    def check() -> str:
        import torch

        torch.eye(2) @ torch.eye(2)
        return f"{f'CUDA {torch.version.cuda}' if torch.version.cuda else 'CPU'} build, multiplies matrices"

    return _try("PyTorch", check, fix="install it as its own page explains: https://pytorch.org/get-started/locally")


def _simulation() -> Finding:
    def check() -> str:
        import numpy as np

        from steadyq.envs import suites

        env = suites.make("cartpole-swingup")
        env.reset(0)
        env.step(np.zeros(1, np.float32))
        env.close()
        return "cartpole-swingup takes a step"

    return _try("dm_control", check, fix="the tested versions: `pip install -c constraints.txt dm-control mujoco`")


def _compiler() -> Finding:
    found = compiler.works()
    if found.ok:
        return Finding("C++ compiler", "ok", found.reason)
    cost = "updates run eagerly, which took 2.5 times as long on two cores"
    return Finding("C++ compiler", "missing", found.reason, cost, found.fix)


def _memory() -> Finding:
    from steadyq.store.replay import Replay

    total, available = machine.memory()
    million = Replay.bytes_needed(capacity=1_000_000, obs_dim=223, action_dim=38)
    room = 1_000_000 * available // million
    found = f"{available / GB:.1f} of {total / GB:.1f} GB free: a replay of {room:,} dog-run transitions"
    if room >= 1_000_000:
        return Finding("memory", "ok", found)
    return Finding(
        "memory",
        "missing",
        found,
        "runs keep up to a million transitions per seed; a replay that does not fit is refused before the run starts",
        "close other programs, or choose a smaller `--buffer-size`",
    )


def _opengl() -> Finding:
    from steadyq.envs import mujoco_view

    backend = mujoco_view.backend()
    if backend != "software":
        return Finding("OpenGL", "ok", f"draws with {backend}")
    wish = os.environ.get("MUJOCO_GL")
    return Finding(
        "OpenGL",
        "missing",
        f"none works{f' with MUJOCO_GL={wish}' if wish else ''}; films are drawn by casting rays",
        "films and videos take longer, and bodies have no textures; training is not affected",
        f"{'unset MUJOCO_GL; ' if wish else ''}on Debian and Ubuntu `apt-get install libegl1 libgl1-mesa-dri`",
    )


def _cores() -> Finding:
    found = f"{machine.usable_cores()} usable of {os.cpu_count()} cores; updates take as many threads as are usable"
    return Finding("cores", "ok", found)


def _cpu() -> Finding:
    features = machine.cpu_features()
    found = f"{machine.cpu()} ({', '.join(features) or 'no vector instructions known here'})"
    if machine.bfloat16_is_fast():
        return Finding("CPU", "ok", found)
    cost = "`--precision bfloat16` is no faster than float32, and without a C++ compiler some 20 times slower"
    return Finding("CPU", "missing", found, cost, "only another processor: one with AMX or AVX512_BF16")


def _gpu() -> Finding:
    import torch

    if names := machine.gpus():
        return Finding("GPU", "ok", f"{', '.join(names)}; steadyq has not been tested on one yet: `--device cpu` is")
    found = "PyTorch sees none" if torch.version.cuda else "this PyTorch is a CPU build"
    cost = "networks are trained on the CPU, which suits the sizes of most recipes"
    fix = "an NVIDIA GPU, its driver and PyTorch's CUDA build; steadyq has not been tested on one yet"
    return Finding("GPU", "missing", found, cost, fix)
