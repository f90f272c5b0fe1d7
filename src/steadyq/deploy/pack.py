"""`steadyq pack`: what is worth sharing of a run as one zip file, with a page about it."""

import html
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from steadyq import output
from steadyq.deploy.export import check_packages, checked, states
from steadyq.deploy.load import Loaded, load
from steadyq.deploy.program import trace
from steadyq.errors import InputError
from steadyq.store import disk, metrics_csv, packed, sealed
from steadyq.store.folder import newest_mark, snapshot_path
from steadyq.store.record import Record, read_record
from steadyq.store.snapshot import snapshot_tensors

PICTURES = {"learning_curve.png": "Learning curve", "film_strip.png": "An episode of seed {seed}"}
"""Their names in a pack, and what they show."""


class Packed(NamedTuple):
    """One seed's policy in a pack."""

    seed: int
    frame: int
    ret: float | None  # of the evaluation at that frame, if there was one
    parity: dict[str, float]  # by file, how far its actions are from the run's own, in halves of their range


def pack(
    run: Path,
    path: Path,
    *,
    seed: int | None = None,
    which: str = "last",
    pictures: Mapping[str, Callable[[Path], object]],
) -> list[str]:
    """Write a run's policies in three forms, its record and measurements, pictures, and a page about them.

    Args:
        run: the run folder.
        path: the zip file to write.
        seed: which of its agents; all of them if None.
        which: `last` checkpoint, `best` evaluation, or the frame of an evaluation.
        pictures: for each name in `PICTURES` what draws it into a file.

    Returns:
        A sentence for each picture that could not be drawn, and is left out.

    Raises:
        InputError: a file that cannot be written, no such run, seed or checkpoint, packages that are missing, an edited
            `metrics.csv`, or a form that differs from the run's own policy; nothing was written.
    """
    if path.suffix.lower() != ".zip":
        raise InputError(f"{path} cannot be written; give a file ending in .zip")
    output.check(path)
    check_packages()
    record = read_record(run)
    files = {"run.json": disk.read(run / "run.json"), "metrics.csv": _measurements(run)}
    policies = []
    for one in record.settings.seeds if seed is None else (seed,):
        loaded = load(run, seed=one, checkpoint=which)
        forms, policy = _forms(run, loaded)
        files |= forms
        policies.append(policy)
    complaints = []
    with TemporaryDirectory(prefix="steadyq-") as folder:
        for name, draw in pictures.items():
            try:
                draw(Path(folder) / name)
                files[name] = (Path(folder) / name).read_bytes()
            except Exception as error:  # the rest is worth sharing all the same
                complaints.append(f"{name} is left out: {' '.join(str(error).split())}")
    page = card(record, policies, [name for name in PICTURES if name in files])
    disk.give(path, packed.to_zip({"README.md": page.encode(), **files}))
    return complaints


def _measurements(run: Path) -> bytes:
    """metrics.csv to its last whole line, if it is the one that the newest checkpoint knows."""
    path = run / metrics_csv.FILE
    metrics_csv.read(path)
    if (mark := newest_mark(run)) is not None:
        metrics_csv.check_prefix(path, mark)
    data = disk.read(path)
    return data[: data.rfind(b"\n") + 1]


def _forms(run: Path, loaded: Loaded) -> tuple[dict[str, bytes], Packed]:
    """One seed's files by name, and what to say of them."""
    spec, obs, seed = loaded.policy.spec, states(run, loaded), loaded.seed
    program = trace(loaded.agent, loaded.state, spec)
    about = {"frame": spec.trained["frame"], "seed": seed, "recipe": spec.trained["recipe"], "env": spec.trained["env"]}
    weights = str(snapshot_path(Path(), seed, about["frame"]))
    files, parity = {weights: sealed.seal("snapshot", snapshot_tensors(loaded.state), about)}, {}
    for name in ("policy.onnx", "policy.npz"):
        data, policy = checked(program, loaded.policy, obs, source=Path(name))
        files[f"seed-{seed}/{name}"] = data
        parity[name] = policy.spec.trained["parity"]
    return files, Packed(seed, about["frame"], spec.trained["return"], parity)


def card(record: Record, policies: list[Packed], pictures: list[str]) -> str:
    """The page about a pack, in Markdown: what was trained and how, what came of it, and how to load it."""
    settings, newest = record.settings, record.stretches[-1]
    first = policies[0].seed
    lines = [
        f"# {_plain(settings.name)} on {_plain(settings.env)}",
        "",
        f"Policies for continuous control, trained with `{settings.recipe}` by steadyq: {settings.frames:,} "
        f"environment frames, seeds {' '.join(map(str, settings.seeds))}.",
        "",
    ]
    for name in pictures:
        lines += [f"![{PICTURES[name].format(seed=first)}]({name})", ""]
    lines += [
        "## Policies",
        "",
        f"Return: mean of {output.plural(settings.eval_episodes, 'episode')} with the mean action, at that frame. The "
        f"last two columns: how far actions may be from the run's own, in halves of their range.",
        "",
        "| seed | frame | return | policy.onnx | policy.npz |",
        "|---|---|---|---|---|",
    ]
    for one in policies:
        ret = "not evaluated" if one.ret is None else f"{one.ret:.1f}"
        lines.append(
            f"| {one.seed} | {one.frame:,} | {ret} | " + " | ".join(f"{x:.1e}" for x in one.parity.values()) + " |"
        )
    lines += [
        "",
        "## Load",
        "",
        "```python",
        "import steadyq  # the zip file as it is, or unpacked; needs PyTorch",
        "",
        f'policy = steadyq.load_policy("PACK.zip", seed={first})',
        "action = policy(obs)  # in the environment's own units",
        "```",
        "",
        "```python",
        "from steadyq.deploy import Policy  # needs NumPy alone; policy.onnx needs ONNX Runtime",
        "",
        f'policy = Policy.load("seed-{first}/policy.npz")  # unpacked',
        "```",
        "",
        "`steadyq compare PACK.zip OTHER` compares its learning curves with others. Any other program that runs ONNX "
        f"takes `seed-{first}/policy.onnx`: `obs` float32 [batch, {record.obs_dim}] in, `actions` float32 [batch, "
        f"{record.action_dim}] out.",
        "",
        "| observation | size |",
        "|---|---|",
        *(f"| {_plain(name)} | {size} |" for name, size in record.observations),
        "",
        "## Protocol",
        "",
        "```json",
        json.dumps(_protocol(record), indent=2),
        "```",
        "",
        f"Commit {newest['commit']}; versions and machine are in `run.json`, all measurements in `metrics.csv`, the "
        f"digests of all files in `{packed.SUMS}` (`sha256sum -c {packed.SUMS}`).",
        "",
    ]
    return "\n".join(lines)


def _protocol(record: Record) -> dict[str, Any]:
    settings = record.settings.to_json()
    values = {key: value for key, value in settings.items() if value is not None and key != "track"}
    return values | {"step_seconds": record.step_seconds}


def _plain(text: str | None) -> str:
    """A name that Markdown shows as it is."""
    return "".join(f"\\{c}" if c in r"\`*_[]#|~" else html.escape(c) for c in output.safe(text))
