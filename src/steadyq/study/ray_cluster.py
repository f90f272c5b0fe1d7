"""The engine of a Ray cluster: workers on every node that has room, sees the study's folder and gives the same bits.

The driver chooses the node; a Ray task there starts the worker, waits for it and reads what came of it, since only
where it ran a network's file system is sure to show all that it wrote. Ray repeats nothing: `tries` counts.
"""

import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from steadyq.engine import compiler, machine
from steadyq.errors import InputError
from steadyq.run.conditions import MACHINE, differences
from steadyq.study import lease, tries, worker
from steadyq.study.plan import Planned
from steadyq.study.worker import Outcome

LOOK = 2.0  # seconds between two looks at the nodes of the cluster
SEEN_WITHIN = 30.0  # seconds after which a network's file system shows what another machine wrote
ANSWERS_WITHIN = 180.0  # seconds that nodes have at the start to say what they are; they import PyTorch
CONNECTS_WITHIN = 10.0  # seconds that the head of a cluster has to take a call
WAITING = 300_000_000  # bytes of a Ray worker that waits for a run; it has imported PyTorch
PR_SET_PDEATHSIG = 1  # Linux's sys/prctl.h
POLL = 0.2  # seconds between two looks at a process, when also Ray's wish to cancel is seen

# On a node


class Facts(NamedTuple):
    """What a node is, as far as bits depend on it, and what it sees."""

    sees: bool  # what the driver wrote
    locks: bool  # what the driver has locked is locked there
    machine: dict[str, Any]
    versions: dict[str, str]
    compiler: str  # why there is none that works


def examine(check: Path) -> Facts:
    """Look at the node on which this runs.

    Args:
        check: a file that the driver wrote and has locked.
    """
    sees, locks, deadline = check.exists(), False, time.monotonic() + SEEN_WITHIN
    while not sees and time.monotonic() < deadline:
        time.sleep(0.5)
        sees = check.exists()
    if sees:
        lock = FileLock(check, blocking=False)
        try:
            lock.acquire()
            lock.release()
        except Timeout:
            locks = True
    trial = compiler.works()
    return Facts(sees, locks, machine.facts(), machine.versions(), "" if trial.ok else f"{trial.reason}; {trial.fix}")


def see_through(
    study: Path,
    run: Planned,
    *,
    folder: Path,
    threads: int,
    minutes: float | None,
    environment: Mapping[str, str],
    number: int | None,
) -> tuple[Outcome, str]:
    """Start a worker on the node on which this runs, wait for it, and tell what came of it.

    Args:
        study: the study's folder.
        run: the run.
        folder: where the driver was started, for environments of one's own; if it is there.
        threads: of a run that was not begun yet, unless the study file says how many.
        minutes: after which the worker is to save and stop; None for never.
        environment: variables that the worker is to have.
        number: of the lease to take on the run; None where locks hold.
    """
    if folder.is_dir():
        os.chdir(folder)
    node = os.getppid()
    with contextlib.ExitStack() as kept:
        lost = threading.Event()
        if number is not None:
            try:
                lost = kept.enter_context(lease.hold(tries.place(study, run), number))
            except lease.Taken:
                return "held", "another driver was quicker"
        # What nothing but a lease keeps may not outlive whoever renews that.
        death = signal.SIGTERM if number is None else signal.SIGKILL
        process = worker.begin(
            study, run, threads=threads, minutes=minutes, before_start=partial(die_with_parent, death), **environment
        )
        stopped = False
        while True:
            try:
                while (code := process.poll()) is None:
                    if lost.is_set():
                        process.kill()
                    time.sleep(POLL)
                break
            except KeyboardInterrupt:  # how Ray cancels
                stopped = True
                process.terminate()
        if lost.is_set():
            return "held", "its lease ended here"
        if os.getppid() != node:  # which took the worker with it
            return "more", "its node is gone"
        return worker.conclude(study, run, code, stopped=stopped)


def die_with_parent(number: int) -> None:
    """Have the system send this process a signal when its parent ends, where it can: on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


# At the driver


class Amount(NamedTuple):
    """What of a node a run needs, or what there is."""

    cpus: float
    gpus: float
    memory: float  # bytes

    def fits(self, there: "Amount") -> bool:
        """Whether it is no more than there is."""
        return all(need <= has for need, has in zip(self, there, strict=True))

    def __str__(self) -> str:
        gpus = f", {self.gpus:g} GPUs" if self.gpus else ""
        return f"{self.cpus:g} CPUs{gpus} and {self.memory / 1e9:.1f} GB"


@dataclass
class Node:
    """A node of the cluster."""

    name: str
    whole: Amount
    asked: Any  # reference of `Facts` to come
    facts: Facts | None = None
    trouble: str = ""  # why it makes no runs
    told: bool = False  # somebody was told that
    used: dict[str, Amount] = field(default_factory=dict)  # by the runs that it makes now

    @property
    def free(self) -> Amount:
        """What none of our runs has."""
        return Amount(*(has - sum(used) for has, *used in zip(self.whole, *self.used.values(), strict=True)))


class Cluster:
    """Starts workers on the nodes of a Ray cluster, which may come and go.

    Args:
        study: the study's folder, which all nodes see.
        runs: what is to be made.
        address: of the cluster, or `"local"` for one on this machine that ends with us.
        workers: at once, at most; None for as many as there is room for.
        cpus: that Ray reserves for a run; None for as many as it has threads.
        gpus: that Ray reserves for a run; with 0 a run sees none.
        mixed: also use nodes whose processor, versions or compiler are not those of the others.
        say: takes a line about nodes.

    Raises:
        InputError: there is no such cluster, or none of its nodes can make a run.
    """

    def __init__(
        self,
        study: Path,
        runs: Sequence[Planned],
        *,
        address: str,
        workers: int | None = None,
        cpus: int | None = None,
        gpus: float = 0.0,
        mixed: bool = False,
        say: Callable[[str], None] = print,
    ) -> None:
        self.study, self.runs, self.workers, self.cpus = study.resolve(), runs, workers, cpus
        self.mixed, self.say = mixed, say
        self.least = Amount(float(cpus or 1), gpus, 0.0)  # of a run
        self.like: dict[str, Any] = {}  # what nodes are to be like, see `usual`
        self.nodes: dict[str, Node] = {}  # by Ray's name
        self.tasks: dict[str, tuple[Planned, Node, Any]] = {}  # by run folder; the reference of an outcome to come
        self.looked = 0.0
        self.stopping = False
        self.leases: lease.Watch | None = None  # where locks do not hold
        # Of the run that was asked about last:
        self.place, self.need = "", self.least
        self.lease: int | None = None
        places = self.study / tries.WORKERS
        places.mkdir(parents=True, exist_ok=True)
        self.ray = connect(address, places / "ray.txt")
        self.check = FileLock(places / f".driver-{uuid.uuid4().hex}")
        self.check.acquire()
        try:
            self.see_nodes()
            self.wait_for_answers()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leave the cluster."""
        self.check.release()
        Path(self.check.lock_file).unlink(missing_ok=True)
        self.ray.shutdown()

    # The nodes

    def see_nodes(self) -> None:
        """Ask nodes that are new what they are, and forget those that are gone."""
        self.looked = time.monotonic()
        alive = {node["NodeID"]: node for node in self.ray.nodes() if node["Alive"]}
        for name in self.nodes.keys() - alive.keys():
            self.say(f"gone       {self.nodes.pop(name).name}")
        for name, about in alive.items():
            if name in self.nodes:
                continue
            whole = Amount(*(about["Resources"].get(kind, 0.0) for kind in ("CPU", "GPU", "memory")))
            if self.least.fits(whole):
                asked = self.task(examine, name).remote(Path(self.check.lock_file))
                named = about["NodeName"] != about["NodeManagerAddress"]
                self.nodes[name] = Node(about["NodeName" if named else "NodeManagerHostname"], whole, asked)

    def task(self, function: Callable[..., Any], node: str, **options: Any) -> Any:
        """A function as a task on one node, which is not repeated."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        where = NodeAffinitySchedulingStrategy(node, soft=False)
        options = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": where, **options}
        return self.ray.remote(function).options(**options)

    def wait_for_answers(self) -> None:
        """Wait until the nodes have said what they are, and decide by them what nodes are to be like."""
        if not self.nodes:
            raise InputError(f"no node of the cluster has {self.least}; start one, or give less")
        asked = [node.asked for node in self.nodes.values()]
        self.ray.wait(asked, num_returns=len(asked), timeout=ANSWERS_WITHIN)
        answers = [facts for node in self.nodes.values() if (facts := self.answer(node))]
        if answers:
            self.like = usual(self.study, self.runs, answers)
        self.hear()
        if not self.usable():
            raise InputError(self.troubles())

    def answer(self, node: Node) -> Facts | None:
        """What a node has said it is; None if it has not, or cannot."""
        try:
            facts: Facts = self.ray.get(node.asked, timeout=0)
            return facts
        except self.ray.exceptions.GetTimeoutError:
            return None
        except self.ray.exceptions.RayError as error:
            node.trouble = f"it cannot run steadyq ({last_line(error)})"
            return None

    def hear(self) -> None:
        """Take in the nodes that have said what they are, and report those that make no runs."""
        for node in self.nodes.values():
            if node.facts is None and not node.trouble and (facts := self.answer(node)):
                node.facts = facts
                self.admit(node, facts)
            if node.trouble and not node.told:
                node.told = True
                self.say(f"left out   {node.name}: {node.trouble}")

    def admit(self, node: Node, facts: Facts) -> None:
        """Decide whether a node makes runs."""
        if not facts.sees:
            node.trouble = f"it does not see {self.study}; give an --out on a file system that all nodes share"
            return
        if words := unlike(self.like, facts, fresh=True):
            if not self.mixed:
                node.trouble = f"{words}; the bits of its runs would differ, give --mixed to use it all the same"
                return
            self.say(f"differs    {node.name}: {words}; what is begun there is resumed only on nodes like it")
        if not facts.locks and self.leases is None:
            self.leases = lease.Watch()
            self.say(
                f"locks in {self.study} do not hold between nodes, so leases take their place: what a lost node or "
                f"command was making is resumed after {lease.ENDS:.0f} seconds"
            )
        self.say(f"node       {node.name}: {node.whole}, {facts.machine['cpu']}")

    def usable(self) -> dict[str, Node]:
        """The nodes that make runs."""
        return {name: node for name, node in self.nodes.items() if node.facts and not node.trouble}

    def troubles(self) -> str:
        """Why no node makes runs."""
        words = [f"{node.name}: {node.trouble or 'it does not answer'}" for node in self.nodes.values()]
        return f"no node of the cluster can make these runs ({', '.join(words)}); fix one"

    # What every engine does

    def look(self) -> bool:
        """See which nodes there are now."""
        if time.monotonic() - self.looked >= LOOK:
            self.see_nodes()
        self.hear()
        if self.workers and len(self.tasks) >= self.workers:
            return False
        if self.nodes and all(node.trouble for node in self.nodes.values()):
            return True  # `obstacle` reports it
        return any(self.least.fits(node.free) for node in self.usable().values())

    def elsewhere(self, run: Planned) -> bool:
        """Where its lock does not tell: whether somebody has a lease on it, and perhaps keeps it."""
        if self.leases is None:
            return False
        self.lease = self.leases.next(tries.place(self.study, run))
        return self.lease is None

    def obstacle(self, run: Planned) -> str:
        """Whether there is a node with room for it, on which it goes on as it was begun."""
        nodes = self.usable()
        if not nodes:
            return self.troubles()
        record = worker.begun(self.study, run)
        need = self.least._replace(
            cpus=self.cpus or worker.threads_of(run, record, 1), memory=float(run.memory + WAITING)
        )
        nodes = {name: node for name, node in nodes.items() if need.fits(node.whole)}
        if not nodes:
            return f"{run.folder} needs {need}, and no node has that; start a larger one, or give a smaller buffer-size"
        if record:
            odd = {name: unlike(record.stretches[-1], node.facts) for name, node in nodes.items() if node.facts}
            nodes = {name: node for name, node in nodes.items() if not odd[name]}
            if not nodes:
                words = next(iter(odd.values()))
                return f"{run.folder} was begun on another kind of node ({words}); start one of that kind"
        elif run.choices.get("compile") == "on":
            nodes = {name: node for name, node in nodes.items() if node.facts and not node.facts.compiler}
            if not nodes:
                return f"{run.folder} is to be compiled, and no node has a C++ compiler that works; install one"
        free = {name: node.free for name, node in nodes.items() if need.fits(node.free)}
        if not free:
            return f"the nodes that could make {run.folder} are busy; wait for them"
        self.place, self.need = max(free, key=free.__getitem__), need
        return ""

    def start(self, run: Planned, minutes: float | None) -> str:
        """Send it to the node that was found for it."""
        node, need = self.nodes[self.place], self.need
        made = self.task(
            see_through, self.place, num_cpus=need.cpus, num_gpus=need.gpus, memory=need.memory, name=run.folder
        )
        reference = made.remote(
            self.study,
            run,
            folder=Path.cwd(),
            threads=self.cpus or 1,
            minutes=minutes,
            environment={} if need.gpus else {"CUDA_VISIBLE_DEVICES": ""},
            number=self.lease,
        )
        node.used[run.folder] = need
        self.tasks[run.folder] = (run, node, reference)
        return node.name

    def ended(self, seconds: float) -> list[tuple[Planned, Outcome, str]]:
        """What came of one that has ended."""
        if not self.tasks:
            time.sleep(seconds)
            return []
        folders = {reference: folder for folder, (_, _, reference) in self.tasks.items()}
        ready, _ = self.ray.wait(list(folders), timeout=seconds)
        found = []
        for reference in ready:
            run, node, _ = self.tasks.pop(folders[reference])
            del node.used[run.folder]
            found.append((run, *self.outcome(run, node, reference)))
        return found

    def outcome(self, run: Planned, node: Node, reference: Any) -> tuple[Outcome, str]:
        """What came of a run on a node."""
        failed = self.ray.exceptions
        try:
            outcome, words = self.ray.get(reference)
            return outcome, words
        except failed.TaskCancelledError:
            return "more", ""
        except (failed.WorkerCrashedError, failed.OutOfMemoryError):
            return worker.conclude(self.study, run, -signal.SIGKILL, stopped=self.stopping)
        except failed.RayTaskError as error:
            node.trouble = f"it cannot start a worker ({last_line(error)})"
            return "more", node.trouble
        except failed.RayError:
            return "more", "its node is gone"

    def stop(self, *, at_once: bool) -> None:
        """Have Ray cancel the tasks, which then stop their workers; or kill them."""
        self.stopping = True
        for _, _, reference in self.tasks.values():
            self.ray.cancel(reference, force=at_once)


def connect(address: str, log: Path) -> Any:
    """The module `ray`, connected to a cluster; what it says of its own accord goes to a log.

    Raises:
        InputError: it is not installed, or there is no such cluster.
    """
    try:
        import ray
        from ray._private import worker as rays
    except ImportError as error:
        raise InputError(
            f"--ray needs the package ray ({error}); install it with `pip install -e '.[ray]'` in your clone of steadyq"
        ) from None
    if "://" in address:
        raise InputError(
            f"--ray is {address}, for a client outside of the cluster; give this command on one of its nodes, and "
            f"HOST:PORT of its head"
        )
    host, _, port = address.rpartition(":")
    try:
        if port.isdecimal():  # Ray itself would try for minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECTS_WITHIN).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"there is no Ray cluster at {address} ({error}); start it with `ray start --head`") from None

    def keep(data: Mapping[str, Any], ignore_prefix: bool) -> None:
        with log.open("a") as file:
            file.writelines(f"{line}\n" for line in data["lines"])

    rays.print_to_stdstream = keep  # with `log_to_driver=False`, too, it prints the logs of lost nodes
    mine: dict[str, Any] = (
        {"num_cpus": machine.usable_cores(), "include_dashboard": False} if address == "local" else {}
    )
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **mine)
    except Exception as error:  # of anyone's network
        raise InputError(
            f"cannot connect to the Ray cluster {address} ({last_line(error)}); start it with `ray start --head`, or "
            f"give --ray local"
        ) from None
    return ray


def last_line(error: Exception) -> str:
    """The last line of what an error says, which names the cause where Ray shows a traceback."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def usual(study: Path, runs: Sequence[Planned], answers: Sequence[Facts]) -> dict[str, Any]:
    """What nodes are to be like: as the runs of a study were made so far, or else as most nodes are; as a stretch."""
    some = any(run.choices.get("compile") != "off" for run in runs)  # are compiled, or else it does not matter
    for run in runs:
        if record := worker.begun(study, run):
            before = record.stretches[-1]
            compiled = before["compiled"] or record.settings.compile == "off"
            return {**before, "compiled": compiled if some else None}
    compiled = not all(facts.compiler for facts in answers)
    alike = {**dict.fromkeys((*MACHINE.values(), "products", "commit")), "compiled": compiled if some else None}
    kinds = [{**alike, "machine": facts.machine, "versions": facts.versions} for facts in answers]
    return max(kinds, key=lambda kind: sum(not unlike(kind, facts) for facts in answers))


def unlike(before: Mapping[str, Any], facts: Facts, *, fresh: bool = False) -> str:
    """How a node differs from that of a stretch, of all that bits depend on; `fresh` if it would begin runs."""
    _, words = differences(before, {**before, "machine": facts.machine, "versions": facts.versions}, asked=())
    if before["compiled"] and facts.compiler:
        compiling = f"it has no C++ compiler that works ({facts.compiler})"
    elif fresh and before["compiled"] is False and not facts.compiler:
        compiling = "it has a C++ compiler, and the others have none"
    else:
        compiling = ""
    return ", ".join(filter(None, [words, compiling]))
