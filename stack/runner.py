"""The only place that starts a process."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import NoReturn

from stack.errors import CommandFailed, EngineUnavailable
from stack.plan import Command

TERMINATE_GRACE_S = 1.5


def run(command: Command, *, stream: bool = False) -> str:
    """Run a step's command and return what it printed; with `stream`, print it as it comes.

    Raises CommandFailed with the last of its output when it fails or takes longer than it may.
    """
    feeder = None
    if command.feed:
        feeder = subprocess.Popen(command.feed, stdout=subprocess.PIPE)
    process = subprocess.Popen(
        command.argv,
        stdin=feeder.stdout if feeder else subprocess.DEVNULL,
        stdout=None if stream else subprocess.PIPE,
        stderr=None if stream else subprocess.STDOUT,
        env={**os.environ, **dict(command.env)},
        text=True,
        errors="replace",
    )
    if feeder and feeder.stdout:
        feeder.stdout.close()
    try:
        output, _ = process.communicate(timeout=command.timeout_s)
    except subprocess.TimeoutExpired:
        output = _end(process)
        raise CommandFailed(
            command.text(), 1, f"{output}\n(no end after {command.timeout_s:.0f} s)"
        ) from None
    except BaseException:
        # A signal's handler raised: the child must not go on behind our back.
        _end(process)
        raise
    finally:
        if feeder:
            feeder.wait()
    if process.returncode:
        raise CommandFailed(command.text(), process.returncode, output or "")
    return output or ""


def read(argv: Sequence[str], *, env: Mapping[str, str] | None = None, timeout_s: float = 30) -> str:
    """Run a command that only looks, and return its standard output.

    Raises CommandFailed with its standard error, EngineUnavailable where it does not exist.
    """
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env={**os.environ, **(env or {})},
            check=False,
        )
    except FileNotFoundError:
        raise EngineUnavailable(f"{argv[0]} is not installed. Run: make up") from None
    except subprocess.TimeoutExpired:
        raise EngineUnavailable(
            f"no answer within {timeout_s:.0f} s from: {' '.join(argv)}. Is the engine hanging?"
        ) from None
    if done.returncode:
        raise CommandFailed(" ".join(argv), done.returncode, done.stderr)
    return done.stdout


def become(argv: Sequence[str]) -> NoReturn:
    """Replace this process by a command that talks to the user itself."""
    # Python ignores SIGPIPE and that would be inherited: `stack logs | head` would never end.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execvp(argv[0], list(argv))


def _end(process: subprocess.Popen[str]) -> str:
    process.terminate()
    try:
        return process.communicate(timeout=TERMINATE_GRACE_S)[0] or ""
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[0] or ""
