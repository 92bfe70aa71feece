"""Show a plan while it runs: a spinner on a terminal, plain lines everywhere else."""

import contextlib
import sys
import time
from collections.abc import Iterator

import click

from stack.plan import Step


class Progress:
    """Reports steps on stderr; stdout is for results. `debug`: commands print for themselves."""

    def __init__(self, *, debug: bool) -> None:
        self.debug = debug
        self._live = sys.stderr.isatty() and not debug

    @contextlib.contextmanager
    def step(self, number: int, total: int, step: Step) -> Iterator[None]:
        """Around a step: says what and why before, and how long it took after."""
        started = time.monotonic()
        head = f"[{number}/{total}] {step.why}"
        with self._while_running(head, step):
            yield
        took = f"{time.monotonic() - started:.1f} s"
        if self._live:
            _say(f"{head}  {took}")
            _say(f"      {_first_line(step)}", dim=True)
        else:
            _say(f"      done in {took}")

    def tell(self, output: str) -> None:
        """Pass on what a command printed for the user."""
        for line in output.splitlines():
            _say(f"      {line}")

    @contextlib.contextmanager
    def _while_running(self, head: str, step: Step) -> Iterator[None]:
        if not self._live:
            _say(f"{head}\n      {_first_line(step)}")
            yield
            return
        # Only here: importing it takes as long as a whole `ps`.
        from rich.console import Console
        from rich.markup import escape

        with Console(stderr=True).status(escape(head)):
            yield


def _first_line(step: Step) -> str:
    first, more, _ = step.text().partition("\n")
    return f"{first} ..." if more else first


def _say(text: str, *, dim: bool = False) -> None:
    # A reader that has gone (`2>&1 | head -n 1`) must not end a change half-way.
    with contextlib.suppress(BrokenPipeError):
        click.secho(text, err=True, dim=dim)
