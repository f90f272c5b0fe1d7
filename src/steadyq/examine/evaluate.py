"""A trained policy shown to a person: returns over fresh episodes, a video, a film strip."""

from contextlib import closing
from pathlib import Path

from steadyq import output
from steadyq.algorithm.random import Purpose, episode_seed
from steadyq.algorithm.ranges import COUNT, checked
from steadyq.envs import film, guard
from steadyq.envs.source import Source
from steadyq.errors import InputError
from steadyq.examine.play import Episode, endless, mean_action, play, summarise
from steadyq.store.names import EVALUATION, EVALUATION_STD
from steadyq.store.record import check_spaces, check_trust, read_record
from steadyq.store.snapshot import agent_of, load_state


def evaluate(
    run: Path | str,
    *,
    seed: int | None = None,
    checkpoint: str | int = "last",
    episodes: int = 10,
    video: Path | str | None = None,
    film_strip: Path | str | None = None,
    trust: bool = False,
    env: Source | None = None,
) -> list[Episode]:
    """Play episodes with a run's policy and print their returns.

    Args:
        run: the run folder.
        seed: which of its agents; the first if None.
        checkpoint: `last`, `best` evaluation, or the frame of an evaluation.
        episodes: how many; their starts are other ones than those of training and evaluation.
        video: an MP4 of a typical episode: the one whose return is nearest the mean.
        film_strip: a PNG of moments of that episode, side by side.
        trust: run the code that the run's environment names.
        env: the environment again, if the run was given it as an object of Python.

    Returns:
        The episodes, each with its return (`ret`) and `length` in agent steps.

    Raises:
        InputError: no such run, seed or checkpoint, no episode to play, or a picture that cannot be written.
        RunError: the environment failed, or gave numbers that are not finite.
    """
    episodes = checked("episodes", episodes, int, COUNT)
    run, video, film_strip = Path(run), video and Path(video), film_strip and Path(film_strip)
    for path, ending in ((video, ".mp4"), (film_strip, ".png")):
        if path:
            if path.suffix.lower() != ending:
                raise InputError(f"{path} cannot be written; give a file ending in {ending}")
            output.check(path)
    record = read_record(run)
    check_trust(record, trust=trust)
    settings = record.settings
    seed = settings.seeds[0] if seed is None else seed
    state, frame = load_state(run, record, seed=seed, which=str(checkpoint))
    act = mean_action(agent_of(record), state)
    with closing(guard.of_run(settings, env, pictures=bool(video or film_strip))) as made:
        check_spaces(record, made.spec.spaces)
        starts = [episode_seed(seed, Purpose.SHOW, number) for number in range(episodes)]
        played = []
        for number, start in enumerate(starts):
            played.append(play(made, act, seed=start))
            cut = ", cut off there: it may have no end" if endless(played[-1], made) else ""
            print(f"episode {number + 1}: return {played[-1].ret:.1f}, {played[-1].length} agent steps{cut}")
        mean, std = (summarise(played)[name] for name in (EVALUATION, EVALUATION_STD))
        output.say(f"{settings.name} on {settings.env}, seed {seed}, frame {frame:,}: return {mean:.1f} +- {std:.1f}")
        if video or film_strip:
            typical = min(range(episodes), key=lambda number: abs(played[number].ret - mean))
            every = 1 if video else max(1, played[typical].length // 32)  # a film strip needs a few moments only
            frames, _ = film.record(made, act, seed=starts[typical], every=every)  # played again: it is known only now
            fps = film.frames_per_second(made.spec, every=every)
            if video:
                film.video(frames, video, fps=fps)
                output.say(f"video      {video}")
            if film_strip:
                title = f"{settings.name} on {settings.env} after {frame:,} frames: return {played[typical].ret:.0f}"
                film.film_strip(frames, film_strip, fps=fps, title=title)
                output.say(f"film strip {film_strip}")
    return played
