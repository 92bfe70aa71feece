"""SIGINT and SIGTERM: a change stops between two steps, everything else at once.

A second signal always stops at once. Nothing is lost then either, but a command may be cut in
its middle, and the next run has more to put right.
"""

import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import Any

from stack.errors import Interrupted


class _State:
    """Signals arrive for the process as a whole, so there is one of these."""

    waits = False
    pending: int | None = None


def install() -> None:
    """Turn both signals into Interrupted."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _handle)


@contextlib.contextmanager
def between_steps() -> Iterator[None]:
    """Inside, a signal is kept until `check`."""
    _State.waits, _State.pending = True, None
    try:
        yield
    finally:
        _State.waits = False


@contextlib.contextmanager
def at_once(allowed: bool) -> Iterator[None]:
    """Inside, a signal takes effect at once again, if `allowed`; one that is kept, before it."""
    if allowed:
        check()
    before, _State.waits = _State.waits, _State.waits and not allowed
    try:
        yield
    finally:
        _State.waits = before


def check() -> None:
    """Raise Interrupted if a signal has come since."""
    if _State.pending is not None:
        number, _State.pending = _State.pending, None
        raise Interrupted(number)


def _handle(number: int, _frame: Any) -> None:
    if _State.waits and _State.pending is None:
        _State.pending = number
        with contextlib.suppress(OSError, RuntimeError):
            sys.stderr.write("\nstack: stopping after this step; once more to stop at once\n")
        return
    # Another one ends the process, whatever it is doing.
    signal.signal(number, signal.SIG_DFL)
    raise Interrupted(number, in_a_hurry=_State.pending is not None)
