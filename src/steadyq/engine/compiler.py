"""Whether this machine has a C++ compiler that PyTorch can compile with on a CPU, found out by trying it.

A compiler on the path is not enough: the usual gap is one without Python's headers, which fails minutes into a run,
deep inside PyTorch. So a file of a few lines is compiled the way PyTorch compiles its kernels: C++20, OpenMP,
`Python.h`, a shared library.
"""

import functools
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from steadyq.errors import InputError, unknown

Compile = Literal["auto", "on", "off"]

PROGRAM = """
#include <Python.h>
#include <cmath>
#include <omp.h>
extern "C" double answer(double x) { return std::sqrt(x) * PY_MAJOR_VERSION * omp_get_max_threads(); }
"""
# PyTorch finds OpenMP on macOS in half a dozen places of its own; there the trial leaves it out.
PROGRAM_WITHOUT_OPENMP = """
#include <Python.h>
#include <cmath>
extern "C" double answer(double x) { return std::sqrt(x) * PY_MAJOR_VERSION; }
"""


class Compiler(NamedTuple):
    """What a trial compile showed.

    ok: the compiler works.
    reason: its version if it works, else what is missing, in words that fit after a colon.
    fix: what to do about it; empty if it works.
    """

    ok: bool
    reason: str
    fix: str = ""


@functools.cache
def works() -> Compiler:
    """Is there a working C++ compiler for PyTorch? Tried once per process; takes about a third of a second."""
    return try_compiler(chosen())


def chosen() -> str:
    """The compiler PyTorch would run: the variable CXX, else the system's usual one."""
    return os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")


def choose(compile: str, *, device: str) -> bool:
    """Whether steps are compiled: `on`, `off`, or `auto`, where that works.

    Raises:
        InputError: `on`, and it does not work.
    """
    if compile not in get_args(Compile):
        raise unknown("value of compile", str(compile), get_args(Compile))
    if compile == "off" or device != "cpu":
        return compile != "off"  # on a GPU, PyTorch brings the compiler
    trial = works()
    if compile == "on" and not trial.ok:
        raise InputError(f"--compile is on and there is no working C++ compiler: {trial.reason}; {trial.fix}")
    if not trial.ok:
        print(f"not compiling, which is slower: {trial.reason}; {trial.fix}")
    return trial.ok


def try_compiler(command: str, *, timeout: float = 60.0) -> Compiler:
    """Compile a tiny extension with `command`, which is one program: PyTorch takes no arguments in CXX either.

    Args:
        command: name or path of the compiler.
        timeout: seconds after which a hanging compiler counts as broken.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "trial.cpp"), Path(folder, "trial.so")
        mac = sys.platform == "darwin"
        source.write_text(PROGRAM_WITHOUT_OPENMP if mac else PROGRAM)
        flags = ["-undefined", "dynamic_lookup"] if mac else ["-fopenmp"]
        include = f"-I{sysconfig.get_path('include')}"
        try:
            trial = _run(
                command, "-std=c++20", "-shared", "-fPIC", *flags, include, source, "-o", library, timeout=timeout
            )
            version = _run(command, "--version", timeout=timeout)
        except FileNotFoundError:
            return Compiler(False, f"there is no program {command!r}", _fix_compiler())
        except (OSError, subprocess.TimeoutExpired) as error:
            return Compiler(False, f"{command!r} does not run: {error}", _fix_compiler())
        if trial.returncode == 0 and version.returncode == 0 and library.exists():
            return Compiler(True, next(iter(version.stdout.splitlines()), command))
        return _diagnosis(command, trial)


def _run(command: str, *arguments: str | Path, timeout: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [command, *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        timeout=timeout,
        env={**os.environ, "LC_ALL": "C"},  # its messages are read below
    )


def _diagnosis(command: str, trial: subprocess.CompletedProcess[str]) -> Compiler:
    """Why a trial that ran did not give a library."""
    lines = trial.stderr.splitlines()
    error = next((line for line in lines if "error" in line), lines[-1] if lines else "")
    if "Python.h" in error:
        package = f"python{sys.version_info.major}.{sys.version_info.minor}-dev"
        return Compiler(
            False,
            f"{command!r} works, but Python's headers (Python.h) are not in {sysconfig.get_path('include')}",
            f"on Debian and Ubuntu `apt-get install {package}`, else a Python that comes with its headers",
        )
    if "omp" in error:
        return Compiler(
            False,
            f"{command!r} works, but without OpenMP ({error.strip()})",
            "on Debian and Ubuntu `apt-get install g++`, or `apt-get install libomp-dev` for clang++",
        )
    why = error.strip() or f"exit code {trial.returncode} and no library written"
    return Compiler(False, f"{command!r} cannot compile: {why}", _fix_compiler())


def _fix_compiler() -> str:
    if sys.platform == "darwin":
        return "`xcode-select --install`, or set CXX to a C++20 compiler that works"
    return "on Debian and Ubuntu `apt-get install g++ python3-dev`, or set CXX to a C++20 compiler that works"
