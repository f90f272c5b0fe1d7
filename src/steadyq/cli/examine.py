"""`steadyq evaluate` and `steadyq diagnose`: what a trained policy is worth."""

from pathlib import Path

from steadyq.cli.parser import DONE, Parser, add_trust, frame, parse


def evaluate(parser: Parser, arguments: list[str]) -> int:
    """`steadyq evaluate RUN_DIR ...`."""
    parser.add_argument("run", metavar="RUN_DIR", type=Path, help="folder of the run")
    parser.add_argument("--seed", type=int, help="which of the run's agents [the first]")
    parser.add_argument("--checkpoint", default="last", metavar="last|best|FRAME", help="which weights [last]")
    parser.add_argument("--episodes", type=int, default=10, help="how many [10]")
    add_trust(parser)
    parser.add_argument("--video", type=Path, metavar="FILE.mp4", help="record a typical episode")
    parser.add_argument(
        "--film-strip", type=Path, metavar="FILE.png", help="pictures of a typical episode, side by side"
    )
    values = parse(parser, arguments)

    from steadyq.examine.evaluate import evaluate

    evaluate(**vars(values))
    return DONE


def diagnose(parser: Parser, arguments: list[str]) -> int:
    """`steadyq diagnose RUN_DIR ...`."""
    parser.epilog = "Everything goes into RUN_DIR/diagnostics.csv; docs/diagnostics.md explains it."
    parser.add_argument("run", metavar="RUN_DIR", type=Path, help="folder of the run")
    parser.add_argument("--seed", type=int, help="which of the run's agents [all]")
    parser.add_argument("--frames", type=frame, nargs="+", metavar="FRAME", help="which snapshots [all]")
    parser.add_argument("--episodes", type=int, help="roll-outs for Q-bias [as many as give 1,000 pairs, at least 3]")
    add_trust(parser)
    values = parse(parser, arguments)

    from steadyq.examine import snapshots

    snapshots.diagnose(**vars(values))
    return DONE
