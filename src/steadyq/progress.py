"""What a command is doing, on standard error: one line that changes on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from steadyq.output import safe
from steadyq.output import say as say_safely

EVERY = 5.0  # seconds between two lines where the output is not a terminal


@contextmanager
def shown(*, every: float = EVERY) -> Iterator[Callable[[str], None]]:
    """Gives a function that takes what is being done.

    Args:
        every: seconds between two lines where the output is not a terminal; 0 prints each at once.
    """
    console = Console(file=sys.stderr, highlight=False)
    if console.is_terminal:
        with console.status("") as status:
            yield lambda text: status.update(Text(safe(text)))
        return
    last = time.monotonic()

    def say(text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= every:
            last = time.monotonic()
            say_safely(text, stream=sys.stderr)

    yield say
