"""The command line: reads arguments, asks the engine for a plan, shows it or runs it."""

import json
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from stack import __version__, runner
from stack.errors import EngineUnavailable, Interrupted, StackError, UsageError

# `ps` should not take much longer than `docker compose ps`, and most of that is importing. What
# it does not need is imported where it is used.
if TYPE_CHECKING:
    from stack.engines.compose import ComposeEngine
    from stack.plan import Plan

WATCH_S = 1.0
MAX_REPLICAS = 100


@dataclass(frozen=True)
class Options:
    """What stands before the verb."""

    engine: "ComposeEngine"
    explain: bool
    debug: bool
    lock_wait_s: float


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-p", "--project", metavar="NAME", help="Project name, instead of the Compose file's."
)
@click.option("--explain", is_flag=True, help="Print the plan as native commands; change nothing.")
@click.option("--debug", is_flag=True, help="Show what commands print, and tracebacks.")
@click.option(
    "--lock-wait",
    type=click.FloatRange(min=0),
    default=0,
    metavar="SECONDS",
    help="Wait this long for another run on the same project to end.",
)
@click.version_option(__version__, prog_name="stack")
@click.pass_context
def cli(
    context: click.Context, project: str | None, explain: bool, debug: bool, lock_wait: float
) -> None:
    """Run a Compose stack, and change it without losing a request."""
    if project is not None and not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", project):
        raise UsageError(
            f"{project!r} is no project name: those have lowercase letters, digits, - and _, and "
            "begin with a letter or digit"
        )
    # The connection to the engine is made while Python imports the rest. Where it cannot be, the
    # first who needs it says so: help needs none.
    begun = None
    with suppress(EngineUnavailable):
        begun = runner.dial_engine()
    from stack.engines.compose import ComposeEngine

    context.obj = Options(ComposeEngine(project, begun), explain, debug, lock_wait)


class Counts(click.ParamType[tuple[str, int]]):
    """SERVICE=N."""

    name = "SERVICE=N"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        service, separator, number = value.partition("=")
        if not separator or not service:
            self.fail(f"{value!r} is not SERVICE=N, such as web=3", param, ctx)
        if not (number.isascii() and number.isdecimal() and len(number) < 10):
            self.fail(f"{value!r}: the number of replicas must be a whole number", param, ctx)
        if int(number) > MAX_REPLICAS:
            self.fail(f"{value!r}: at most {MAX_REPLICAS} replicas on one machine", param, ctx)
        return service, int(number)


@cli.command()
@click.argument("counts", nargs=-1, type=Counts(), metavar="[SERVICE=N]...")
@click.option("--no-build", is_flag=True, help="Use images that are there; never build.")
@click.pass_obj
def up(options: Options, counts: tuple[tuple[str, int], ...], no_build: bool) -> None:
    """Build what has changed, start what is missing, send traffic to what is ready.

    A stack that is up to date is left alone. Numbers of replicas stay as they are where none is
    given.
    """
    wanted = _counts(options, counts, zero_allowed=False)
    from stack.engines import compose_verbs

    _change(options, lambda: compose_verbs.up(options.engine, wanted, build=not no_build))
    if not options.explain:
        click.echo(options.engine.url() or "up (no port is published)")


@cli.command()
@click.argument("counts", nargs=-1, required=True, type=Counts(), metavar="SERVICE=N...")
@click.option("--force", is_flag=True, help="Allow SERVICE=0, which nobody answers for.")
@click.pass_obj
def scale(options: Options, counts: tuple[tuple[str, int], ...], force: bool) -> None:
    """Change the number of replicas: new ones get traffic once ready, old ones are drained."""
    wanted = _counts(options, counts, zero_allowed=force)
    from stack.engines import compose_verbs

    _change(options, lambda: compose_verbs.scale(options.engine, wanted))


@cli.command()
@click.option("--volumes", is_flag=True, help="Also remove the volumes that hold data.")
@click.pass_obj
def down(options: Options, volumes: bool) -> None:
    """Stop and remove containers and networks."""
    from stack.engines import compose_verbs

    _change(options, lambda: compose_verbs.down(options.engine, with_volumes=volumes))


@cli.command()
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, a list with an object a replica."
)
@click.option("--watch", is_flag=True, help="Print again every second, until interrupted.")
@click.pass_obj
def ps(options: Options, as_json: bool, watch: bool) -> None:
    """Show every replica: revision, state, whether it gets traffic."""
    if options.explain:
        from stack.engines import compose_verbs

        _explain(compose_verbs.ps_commands(options.engine))
        return
    while True:
        text = _ps(options.engine, as_json=as_json)
        if watch and sys.stdout.isatty():
            click.clear()
        click.echo(text)
        if not watch:
            return
        time.sleep(WATCH_S)


@cli.command()
@click.argument("service", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on printing what comes.")
@click.pass_obj
def logs(options: Options, service: str | None, follow: bool) -> None:
    """Print what the containers wrote, of one service or of all."""
    from stack.engines import compose_verbs
    from stack.plan import Plan

    if service:
        _known(service, [known.name for known in options.engine.file.services])
    command = compose_verbs.logs_command(options.engine, service, follow=follow)
    if options.explain:
        _explain(Plan((command,)))
        return
    snapshot = options.engine.observe()
    if not snapshot.replicas:
        raise StackError(_nothing_there(snapshot.project))
    runner.become(command.argv)


@cli.command("doctor")
@click.pass_obj
def doctor_(options: Options) -> None:
    """Check what the stack needs: engine, Compose, base images, port, disk."""
    from stack import doctor
    from stack.plan import Plan

    if options.explain:
        _explain(Plan(tuple(doctor.COMMANDS)))
        return
    findings = doctor.examine(options.engine)
    click.echo(doctor.report(findings))
    worst = next((finding for finding in findings if finding.exit_code), None)
    if worst:
        raise SystemExit(worst.exit_code)


def main() -> None:
    """Run the command line, and turn every error into one message and an exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    debug = "--debug" in sys.argv[1:]
    try:
        program = _program()
        cli.main(_flags_first(sys.argv[1:]), prog_name=program, standalone_mode=False)
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
        _complain(_with_program(str(error)))
        sys.exit(error.exit_code)
    except Exception as error:  # the one handler: a traceback is for those who ask for it
        if debug:
            raise
        _complain(f"unexpected {type(error).__name__}: {error}. Run again with --debug for more")
        sys.exit(1)


def _change(options: Options, make_plan: Callable[[], "Plan"]) -> None:
    from stack import lock
    from stack.execute import execute
    from stack.progress import Progress

    engine = options.engine
    if options.explain:
        _explain(make_plan())
        return
    path = lock.lock_path(engine.project, engine.api.info()["ID"])
    with lock.held(path, verb=lock.described(sys.argv[1:]), wait_s=options.lock_wait_s):
        plan = make_plan()
        for note in plan.notes:
            click.echo(f"note: {note}", err=True)
        if not plan.steps:
            click.echo(f"Nothing to do: {plan.outcome}.", err=True)
            return
        execute(plan, engine.observe, Progress(debug=options.debug))


def _explain(plan: "Plan") -> None:
    for line in plan.lines():
        click.echo(line)


def _counts(
    options: Options, counts: tuple[tuple[str, int], ...], *, zero_allowed: bool
) -> dict[str, int]:
    """Check the SERVICE=N arguments against the Compose file.

    Raises UsageError for a service that is unknown, named twice, or cannot be scaled.
    """
    services = {service.name: service for service in options.engine.file.services}
    wanted: dict[str, int] = {}
    for name, number in counts:
        _known(name, list(services))
        if name in wanted:
            raise UsageError(f"{name} is given twice")
        if services[name].is_fixed:
            raise UsageError(
                f"{name} cannot be scaled: it publishes a port or has a fixed container name, "
                "which only one container can have"
            )
        if number == 0 and not zero_allowed:
            raise UsageError(
                f"{name}=0 would leave nobody to answer. If that is what you want: "
                f"python -m stack scale --force {name}=0"
            )
        wanted[name] = number
    return wanted


def _known(name: str, names: list[str]) -> None:
    if name not in names:
        from difflib import get_close_matches

        near = get_close_matches(name, names, n=1)
        raise UsageError(
            f"there is no service {name!r}."
            + (f" Did you mean {near[0]}?" if near else "")
            + f" The Compose file has: {', '.join(sorted(names)) or 'none'}"
        )


def _ps(engine: "ComposeEngine", *, as_json: bool) -> str:
    from stack import show

    snapshot = engine.observe()
    records = show.rows(snapshot, engine.api.memory_bytes(snapshot.replicas))
    if as_json:
        return json.dumps(records, indent=2)
    if not records:
        return _with_program(_nothing_there(snapshot.project))
    return "\n".join([show.table(records), *(f"drift: {line}" for line in show.drift(snapshot))])


def _nothing_there(project: str) -> str:
    return f"Nothing of project {project} is there. Start it: python -m stack up"


def _flags_first(arguments: list[str]) -> list[str]:
    """Let --explain and --debug stand after the verb too, where most people type them."""
    flags = [word for word in arguments if word in ("--explain", "--debug")]
    return flags + [word for word in arguments if word not in flags]


def _program() -> str:
    return "python -m stack" if sys.argv[0].endswith("__main__.py") else "stack"


def _with_program(message: str) -> str:
    """What a message tells to type, with this run's program and project."""
    given = re.search(r" (?:-p ?|--project[= ])(\S+)", " " + " ".join(sys.argv[1:]))
    name = _program() + (f" -p {given[1]}" if given else "")
    return message.replace("python -m stack", name)


def _interrupt(number: int, _frame: Any) -> None:
    # The second one ends the process at once, whatever it is doing.
    signal.signal(number, signal.SIG_DFL)
    raise Interrupted(number)


def _complain(message: str) -> None:
    with suppress(BrokenPipeError):
        click.echo(f"stack: {message}", err=True)
