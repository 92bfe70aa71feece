"""The program: runs the command line, and turns every error into one message and an exit code."""

import itertools
import os
import re
import signal
import sys
import traceback
from contextlib import suppress

import click

from stack import signals
from stack.errors import Interrupted, NotPermitted, StackError


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
    except (StackError, Interrupted) as error:
        if debug:
            traceback.print_exc()
        _complain(with_program(str(error)))
        sys.exit(error.exit_code)
    except PermissionError as error:
        if debug:
            raise
        _complain(f"{error.filename}: {error.strerror}")
        sys.exit(NotPermitted.exit_code)
    except Exception as error:  # the one handler: a traceback is for those who ask for it
        if debug:
            raise
        _complain(f"unexpected {type(error).__name__}: {error}. Run again with --debug for more")
        sys.exit(1)


def _flags_first(arguments: list[str]) -> list[str]:
    """Let what is for every verb stand after the verb too, where most people type it.

    >>> _flags_first(["push", "web", "--registry", "localhost:5000", "--explain"])
    ['--registry', 'localhost:5000', '--explain', 'push', 'web']
    """
    flags, rest = [], []
    words = iter(arguments)
    for word in words:
        if word in ("--explain", "--debug") or word.startswith(("--engine=", "--registry=")):
            flags.append(word)
        elif word in ("--engine", "--registry"):
            flags += [word, *itertools.islice(words, 1)]
        else:
            rest.append(word)
    return flags + rest


def _program() -> str:
    return "python -m stack" if sys.argv[0].endswith("__main__.py") else "stack"


def with_program(message: str) -> str:
    """What a message tells to type, with this run's program, project and engine."""
    given = " " + " ".join(sys.argv[1:])
    project = re.search(r" (?:-p ?|--project[= ])(\S+)", given)
    engine = re.search(r" --engine[= ](\S+)", given)
    name = _program() + (f" -p {project[1]}" if project else "")
    if engine and "python -m stack --engine" not in message:
        name += f" --engine {engine[1]}"
    return message.replace("python -m stack", name)


def _complain(message: str) -> None:
    # What is quoted may hold what a terminal would obey.
    harmless = "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in message)
    with suppress(BrokenPipeError):
        click.echo(f"stack: {harmless}", err=True)
