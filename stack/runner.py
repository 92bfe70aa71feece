"""The only place that starts a process."""

import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, TYPE_CHECKING, NoReturn

from stack.errors import CommandFailed, EngineUnavailable, NoAnswer

if TYPE_CHECKING:
    from stack.plan import Command, Output, Pipeline

TERMINATE_GRACE_S = 1.5


def run(command: "Command", *, stream: bool = False) -> str:
    """Run a step's command and return what it printed; with `stream`, print it as it comes.

    Raises CommandFailed with the last of its output when it fails or takes longer than it may.
    """
    feeders = _feeders(command.feed)
    process = subprocess.Popen(
        command.argv,
        stdin=_stdin(command, feeders),
        stdout=None if stream else subprocess.PIPE,
        stderr=None if stream else subprocess.STDOUT,
        env={**os.environ, **{name: _value(value) for name, value in command.env}},
        # Ctrl-C goes to all of a group: whether this command ends, too, is for us to say.
        process_group=0,
        text=True,
        errors="replace",
        # The lock goes with it: should we be killed, it is held until this command has ended.
        close_fds=False,
    )
    for feeder in feeders:
        if feeder.stdout:
            feeder.stdout.close()
    try:
        output, _ = process.communicate(command.text_in or None, timeout=command.timeout_s)
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
        for feeder in feeders:
            feeder.wait()
    if process.returncode:
        raise CommandFailed(command.text(), process.returncode, output or "")
    for feeder, argv in zip(feeders, command.feed, strict=True):
        if feeder.returncode:
            raise CommandFailed(command.text(), feeder.returncode, f"{argv[0]} failed")
    return output or ""


class Reading:
    """A command that only looks, begun at once; `result()` waits for what it printed.

    Raises EngineUnavailable where the command does not exist.
    """

    def __init__(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, text_in: str = ""
    ) -> None:
        self._argv = argv
        self._text_in = text_in
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE if text_in else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **(env or {})},
                process_group=0,
                text=True,
                errors="replace",
            )
        except FileNotFoundError:
            raise EngineUnavailable(f"{argv[0]} is not installed. Run: make up") from None

    def result(self, *, timeout_s: float = 30) -> str:
        """The command's standard output.

        Raises CommandFailed with its standard error, NoAnswer if it takes too long.
        """
        try:
            output, errors = self._process.communicate(self._text_in or None, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            _end(self._process)
            raise NoAnswer(
                f"no answer within {timeout_s:.0f} s from: {shlex.join(self._argv)}. "
                "Is the engine hanging?"
            ) from None
        if self._process.returncode:
            raise CommandFailed(shlex.join(self._argv), self._process.returncode, errors)
        return output

    def end(self) -> None:
        """End it, if it has not ended: nobody wants to know any more."""
        if self._process.poll() is None:
            _end(self._process)


def read(argv: Sequence[str]) -> str:
    """Run a command that only looks, and return its standard output; raises as Reading does."""
    return Reading(argv).result()


class Pipe:
    """A command whose standard input and output are one socket, for a protocol over both. It
    ends when the socket is closed.

    Raises EngineUnavailable where the command does not exist.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self.socket, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    argv,
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=subprocess.PIPE,
                    process_group=0,
                )
            except FileNotFoundError:
                raise EngineUnavailable(f"{argv[0]} is not installed. Run: make up") from None

    def complaint(self) -> str:
        """What the command wrote on standard error, once it has ended."""
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:
            return ""
        errors = self._process.stderr
        return errors.read().decode(errors="replace") if errors else ""


def dial_engine() -> Pipe:
    """A connection to the engine's API: see stack/engines/engine_api.py."""
    return Pipe(("docker", "system", "dial-stdio"))


def become(argv: Sequence[str]) -> NoReturn:
    """Replace this process by a command that talks to the user itself."""
    # Python ignores SIGPIPE, and that would be inherited: `stack logs | head` would never end.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execvp(argv[0], list(argv))


def _stdin(command: "Command", feeders: Sequence[subprocess.Popen[bytes]]) -> IO[bytes] | int:
    if feeders and feeders[-1].stdout:
        return feeders[-1].stdout
    return subprocess.PIPE if command.text_in else subprocess.DEVNULL


def _feeders(pipeline: "Pipeline") -> list[subprocess.Popen[bytes]]:
    """Start these commands, each reading what the one before it prints."""
    feeders: list[subprocess.Popen[bytes]] = []
    for argv in pipeline:
        stdin = feeders[-1].stdout if feeders else subprocess.DEVNULL
        feeder = subprocess.Popen(argv, stdin=stdin, stdout=subprocess.PIPE, process_group=0)
        feeders.append(feeder)
    return feeders


def _value(value: "str | Output") -> str:
    if isinstance(value, str):
        return value
    feeders = _feeders(value.pipeline)
    output, _ = feeders[-1].communicate()
    for feeder, argv in zip(feeders, value.pipeline, strict=True):
        if feeder.stdout:
            feeder.stdout.close()
        if feeder.wait():
            raise CommandFailed(value.text(), feeder.returncode, f"{argv[0]} failed")
    return output.decode().rstrip("\n")


def _end(process: subprocess.Popen[str]) -> str:
    process.terminate()
    try:
        return process.communicate(timeout=TERMINATE_GRACE_S)[0] or ""
    except subprocess.TimeoutExpired:
        # With all that it has started: a plugin of `docker` would go on, and hold the pipe open.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[0] or ""
