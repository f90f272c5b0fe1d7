"""What every command shares: a parser whose complaints are one clear sentence, and the exit codes."""

import argparse
from typing import NoReturn

from steadyq.errors import InputError, unknown

DONE, FAILED, REFUSED, STOPPED = 0, 1, 2, 75


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one clear sentence."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see `{self.prog} --help`")


def parse(parser: Parser, arguments: list[str], *, recipe: str | None = None) -> argparse.Namespace:
    """Parse all of the arguments; an unknown option is named with its nearest neighbours, or with its own recipes."""
    values, left = parser.parse_known_args(arguments)
    if left:
        if left[0].startswith("--"):
            got, known = left[0].split("=")[0], parser._option_string_actions
            if recipe is not None:
                from steadyq.algorithm.options import stranger

                raise stranger(recipe, got, known)
            raise unknown("option", got, known, see=f"{parser.prog} --help")
        raise InputError(f"did not expect {left[0]!r}; see `{parser.prog} --help`")
    return values


def frame(text: str) -> int:
    """The `type=` of an option that takes a frame: 20000, 1e6 or 200k."""
    from steadyq.algorithm import ranges  # not every command has such an option

    found = ranges.read(text, int)
    if not isinstance(found, int) or not ranges.AT_LEAST_0.holds(found):
        raise argparse.ArgumentTypeError(f"{text!r} is not a frame, such as 20000, 1e6 or 200k")
    return found


def add_trust(parser: Parser) -> None:
    """Whether a run folder may name code to run."""
    parser.add_argument("--trust", action="store_true", help="run the code that the run's environment names")
