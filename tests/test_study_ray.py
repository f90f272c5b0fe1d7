"""Studies on a Ray cluster: every run once though processes, nodes and drivers die; leases; nodes that differ."""

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from filelock import FileLock
from ray.cluster_utils import Cluster

import steadyq
from runs import SMALL
from steadyq.cli.main import main
from steadyq.engine import machine
from steadyq.errors import InputError
from steadyq.run.train import train
from steadyq.store.record import read_record, write_record
from steadyq.study import file, lease, plan, ray_cluster, state, tries, worker
from steadyq.study.plan import Planned
from steadyq.study.ray_cluster import Facts
from test_study import FOUR, LIMIT, command, done, run_of, table, written

NODE: dict[str, Any] = {"object_store_memory": 80_000_000, "include_dashboard": False, "memory": 6 * 10**9}


# Whole studies


@pytest.fixture(scope="module")
def deaths(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What kills whom, see deadly.py; empty at first."""
    return tmp_path_factory.mktemp("deaths")


@pytest.fixture(scope="module")
def cluster(deaths: Path) -> Iterator[Cluster]:
    """Two nodes that make runs, one at a time each; drivers connect to the first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEADLY", str(deaths))
        patch.setenv("PYTHONPATH", str(Path(steadyq.__file__).parents[1]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **NODE})
        made.add_node(num_cpus=1, wait=False, **NODE)
        made.wait_for_nodes(timeout=LIMIT)
    yield made
    made.shutdown()


def test_killed_workers_nodes_and_drivers_leave_no_trace(cluster: Cluster, deaths: Path, tmp_path: Path) -> None:
    """Two drivers at once; a training process, a Ray worker, a raylet and a driver are killed."""
    text = FOUR.replace('["1/4", "1/2"]', '"1/4"')
    path, study, alone = written(tmp_path / "two.toml", text), tmp_path / "study", tmp_path / "alone"
    runs = file.read(written(tmp_path / "toy.toml", text.replace("deadly:", "toy:")))
    for run in runs:
        train(run.recipe, env=run.env, seeds=run.seeds, out=str(alone / run.folder), **{**SMALL, **run.choices})
    words = ("run", path, "--out", study, "--ray", cluster.address)
    drivers = [command(*words, deaths=deaths), command(*words, deaths=deaths)]
    (second,) = cluster.worker_nodes
    (raylet,) = second.all_processes["raylet"]
    for name in ("15-worker", "37-driver", f"52-{raylet.process.pid}", f"64-{drivers[0].pid}"):
        (deaths / name).touch()
    ends = [done(driver) for driver in drivers]
    assert ends[0][0] == -signal.SIGKILL, ends[0]
    code, out, err = ends[1]
    assert code == 0, out + err
    assert "2 runs done, 0 set aside, 0 to do" in out
    assert not list(deaths.iterdir())
    assert [row.replace("deadly:", "toy:") for row in table(study)] == table(alone)
    started = sum(log.read_text().count("-m steadyq train") for log in (study / "workers").rglob("log.txt"))
    assert started >= 2 + 2  # what a raylet's or a driver's death ends may have come to its end before
    for run in plan.read(study):
        begun = [stretch["from_frame"] for stretch in read_record(study / run.folder).stretches]
        assert begun == sorted(begun)


@pytest.mark.slow
def test_ctrl_c_on_a_cluster_saves(cluster: Cluster, tmp_path: Path) -> None:
    text = FOUR.replace("frames = 90", "frames = 1_000_000").replace("deadly:", "toy:")
    path, study = written(tmp_path / "long.toml", text), tmp_path / "study"
    runs = file.read(path)
    driver = command("run", path, "--out", study, "--ray", cluster.address, "--workers", 1)
    while driver.poll() is None and not any(state.look(study, run).frame for run in runs):
        with contextlib.suppress(subprocess.TimeoutExpired):
            driver.wait(0.2)
    driver.send_signal(signal.SIGINT)
    code, out, err = done(driver)
    assert code == 75, out + err
    assert "workers save and stop (1)" in out
    assert "0 set aside, 4 to do" in out
    begun = [run for run in runs if state.look(study, run).frame]
    assert len(begun) == 1
    assert "stopped at frame" in (tries.place(study, begun[0]) / "log.txt").read_text()


# Leases


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_lease_that_is_renewed_is_somebodys_and_one_that_is_not_ends(tmp_path: Path) -> None:
    clock = Clock()
    watch = lease.Watch(clock=clock)
    assert watch.next(tmp_path) == 1
    (tmp_path / "lease-1").write_bytes(b"someone 0")
    for beat in range(100):  # an owner whose clock is an hour behind, or ahead: nobody asks
        (tmp_path / "lease-1").write_bytes(f"someone {beat}".encode())
        os.utime(tmp_path / "lease-1", (3_600 * beat, 3_600 * beat))
        clock.now += lease.BEAT
        assert watch.next(tmp_path) is None
    clock.now += lease.ENDS - 1
    assert watch.next(tmp_path) is None
    clock.now += 1
    assert watch.next(tmp_path) == 2
    assert lease.Watch(clock=clock).next(tmp_path) is None  # who comes later watches as long
    (tmp_path / "lease-2").write_bytes(lease.FREE)
    assert watch.next(tmp_path) == 3


def test_one_of_two_takes_a_lease_and_leaves_it_free(tmp_path: Path) -> None:
    watch = lease.Watch()
    with lease.hold(tmp_path, 1) as lost:
        assert watch.next(tmp_path) is None
        with pytest.raises(lease.Taken), lease.hold(tmp_path, 1):
            pass
        assert not lost.is_set()
    assert watch.next(tmp_path) == 2


@pytest.mark.parametrize("why", ["taken over", "not renewed for too long"])
def test_a_lost_lease_is_noticed(why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT", 0.0)
    clock = Clock()
    with lease.hold(tmp_path, 1, clock=clock) as lost:
        if why == "taken over":
            (tmp_path / "lease-2").touch()
        else:
            monkeypatch.setattr(lease.disk, "write", lambda *_: (_ for _ in ()).throw(OSError("the disk is away")))
            clock.now += lease.ENDS
        assert lost.wait(60)


def test_a_training_process_ends_with_its_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, process = run_of("a"), subprocess.Popen(["sleep", "600"])

    def begin(*_: object, **__: object) -> "subprocess.Popen[bytes]":
        (tries.place(tmp_path, run) / "lease-2").touch()  # somebody has waited long enough
        return process

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lease, "BEAT", 0.0)
    monkeypatch.setattr(worker, "begin", begin)
    make = partial(ray_cluster.see_through, tmp_path, run, folder=tmp_path, threads=1, minutes=None, environment={})
    assert make(number=1) == ("held", "its lease ended here")
    assert process.returncode == -signal.SIGKILL
    assert make(number=1) == ("held", "another driver was quicker")


# The engine, with a cluster that is made up


HERE = Facts(
    sees=True, locks=True, machine={"cpu": "Zen 5", "cpu_capability": "AVX512"}, versions={"torch": "2"}, compiler=""
)
OTHER = HERE._replace(machine={"cpu": "Xeon", "cpu_capability": "AVX512"})


class FakeRay:
    """A cluster of nodes that say these things of themselves, with 2 CPUs and 10 GB each; tasks end with `outcome`."""

    exceptions = ray.exceptions

    def __init__(self, **nodes: Facts | Exception) -> None:
        self.alive, self.outcome = nodes, ("done", "")
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def nodes(self) -> list[dict[str, Any]]:
        about = {"Alive": True, "NodeManagerAddress": "1.2.3.4", "NodeManagerHostname": "host"}
        resources = {"CPU": 2.0, "memory": 1e10}
        return [{**about, "NodeID": 56 * name, "NodeName": name, "Resources": resources} for name in self.alive]

    def remote(self, function: Any) -> Any:
        def options(*, scheduling_strategy: Any, **reserved: Any) -> Any:
            node = scheduling_strategy.node_id[0]

            def send(*words: Any, **more: Any) -> Any:
                if function is ray_cluster.examine:
                    return self.alive[node]
                self.sent.append((node, {**reserved, **more}))
                return None

            return SimpleNamespace(remote=send)

        return SimpleNamespace(options=options)

    def get(self, reference: Any, timeout: float | None = None) -> Any:
        answer = reference or self.outcome
        if isinstance(answer, Exception):
            raise answer
        return answer

    def wait(self, references: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        return references[:1], references[1:]

    def shutdown(self) -> None:
        pass


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[ray_cluster.Cluster, list[str]]]:
    """Makes the engine of a cluster, and the list of what it says."""

    def make(fake: FakeRay, *runs: Planned, **options: Any) -> tuple[ray_cluster.Cluster, list[str]]:
        lines: list[str] = []
        monkeypatch.setattr(ray_cluster, "connect", lambda *_: fake)
        monkeypatch.setattr(ray_cluster, "LOOK", 0.0)
        engine = ray_cluster.Cluster(tmp_path, runs or [run_of("a")], address="auto", say=lines.append, **options)
        return engine, lines

    return make


def begun_on(facts: Facts, study: Path, run: Planned, *, compiled: bool = False) -> None:
    """Leave a record as of a run that was begun on such a node."""
    train("sac", env="toy:Point-v0", seeds=run.seeds, out=str(study / run.folder), **SMALL)
    record = read_record(study / run.folder)
    stretch = {**record.stretches[-1], "machine": facts.machine, "versions": facts.versions, "compiled": compiled}
    write_record(study / run.folder, record._replace(stretches=[stretch]))


@pytest.mark.parametrize(
    ("odd", "why"),
    [
        (OTHER, "cpu was Zen 5 and is Xeon; the bits of its runs would differ, give --mixed"),
        (HERE._replace(versions={"torch": "3"}), "torch was 2 and is 3; the bits"),
        (HERE._replace(compiler="no g++"), r"it has no C\+\+ compiler that works \(no g\+\+\); the bits"),
        (HERE._replace(sees=False), "it does not see /.*; give an --out on a file system that all nodes share"),
        (ray.exceptions.RaySystemError("ImportError: steadyq"), "it cannot run steadyq"),
    ],
)
def test_a_node_that_would_give_other_bits_is_reported_and_left_out(odd: Any, why: str, start: Callable) -> None:
    engine, lines = start(FakeRay(a=HERE, b=odd, c=HERE))
    assert [line for line in lines if re.match("left out   b: " + why, line)]
    assert [node.name for node in engine.usable().values()] == ["a", "c"]
    assert engine.obstacle(run_of("a")) == ""


def test_nodes_that_differ_are_used_if_asked_and_a_run_stays_on_its_kind(start: Callable, tmp_path: Path) -> None:
    run = run_of("a")
    begun_on(OTHER, tmp_path, run)
    engine, lines = start(FakeRay(a=HERE, b=OTHER, c=HERE), run, run_of("b"), mixed=True)
    assert "differs    a: cpu was Xeon and is Zen 5" in "\n".join(lines)
    assert engine.obstacle(run) == ""
    assert engine.start(run, None) == "b"
    second = run_of("second", choices={"threads": 2})
    assert engine.obstacle(second) == ""
    assert engine.start(second, None) in ("a", "c")


def test_without_a_node_of_its_kind_a_run_waits(start: Callable, tmp_path: Path) -> None:
    run = run_of("a")
    begun_on(HERE, tmp_path, run, compiled=True)
    engine, _ = start(FakeRay(a=HERE._replace(compiler="no g++")), run, mixed=True)
    assert engine.obstacle(run).startswith(
        "runs/a was begun on another kind of node (it has no C++ compiler that works"
    )
    assert engine.obstacle(run_of("b")) == ""
    assert "no node has a C++ compiler" in engine.obstacle(run_of("b", choices={"compile": "on"}))


def test_no_node_is_given_more_than_it_has(start: Callable) -> None:
    engine, _ = start(FakeRay(a=HERE, b=HERE))
    large, wide = run_of("large", memory=8 * 10**9), run_of("wide", choices={"threads": 2})
    assert engine.obstacle(run_of("a", memory=10**11)).startswith("runs/a needs 1 CPUs and 100.3 GB, and no node has")
    assert engine.obstacle(large) == ""
    first = engine.start(large, None)
    assert engine.obstacle(large._replace(folder="runs/again")) == ""
    assert engine.start(large._replace(folder="runs/again"), None) != first
    assert engine.obstacle(large._replace(folder="runs/third")).endswith("are busy; wait for them")
    assert engine.obstacle(wide).endswith("are busy; wait for them")
    assert engine.look()
    assert engine.obstacle(run_of("small")) == ""


def test_what_ray_reserves_is_what_a_run_gets(start: Callable) -> None:
    fake = FakeRay(a=HERE)
    engine, _ = start(fake, cpus=2)
    assert engine.obstacle(run_of("a")) == ""
    engine.start(run_of("a"), 3.0)
    (sent,) = fake.sent
    assert (
        sent[1].items() >= {"num_cpus": 2, "num_gpus": 0, "memory": 300_000_010, "max_retries": 0, "threads": 2}.items()
    )
    assert sent[1]["environment"] == {"CUDA_VISIBLE_DEVICES": ""}
    assert sent[1]["minutes"] == 3.0
    with pytest.raises(InputError, match=r"no node of the cluster has 1 CPUs, 0\.5 GPUs"):
        start(FakeRay(a=HERE), gpus=0.5)


def test_nodes_leave_and_join(start: Callable) -> None:
    fake = FakeRay(a=HERE)
    engine, lines = start(fake)
    fake.alive = {"b": HERE, "c": OTHER}
    assert engine.look()
    assert lines[1:3] == ["gone       a", "node       b: 2 CPUs and 10.0 GB, Zen 5"]
    assert lines[3].startswith("left out   c: cpu was Zen 5 and is Xeon")
    fake.alive = {}
    assert not engine.look()


@pytest.mark.parametrize(
    ("end", "outcome", "words"),
    [
        (ray.exceptions.WorkerCrashedError(), "failed", "killed by signal 9 after the checkpoint of frame 0"),
        (ray.exceptions.NodeDiedError("gone"), "more", "its node is gone"),
        (ray.exceptions.TaskCancelledError(), "more", ""),
    ],
)
def test_what_ends_a_task_is_told_from_what_ends_a_run(end: Any, outcome: str, words: str, start: Callable) -> None:
    fake = FakeRay(a=HERE)
    engine, _ = start(fake)
    run = run_of("a")
    engine.obstacle(run)
    engine.start(run, None)
    fake.outcome = end
    assert engine.ended(0) == [(run, outcome, words)]
    assert tries.read(engine.study, run).kills == (outcome == "failed")
    assert [node.free == node.whole for node in engine.nodes.values()] == [True]


def test_where_locks_do_not_hold_leases_do(start: Callable) -> None:
    fake = FakeRay(a=HERE, b=HERE._replace(locks=False))
    engine, lines = start(fake)
    assert [
        line for line in lines if re.match("locks in .* do not hold between nodes, so leases take their place", line)
    ]
    run = run_of("a")
    assert not engine.elsewhere(run)
    engine.obstacle(run)
    engine.start(run, None)
    assert fake.sent[0][1]["number"] == 1
    with lease.hold(tries.place(engine.study, run), 1):
        assert engine.elsewhere(run)


def test_a_node_looks_at_what_the_driver_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "SEEN_WITHIN", 0.0)
    check = FileLock(tmp_path / "check")
    found = ray_cluster.examine(tmp_path / "check")
    assert (found.sees, found.locks) == (False, False)
    assert not (tmp_path / "check").exists()
    with check:
        found = ray_cluster.examine(tmp_path / "check")
    assert (found.sees, found.locks) == (True, True)
    found = ray_cluster.examine(tmp_path / "check")
    assert (found.sees, found.locks) == (True, False)
    assert found.machine["cpu"] == machine.cpu()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--mixed"], "--cpus-per-run, --gpus-per-run and --mixed are for clusters; add --ray"),
        (["--ray", "auto", "--cpus-per-run", "0"], "--cpus-per-run is 0; give at least 1"),
        (["--ray", "auto", "--gpus-per-run", "1.5"], "--gpus-per-run is 1.5; give a part of one"),
        (["--ray", "127.0.0.1:1"], "there is no Ray cluster at 127.0.0.1:1 (["),
        (["--ray", "ray://head:10001"], "--ray is ray://head:10001, for a client outside of the cluster"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], why: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = written(tmp_path / "four.toml", FOUR.replace("deadly:", "toy:"))
    assert main(["study", "run", str(path), "--out", str(tmp_path / "study"), *words]) == 2
    assert why in capsys.readouterr().err


def test_runs_on_a_gpu_need_one_reserved(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    text = '[[runs]]\nrecipe = "sac"\nenv = "toy:Point-v0"\ndevice = "cuda"\n'
    path = written(tmp_path / "study.toml", text)
    assert main(["study", "run", str(path), "--out", str(tmp_path / "study"), "--ray", "auto"]) == 2
    assert "asks for runs on a GPU; add --gpus-per-run" in capsys.readouterr().err
