"""The trial compile, the facts about a machine, and the report made of them."""

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import torch

from steadyq.cli import doctor
from steadyq.cli.main import main
from steadyq.engine import compiler, machine
from steadyq.envs import mujoco_view
from steadyq.store.replay import Replay

WRITES_A_LIBRARY = 'while [ "$1" != -o ] && [ $# -gt 0 ]; do shift; done; [ -z "$2" ] || : > "$2"; echo "fake++ 1.2"\n'


@pytest.fixture
def fake_compiler(tmp_path: Path):
    """Makes a shell script that stands for a compiler."""

    def make(body: str) -> str:
        path = tmp_path / "fake++"
        path.write_text("#!/bin/sh\n" + body)
        path.chmod(0o755)
        return str(path)

    return make


@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
def test_a_real_compiler_is_tried_and_its_missing_headers_are_noticed(monkeypatch, tmp_path):
    include = sysconfig.get_path("include")
    found = compiler.try_compiler("g++")
    assert found.ok == Path(include, "Python.h").exists()

    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    without = compiler.try_compiler("g++")
    assert not without.ok
    assert f"Python's headers (Python.h) are not in {tmp_path}" in without.reason
    assert f"python3.{sys.version_info.minor}-dev" in without.fix


def test_a_compiler_that_writes_a_library_works(fake_compiler):
    assert compiler.try_compiler(fake_compiler(WRITES_A_LIBRARY)) == compiler.Compiler(True, "fake++ 1.2", "")


@pytest.mark.parametrize(
    ("body", "reason", "fix"),
    [
        ("echo 'trial.cpp:2:10: fatal error: Python.h: No such file or directory' >&2; exit 1", "headers", "-dev"),
        (
            "echo 'trial.cpp:4:10: fatal error: omp.h: No such file or directory' >&2; exit 1",
            "without OpenMP",
            "libomp",
        ),
        ("echo 'cc1plus: error: unrecognized option -std=c++20' >&2; exit 1", "unrecognized option", "g++"),
        ("exit 3", "exit code 3", "g++"),
        ("exit 0", "no library written", "g++"),
        ("exec sleep 600", "timed out", "g++"),
    ],
)
def test_what_is_wrong_with_a_compiler_is_said(fake_compiler, body, reason, fix):
    timeout = 0.01 if "sleep" in body else 60.0
    found = compiler.try_compiler(fake_compiler(body + "\n"), timeout=timeout)
    assert not found.ok
    assert reason in found.reason
    assert fix in found.fix


def test_an_absent_compiler_is_said(tmp_path):
    assert compiler.try_compiler(str(tmp_path / "none")).reason == f"there is no program '{tmp_path / 'none'}'"


def test_the_compiler_of_cxx_is_tried_once(monkeypatch, fake_compiler, tmp_path):
    monkeypatch.setenv("CXX", fake_compiler(f"echo x >> {tmp_path}/calls\n" + WRITES_A_LIBRARY))
    compiler.works.cache_clear()
    try:
        assert compiler.works() == compiler.works() == compiler.Compiler(True, "fake++ 1.2", "")
    finally:
        compiler.works.cache_clear()
    assert (tmp_path / "calls").read_text() == "x\nx\n"  # the trial and the question for the version


def test_facts_are_plain_json():
    facts = machine.facts()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["cpu"]
    assert 1 <= facts["usable_cores"] <= os.cpu_count()
    assert 0 < machine.memory().available <= facts["memory_bytes"]


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs Linux's own list")
def test_cpu_features_are_those_the_system_lists():
    listed = set(Path("/proc/cpuinfo").read_text().split())
    linux = {"AVX2": "avx2", "AVX-512": "avx512f", "AVX512_BF16": "avx512_bf16", "AMX-BF16": "amx_bf16"}
    if platform.machine() == "x86_64":
        assert {key for key, name in machine.FEATURES.items() if name in linux} <= torch.cpu.get_capabilities().keys()
    assert set(machine.cpu_features()) & set(linux) == {name for name, flag in linux.items() if flag in listed}


@pytest.mark.parametrize(
    ("features", "fast"), [(["AVX2", "AVX-512"], False), (["AVX512_BF16"], True), (["AVX2", "AMX-BF16"], True)]
)
def test_bfloat16_is_fast_where_the_hardware_multiplies_it(monkeypatch, features, fast):
    monkeypatch.setattr(machine, "cpu_features", lambda: features)
    assert machine.bfloat16_is_fast() is fast


@pytest.mark.parametrize(
    ("cpu", "features", "onednn", "library"),
    [
        ("AMD EPYC", ["AVX2", "AVX-512"], True, "onednn"),
        ("AMD EPYC", ["AVX2", "AVX-512"], False, "mkl"),
        ("AMD EPYC", ["AVX2"], True, "mkl"),
        ("Intel(R) Xeon(R)", ["AVX2", "AVX-512"], True, "mkl"),
    ],
)
def test_products_are_left_to_mkl_unless_it_is_slow_here(
    monkeypatch: pytest.MonkeyPatch, cpu: str, features: list[str], onednn: bool, library: str
) -> None:
    monkeypatch.setattr(machine, "cpu", lambda: cpu)
    monkeypatch.setattr(machine, "cpu_features", lambda: features)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)
    assert machine.products() == library


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_freed_memory_is_kept_for_the_next_allocation() -> None:
    program = """
import resource
import numpy as np
from steadyq.engine import machine
machine.keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(5_000_000, np.float32)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first, again = faults(), faults()
print(first, again)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    first, again = map(int, done.stdout.split())
    assert first < 2 * 20e6 / resource.getpagesize()  # one allocation's pages, not twenty's
    assert again < 100


def test_versions_leave_out_what_is_not_installed(monkeypatch):
    monkeypatch.setattr(machine, "PACKAGES", ("numpy", "no-such-package-anywhere"))
    assert machine.versions() == {"numpy": np.__version__}


def test_commit_is_that_of_the_source_and_of_no_other_repository(monkeypatch, tmp_path):
    def git(*arguments: str) -> str:
        settings = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false")
        done = subprocess.run(
            ["git", "-C", tmp_path, *settings, *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    package = tmp_path / "src" / "steadyq"
    (package / "engine").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (tmp_path / "README.md").write_text("one")
    monkeypatch.setattr(machine, "__file__", str(package / "engine" / "machine.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert machine.commit() is None  # no repository

    git("init")
    git("add", "README.md")
    git("commit", "-m", "somebody else's")
    assert machine.commit() is None  # a repository that does not track us

    git("add", ".")
    git("commit", "-m", "ours")
    head = git("rev-parse", "HEAD")
    (tmp_path / "README.md").write_text("two")
    assert machine.commit() == head

    (package / "new.py").write_text("")
    assert machine.commit() == head + "-dirty"

    monkeypatch.setenv("PATH", "")
    assert machine.commit() is None  # no git


def control_groups(root: Path) -> list[Path]:
    """A job of 3 cores and 4 GB, with 1 GB of 3 in use reclaimable, inside a service of 2.5 cores."""
    job = root / "service" / "job"
    job.mkdir(parents=True)
    (job / "cpu.max").write_text("300000 100000\n")
    (job.parent / "cpu.max").write_text("250000 100000\n")
    (job / "memory.max").write_text("4000000000\n")
    (job / "memory.current").write_text("3000000000\n")
    (job / "memory.stat").write_text("anon 2000000000\ninactive_file 1000000000\n")
    (job.parent / "memory.max").write_text("max\n")
    membership = root / "membership"
    membership.write_text("4:memory:/other\n0::/service/job\n")
    return machine.control_groups(root, membership)


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
def test_limits_of_a_container_or_cluster_job_count(monkeypatch, tmp_path):
    groups = control_groups(tmp_path)
    assert groups == [tmp_path / "service" / "job", tmp_path / "service", tmp_path]
    monkeypatch.setattr(machine, "control_groups", lambda: groups)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr(
        machine.psutil, "virtual_memory", lambda: machine.Memory(total=64_000_000_000, available=50_000_000_000)
    )
    assert machine.usable_cores() == 3  # 2.5, rounded up
    assert machine.memory() == (4_000_000_000, 2_000_000_000)


def test_no_control_groups_off_linux(tmp_path):
    assert machine.control_groups(tmp_path, tmp_path / "none") == []


@pytest.fixture
def printed(monkeypatch, capsys):
    """Runs `steadyq doctor` on a wide terminal; gives its exit code and its lines."""

    def run() -> tuple[int, list[str]]:
        code = main(["doctor"])
        return code, [line.rstrip() for line in capsys.readouterr().out.splitlines()]

    monkeypatch.setenv("COLUMNS", "400")
    return run


def test_nothing_is_broken_here(printed):
    code, lines = printed()
    assert code == 0
    assert lines[-1] == "Everything that training needs works."
    for subject in ("packages", "PyTorch", "dm_control"):
        assert any(line.split()[:2] == [subject, "ok"] for line in lines)


def test_every_lack_has_its_cost_and_its_cure_and_is_no_failure(monkeypatch, printed):
    monkeypatch.setattr(compiler, "works", lambda: compiler.Compiler(False, "no [compiler]", "install one"))
    monkeypatch.setattr(mujoco_view, "backend", lambda: "software")
    monkeypatch.setattr(machine, "cpu_features", lambda: ["AVX2"])
    monkeypatch.setattr(machine, "gpus", lambda: [])
    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(total=2_000_000_000, available=1_000_000_000))
    findings = {finding.subject: finding for finding in doctor.report()}
    missing = {subject for subject, finding in findings.items() if finding.state == "missing"}
    assert missing == {"C++ compiler", "OpenGL", "CPU", "GPU", "memory"}
    assert all(bool(f.cost) == bool(f.fix) == (f.subject in missing) for f in findings.values())
    million = Replay.bytes_needed(capacity=1_000_000, obs_dim=223, action_dim=38)
    assert f"{1_000_000 * 1_000_000_000 // million:,} dog-run transitions" in findings["memory"].found

    code, lines = printed()
    assert code == 0
    at = next(i for i, line in enumerate(lines) if line.startswith("C++ compiler"))
    assert lines[at].split("  ")[-1] == "no [compiler]"  # not taken for a style
    assert lines[at + 1].strip().startswith("costs: updates run eagerly")
    assert lines[at + 2].strip() == "to get it: install one"


def test_a_broken_pytorch_fails_and_the_rest_is_still_reported(monkeypatch, printed):
    monkeypatch.setitem(sys.modules, "torch", None)
    code, lines = printed()
    assert code == 1
    assert any(line.startswith("PyTorch") and "broken" in line for line in lines)
    assert any(line.startswith("C++ compiler") for line in lines)
    assert not any(line.startswith("GPU") for line in lines)
    assert lines[-1] == "Training cannot work yet: PyTorch."


def test_an_absent_package_fails(monkeypatch, printed):
    def version(name: str) -> str:
        if name == "mujoco":
            raise PackageNotFoundError
        return "1.0"

    monkeypatch.setattr(machine.importlib.metadata, "version", version)
    code, lines = printed()
    assert code == 1
    assert any(line.startswith("packages") and "not installed: mujoco;" in line for line in lines)
    assert any("`pip install mujoco`" in line for line in lines)
