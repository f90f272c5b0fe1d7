"""`steadyq export`: a trained policy as a file for a robot."""

from pathlib import Path

from steadyq.cli.parser import DONE, Parser, parse


def export(parser: Parser, arguments: list[str]) -> int:
    """`steadyq export RUN_DIR policy.onnx ...`."""
    parser.epilog = "Observations in, actions out, both in the environment's own units; docs/deploy.md has the formats."
    parser.add_argument("run", metavar="RUN_DIR", type=Path, help="folder of the run")
    parser.add_argument("onnx", metavar="FILE.onnx", type=Path, nargs="?", help="write it as ONNX (extra `onnx`)")
    parser.add_argument("--numpy", metavar="FILE.npz", type=Path, help="write it for a robot that has NumPy alone")
    parser.add_argument("--seed", type=int, help="which of the run's agents [the first]")
    parser.add_argument("--checkpoint", default="last", metavar="last|best|FRAME", help="which weights [last]")
    parser.add_argument("--time", action="store_true", help="print how long one observation takes in each form")
    values = parse(parser, arguments)

    from steadyq.deploy import export

    export.export(
        values.run,
        onnx=values.onnx,
        numpy=values.numpy,
        seed=values.seed,
        which=values.checkpoint,
        timed=values.time,
    )
    return DONE
