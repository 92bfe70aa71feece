"""The program: runs the command line, and turns every error into one message and an exit code."""

import os
import re
import signal
import sys
import traceback
from contextlib import suppress

import click

from stack import signals
from stack.errors import StackError


def main() -> None:
    """Run the command line, and turn every error into one message and an exit code."""
    signals.install()
    debug = "--debug" in sys.argv[1:]
    try:
        from stack.cli import cli

        cli.main(_flags_first(sys.argv[1:]), prog_name=_program(), standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        _complain(error.format_message())
        sys.exit(2)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output has gone (`ps | head`): nobody is left to be told anything.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except StackError as error:
        if debug:
            traceback.print_exc()
        _complain(with_program(str(error)))
        sys.exit(error.exit_code)
    except Exception as error:  # the one handler: a traceback is for those who ask for it
        if debug:
            raise
        _complain(f"unexpected {type(error).__name__}: {error}. Run again with --debug for more")
        sys.exit(1)


def _flags_first(arguments: list[str]) -> list[str]:
    """Let --explain and --debug stand after the verb too, where most people type them."""
    flags = [word for word in arguments if word in ("--explain", "--debug")]
    return flags + [word for word in arguments if word not in flags]


def _program() -> str:
    return "python -m stack" if sys.argv[0].endswith("__main__.py") else "stack"


def with_program(message: str) -> str:
    """What a message tells to type, with this run's program and project."""
    given = re.search(r" (?:-p ?|--project[= ])(\S+)", " " + " ".join(sys.argv[1:]))
    name = _program() + (f" -p {given[1]}" if given else "")
    return message.replace("python -m stack", name)


def _complain(message: str) -> None:
    with suppress(BrokenPipeError):
        click.echo(f"stack: {message}", err=True)
