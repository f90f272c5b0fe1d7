"""Start a run, or go on with one: settings checked, pieces put together, the loop run to its end."""

import shutil
import time
from collections.abc import Mapping
from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import torch

from steadyq.algorithm.learner import Learner
from steadyq.algorithm.options import make_recipe, options
from steadyq.algorithm.random import Purpose, generator
from steadyq.errors import InputError, unknown
from steadyq.run import checkpoint, compiler, envs, folder, logs, machine, watch
from steadyq.run.diagnose import examiner
from steadyq.run.env import Env, Spec
from steadyq.run.episodes import EpisodeStream
from steadyq.run.folder import Record, agent_of, read_record, seed_folder, write_record
from steadyq.run.loop import Run, Seed, loop, restore
from steadyq.run.replay import Replay
from steadyq.run.settings import Settings, check, complete
from steadyq.run.stop import Stop


class Result(NamedTuple):
    """What came of a run."""

    folder: Path
    finished: bool  # False: stopped on request, and resumable
    frame: int  # reached, per seed

    def returns(self, seed: int) -> Mapping[int, float]:
        """Mean evaluation return of a seed, by environment frame."""
        return folder.returns(self.folder, seed)


def train(recipe: str, *, env: str, overwrite: bool = False, **choices: Any) -> Result:
    """Train a recipe on an environment; the same as `steadyq train`.

    Args:
        recipe: its name, e.g. `"crossq_wn"`.
        env: a DeepMind Control task or a Gymnasium id.
        overwrite: delete the run that is already in the folder, if there is one.
        **choices: fields of `Settings` (`frames`, `utd`, `seeds`, ...) and options of the recipe (`lr`, `width`, ...).

    Returns:
        Where the run is, and how far it came.

    Raises:
        InputError: a choice that cannot work, or a folder that already holds a run; nothing was started.
    """
    return start(settings_of(recipe, env=env, choices=choices), overwrite=overwrite)


def settings_of(recipe: str, *, env: str, choices: Mapping[str, Any]) -> Settings:
    """Checked and completed settings from names and values."""
    known_options = options(recipe)
    known = {f.name for f in fields(Settings)} - {"recipe", "env", "options"}
    for key in choices:
        if key not in known and key not in known_options:
            raise unknown("setting", key, known | known_options.keys())
    chosen = {key: value for key, value in choices.items() if key in known_options}
    made = make_recipe(recipe, chosen)
    defaults = {key: option.default for key, option in known_options.items()}
    given = {key: value for key, value in choices.items() if key in known}
    if given.get("utd") is not None:
        given["utd"] = fraction(given["utd"])
    if "seeds" in given:
        given["seeds"] = tuple(given["seeds"])
    settings = Settings(recipe=recipe, env=env, options=chosen, **given)
    settings = complete(
        settings,
        made.protocol,
        defaults,
        suite=envs.suite_of(env),
        episode_frames=lambda: envs.make(env).spec.episode_frames,
    )
    check(settings)
    return settings


def fraction(value: Any) -> Fraction:
    """An exact number from an int, a float as it is written, or text such as 1/3."""
    try:
        return Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise InputError(f"--utd is {value}; give a number such as 2, 0.5 or 1/3") from None


def start(settings: Settings, *, overwrite: bool = False) -> Result:
    """A new run."""
    run_folder = settings.folder
    occupied = run_folder.exists() and (not run_folder.is_dir() or any(run_folder.iterdir()))
    is_run = (run_folder / "run.json").is_file()
    if occupied and not is_run:
        raise InputError(f"{run_folder} exists and is no run folder; give another --out")
    if occupied and not overwrite:
        raise InputError(
            f"{run_folder} already holds a run; go on with `steadyq resume {run_folder}`, or --overwrite it"
        )
    env = envs.make(settings.env, action_repeat=settings.resolved("action_repeat"))
    check_memory(settings, env.spec)
    how = choose_machine(settings)
    if occupied:
        shutil.rmtree(run_folder)
    run_folder.mkdir(parents=True, exist_ok=True)
    observations = [list(part) for part in env.spec.observations]
    record = Record(settings, env.spec.obs_dim, env.spec.action_dim, observations, [stretch(0, how)])
    write_record(run_folder, record)
    return go(run_folder, record, env)


def resume(run_folder: Path, *, frames: int | None = None, past_schedule: bool = False) -> Result:
    """Go on with a run from its newest checkpoint, on the same bits.

    Args:
        run_folder: where the run is.
        frames: a new total length; longer than what is done.
        past_schedule: go beyond the end of the recipe's learning-rate schedule, at its last rate.

    Raises:
        InputError: no run folder, or a length that lies behind what is done.
    """
    record = read_record(run_folder)
    settings = record.settings
    done = newest_common_frame(run_folder, settings)
    if frames is not None:
        settings = replace(settings, frames=frames)
        check(settings)
        if frames < done:
            raise InputError(f"--frames is {frames}; this run has done {done} already, give more")
        planned, wanted = settings.options.get("schedule_updates"), settings.updates(settings.agent_steps)
        if planned is not None and wanted > planned and not past_schedule:
            raise InputError(
                f"--frames is {frames}, {wanted:,} updates; the learning rate of this run falls over {planned:,}, "
                f"which cannot be stretched: start a longer run, or add --past-schedule to go on at the last rate"
            )
    env = envs.make(settings.env, action_repeat=settings.resolved("action_repeat"))
    check_memory(settings, env.spec)
    before = record.stretches[-1]
    now = stretch(done, {key: before[key] for key in ("precision", "compiled", "device", "threads", "products")})
    if now["device"] == "cuda" and not torch.cuda.is_available():
        raise InputError(f"{run_folder} was trained on a GPU and there is none here; resume it where there is one")
    record = record._replace(settings=settings, stretches=[*record.stretches, now])
    write_record(run_folder, record)
    return go(run_folder, record, env)


def newest_common_frame(run_folder: Path, settings: Settings) -> int:
    """The newest frame at which every seed has a checkpoint; 0 before the first."""
    common = set.intersection(*(set(checkpoint.frames(seed_folder(run_folder, seed))) for seed in settings.seeds))
    return max(common, default=0)


def check_memory(settings: Settings, spec: Spec) -> None:
    """InputError if the transitions that this run will keep do not fit."""
    kept = min(settings.resolved("buffer_size"), settings.agent_steps)
    Replay.check_memory(kept, spec.obs_dim, spec.action_dim, seeds=len(settings.seeds))


def choose_machine(settings: Settings) -> dict[str, Any]:
    """What `auto` means here: precision, compilation, device and threads of this run."""
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device is cuda and PyTorch sees no GPU here; give cpu, or install a CUDA build of PyTorch")
    compiled = settings.compile == "on"
    if settings.compile != "off" and device == "cpu":
        trial = compiler.works()
        if settings.compile == "on" and not trial.ok:
            raise InputError(f"--compile is on and there is no working C++ compiler: {trial.reason}; {trial.fix}")
        compiled = trial.ok
        if not trial.ok:
            print(f"not compiling, which is slower: {trial.reason}; {trial.fix}")
    elif settings.compile == "auto":
        compiled = True  # on a GPU, PyTorch brings the compiler
    return {
        "precision": "float32" if settings.precision == "auto" else settings.precision,
        "compiled": compiled,
        "device": device,
        "threads": settings.threads or machine.usable_cores(),
        "products": machine.products(),
    }


def stretch(frame: int, how: Mapping[str, Any]) -> dict[str, Any]:
    """How the frames from this one on are run, for run.json."""
    return {
        "from_frame": frame,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **how,
        "commit": machine.commit(),
        "versions": machine.versions(),
        "machine": machine.facts(),
    }


def go(run_folder: Path, record: Record, env: Env) -> Result:
    """Run the loop from the newest checkpoint, or from the beginning if there is none."""
    settings, how = record.settings, record.stretches[-1]
    torch.set_num_threads(how["threads"])
    machine.keep_freed_memory()
    repeat = settings.resolved("action_repeat")
    with Stop() as stop:  # from here on a signal means: save and go
        replays = [
            Replay(
                capacity=min(settings.resolved("buffer_size"), settings.agent_steps),
                obs_dim=record.obs_dim,
                action_dim=record.action_dim,
            )
            for _ in settings.seeds
        ]
        frame = newest_common_frame(run_folder, settings)
        saved = [
            checkpoint.load(seed_folder(run_folder, seed), frame, replay=replay)
            for seed, replay in zip(settings.seeds, replays, strict=True)
            if frame
        ]
        offset = saved[0].meta["metrics_offset"] if saved else None
        if not saved:
            forget(run_folder)
        logger = logs.Logger(
            run_folder,
            exp_name=settings.resolved("name"),
            env_name=settings.env,
            seeds=settings.seeds,
            resume_at=offset,
        )
        view = watch.view(
            exp_name=settings.resolved("name"),
            env_name=settings.env,
            seeds=settings.seeds,
            frames=settings.frames,
            start=frame,
            earlier=logs.read(run_folder / logs.FILE) if saved else (),
        )
        agent = agent_of(record, precision=how["precision"])
        streams = [EpisodeStream(envs.make(settings.env, action_repeat=repeat), seed=seed) for seed in settings.seeds]
        learner = Learner(
            agent,
            [agent.init(generator(seed, Purpose.INIT)) for seed in settings.seeds],
            device=torch.device(how["device"]),
            compiled=how["compiled"],
            products=how["products"],
        )
        learner.compile_ahead(
            batch_size=settings.resolved("batch_size"), obs_dim=record.obs_dim, action_dim=record.action_dim
        )
        run = Run(
            settings=settings,
            folder=run_folder,
            agent=agent,
            learner=learner,
            seeds=[Seed(*parts) for parts in zip(settings.seeds, streams, replays, strict=True)],
            evaluation_env=env,
            logger=logger,
            view=view,
            recipe=make_recipe(settings.recipe, settings.options),
            examiner=examiner(settings) if settings.diagnose_every else None,
        )
        view.message(opening(record, frame))
        if changed := differences(record):
            view.message(f"not to the bit, perhaps: since the run was begun, {changed}")
        try:
            for one in run.seeds:
                if not saved:
                    one.replay.start(one.stream.obs)
            if saved and (inexact := restore(run, saved)):
                view.message(
                    f"{settings.env} did not repeat its episode: "
                    f"seeds {inexact} resume at the episode boundary, not exactly"
                )
            finished = loop(run, stop)
        finally:
            view.close()
            logger.close()
    close(run)
    return Result(run_folder, finished, run.frame)


def forget(run_folder: Path) -> None:
    """Remove what a run left that died before its first checkpoint: it starts again from its seed."""
    (run_folder / logs.FILE).unlink(missing_ok=True)
    for leftover in (*run_folder.glob("seed-*"), run_folder / "tensorboard"):
        shutil.rmtree(leftover, ignore_errors=True)


def opening(record: Record, frame: int) -> str:
    """The first line: what runs, and what `auto` chose."""
    settings, how = record.settings, record.stretches[-1]
    return (
        f"{settings.name} on {settings.env}, seeds {' '.join(map(str, settings.seeds))}: "
        f"frames {frame:,} to {settings.frames:,}, UTD {settings.utd}, {how['precision']}, "
        f"{'compiled' if how['compiled'] else 'not compiled'}, {how['device']}, {how['threads']} threads"
    )


def differences(record: Record) -> str:
    """What is another here than when the run was begun, of the things that bits depend on; "" if nothing is."""
    first, now = record.stretches[0], record.stretches[-1]
    then, here = (
        {key: stretch["machine"].get(key) for key in ("cpu", "cpu_capability")} | stretch["versions"]
        for stretch in (first, now)
    )
    return ", ".join(f"{key} {then.get(key)} became {here.get(key)}" for key in here if then.get(key) != here[key])


def close(run: Run) -> None:
    """Let the environments go."""
    run.evaluation_env.close()
    if run.examiner:
        run.examiner.env.close()
    for one in run.seeds:
        one.stream.close()
