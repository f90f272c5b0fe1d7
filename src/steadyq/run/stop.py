"""Stopping politely: a signal or the clock asks, the loop finishes its step, saves, and goes."""

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from steadyq.algorithm.ranges import read
from steadyq.errors import InputError, Stopped

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)]
"""Ctrl-C, what schedulers send before they take a machine away, and what a closing terminal sends."""


class Stop:
    """While entered, signals do not end the process but set `asked`; a second Ctrl-C ends it at once.

    Until `loop_begins`, a signal raises `Stopped` instead: everything is on the disk as it was.

    Args:
        max_minutes: after so long `asked` is set as well; None for never.
        clock: gives seconds since any moment; the run that is to be stopped goes by it too.
    """

    def __init__(self, *, max_minutes: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        minutes = read(max_minutes, float)
        if minutes is not None and not isinstance(minutes, float):
            raise InputError(f"max_minutes is {max_minutes}; give a number such as 55, or None for no limit")
        self.clock = clock
        self.loop_begins = False
        self._asked = False
        self._deadline = None if minutes is None else clock() + 60 * minutes
        self._before: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether it is time to save and go."""
        return self._asked or (self._deadline is not None and self.clock() >= self._deadline)

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            for number in SIGNALS:
                if number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) == signal.SIG_IGN:
                    continue  # nohup's wish: go on without the terminal
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True
        if not self.loop_begins:
            raise Stopped
