"""`steadyq export` and `pack`: a trained policy as a file for a robot, and what is worth sharing of a run."""

import contextlib
import io
import sys
from pathlib import Path

from steadyq.cli.parser import DONE, Parser, add_trust, parse
from steadyq.errors import InputError
from steadyq.output import say


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


def pack(parser: Parser, arguments: list[str]) -> int:
    """`steadyq pack RUN_DIR out.zip ...`."""
    parser.epilog = "`steadyq.load_policy` and `steadyq compare` read it as it is; docs/deploy.md has what is in it."
    parser.add_argument("run", metavar="RUN_DIR", type=Path, help="folder of the run")
    parser.add_argument("file", metavar="FILE.zip", type=Path, help="the file to write")
    parser.add_argument("--seed", type=int, help="which of the run's agents [all of them]")
    parser.add_argument("--checkpoint", default="last", metavar="last|best|FRAME", help="which weights [last]")
    add_trust(parser)
    values = parse(parser, arguments)

    from steadyq.deploy import pack
    from steadyq.examine.evaluate import evaluate
    from steadyq.figures.learning_curve import write_learning_curve
    from steadyq.store.record import read_record

    def film(path: Path) -> None:
        if read_record(values.run).settings.single_env:
            raise InputError("the run has a single environment, which may be a robot; `steadyq evaluate` films it")
        with contextlib.redirect_stdout(io.StringIO()):
            evaluate(
                values.run,
                seed=values.seed,
                checkpoint=values.checkpoint,
                episodes=1,
                film_strip=path,
                trust=values.trust,
            )

    pictures = {"learning_curve.png": lambda path: write_learning_curve(values.run, path), "film_strip.png": film}
    left_out = pack.pack(values.run, values.file, seed=values.seed, which=values.checkpoint, pictures=pictures)
    for sentence in left_out:
        say(f"steadyq: {sentence}", stream=sys.stderr)
    say(f"pack {values.file} ({values.file.stat().st_size / 1e6:.2f} MB)")
    return DONE
