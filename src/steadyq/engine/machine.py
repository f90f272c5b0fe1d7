"""Facts about this machine and this installation: what a run writes down about where it ran, and what `doctor` shows.

A run's last bits depend on them (processor, versions, threads), and so does every speed that anyone reports.
PyTorch is imported only by the functions that ask it.
"""

import ctypes
import importlib.metadata
import math
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import psutil

from steadyq.errors import InputError, unknown

if TYPE_CHECKING:
    from steadyq.algorithm.agent import Recipe

Device = Literal["auto", "cpu", "cuda"]

PACKAGES = ("steadyq", "torch", "numpy", "mujoco", "dm-control", "gymnasium")

FEATURES = {
    "avx2": "AVX2",
    "avx512_f": "AVX-512",
    "avx512_bf16": "AVX512_BF16",
    "amx_bf16": "AMX-BF16",
    "neon": "NEON",
    "bf16": "BF16",
    "sve": "SVE",
}
"""The CPU's instruction sets that matter to matrix products: PyTorch's names and the usual ones."""

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


class Memory(NamedTuple):
    """Main memory in bytes, within the limits of a container or a cluster job."""

    total: int
    available: int


def facts() -> dict[str, Any]:
    """This machine in plain JSON values, for a run's record."""
    import torch

    return {
        "os": platform.platform(),
        "python": platform.python_version(),
        "cpu": cpu(),
        "cpu_features": cpu_features(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),  # ATEN_CPU_CAPABILITY lowers it
        "physical_cores": psutil.cpu_count(logical=False),  # None where the system does not tell
        "usable_cores": usable_cores(),
        "memory_bytes": memory().total,
        "gpus": gpus(),
    }


def versions() -> dict[str, str]:
    """Installed versions by package name; a package that is not installed is left out."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The git commit of the steadyq that runs, ending in `-dirty` if its source differs; None outside its repository.

    An installed copy inside somebody else's repository (a `.venv` there) is not tracked by it and gives None as well.
    """
    package = Path(__file__).resolve().parents[1]
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    head, changes = _git(package, "rev-parse", "HEAD"), _git(package, "status", "--porcelain", "--", ".")
    return head + ("-dirty" if changes else "") if head else None


def _git(folder: Path, *arguments: str) -> str | None:
    """What git answers about `folder`; None if there is no git or it refuses."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def cpu() -> str:
    """The processor's model name."""
    import torch

    return torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine()


def cpu_features() -> list[str]:
    """The processor's instruction sets for matrix products, by their usual names."""
    import torch

    has = torch.cpu.get_capabilities()
    return [name for key, name in FEATURES.items() if has.get(key)]


def bfloat16_is_fast() -> bool:
    """Does this CPU multiply bfloat16 matrices in hardware: AMX (Intel since 2023) or AVX512_BF16 (AMD since Zen 4)?

    Without either, compiled steps multiply rounded numbers in float32 (`engine/widened.py`): bfloat16 then costs
    accuracy and gains nothing. Steps that are not compiled take PyTorch's own products, some twenty times slower.
    """
    return not {"AMX-BF16", "AVX512_BF16"}.isdisjoint(cpu_features())


def choose_device(device: str) -> str:
    """`cpu` or `cuda`; `auto` takes a GPU if there is one. InputError if there is none and one is asked for."""
    import torch

    if device not in get_args(Device):
        raise unknown("device", str(device), get_args(Device))
    if device == "cpu" or torch.cuda.is_available():
        return "cpu" if device == "cpu" else "cuda"
    if device == "cuda":
        raise InputError("--device is cuda and PyTorch sees no GPU here; give cpu, or install a CUDA build of PyTorch")
    return "cpu"


def products() -> Literal["mkl", "onednn"]:
    """The library that multiplies float32 matrices faster on this CPU.

    MKL leaves its AVX-512 kernels unused on processors that are not Intel's.
    """
    import torch

    mkl_is_slow = "AVX-512" in cpu_features() and "Intel" not in cpu()
    return "onednn" if mkl_is_slow and torch.backends.mkldnn.is_available() else "mkl"


def keep_freed_memory() -> None:
    """Have glibc keep what is freed for the next allocation; elsewhere nothing is done.

    An update frees and allocates the same tens of megabytes each time. Given back to the system in between, as glibc
    does by default, they cost a page fault per 4 kB: 4,500 in an update of `crossq` at dog-run sizes.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_TRIM_THRESHOLD, 2**30)
        libc.mallopt(M_MMAP_MAX, 0)  # M_MMAP_THRESHOLD takes 32 MiB at most, and a gradient 2048 wide is larger


def gpus() -> list[str]:
    """Names of the CUDA devices that PyTorch sees."""
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def usable_cores() -> int:
    """Cores this process may keep busy: its CPU affinity, within the quota of a container or a cluster job."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    for group in control_groups():
        quota, period = _words(group / "cpu.max") or ("max", "1")  # microseconds of processor time per period
        if quota != "max":
            cores = min(cores, max(1, math.ceil(int(quota) / int(period))))
    return cores


def memory() -> Memory:
    """Memory of this machine or of the container or cluster job we run in, whichever is less."""
    machine = psutil.virtual_memory()
    total, available = machine.total, machine.available
    for group in control_groups():
        limit = (_words(group / "memory.max") or ["max"])[0]
        if limit != "max":
            stat = _words(group / "memory.stat")
            cache = dict(zip(stat[::2], stat[1::2], strict=True)).get("inactive_file", "0")  # given back when short
            used = int((_words(group / "memory.current") or ["0"])[0]) - int(cache)
            total, available = min(total, int(limit)), min(available, max(0, int(limit) - used))
    return Memory(total, available)


def check_networks(recipe: "Recipe", *, obs_dim: int, action_dim: int, seeds: int = 1) -> None:
    """InputError if there is no memory for networks, their targets and two moments of each; none is made for that."""
    from steadyq.algorithm.actor_critic import size

    try:
        needed = seeds * 4 * 4 * float(size(recipe, obs_dim=obs_dim, action_dim=action_dim))
    except RuntimeError:  # so many numbers that torch cannot count the bytes
        needed = math.inf
    if needed > (available := memory().available):
        much = f"{needed / 1e9:.3g} GB of memory" if needed < math.inf else "more memory than can be counted"
        raise InputError(
            f"the networks need {much} and {available / 1e9:.2f} GB are available; give a "
            f"smaller --width, or fewer seeds"
        )


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(psutil.Process().memory_info().rss)


def control_groups(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> list[Path]:
    """The folders of this process's Linux control group (version 2) and of those around it; each may set limits."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []  # not Linux
    own = [Path(line.removeprefix("0::/")) for line in lines if line.startswith("0::/")]
    return [root / group for path in own for group in (path, *path.parents)]


def _words(path: Path) -> list[str]:
    """The words of a small system file; none if it is not there."""
    try:
        return path.read_text().split()
    except OSError:
        return []
