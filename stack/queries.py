"""The verbs that only look: ps, revisions, logs, doctor."""

import json
import sys
import time
from typing import TYPE_CHECKING

import click

from stack import arguments, runner
from stack.arguments import Options, explain
from stack.errors import StackError

# See stack/cli.py: what is not needed for `ps` is imported where it is used.
if TYPE_CHECKING:
    from stack.engines import Engine

WATCH_S = 1.0
WIDTH = 160


@click.command()
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, a list with an object a replica."
)
@click.option("--watch", is_flag=True, help="Print again every second, until interrupted.")
@click.pass_obj
def ps(options: Options, as_json: bool, watch: bool) -> None:
    """Show every replica: revision, state, whether it gets traffic."""
    if options.explain:
        explain(options.engine.verbs.ps_commands())
        return
    while True:
        text = _ps(options.engine, as_json=as_json)
        if watch and sys.stdout.isatty():
            click.clear()
        click.echo(text)
        if not watch:
            return
        time.sleep(WATCH_S)


@click.command()
@click.pass_obj
def top(options: Options) -> None:
    """Watch replicas, traffic and the manager, until interrupted; once, without a terminal."""
    if options.explain:
        explain(options.engine.verbs.ps_commands())
        return
    from rich.console import Console
    from rich.live import Live

    from stack.top import Watch

    # A file or a pipe has no width.
    width = None if sys.stdout.isatty() else WIDTH
    watch, console = Watch(options.engine), Console(width=width)
    if not console.is_terminal:
        console.print(watch.look())
        return
    with Live(watch.look(), console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_S)
            live.update(watch.look(), refresh=True)


@click.command()
@click.argument("service", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a list with an object each.")
@click.pass_obj
def revisions(options: Options, service: str | None, as_json: bool) -> None:
    """List the revisions that can run without a build, newest first."""
    if service:
        arguments.known(service, options.engine.file.services)
    from stack import show

    if options.explain:
        explain(options.engine.verbs.revisions_commands())
        return
    records = show.revisions(options.engine.verbs.revisions(), service)
    if as_json:
        click.echo(json.dumps(records, indent=2))
    else:
        click.echo(show.revisions_table(records) if records else "No revision is there yet.")


@click.command()
@click.argument("service", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on printing what comes.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="The last N lines of each.")
@click.option("--since", metavar="TIME", help="From then on: 10m, or 2026-01-31T12:00:00.")
@click.pass_obj
def logs(
    options: Options, service: str | None, follow: bool, tail: int | None, since: str | None
) -> None:
    """Print what the containers wrote, of one service or of all."""
    from stack.plan import Plan

    if service:
        arguments.known(service, options.engine.file.services)
    words = ["--follow"] if follow else []
    words += [] if tail is None else ["--tail", str(tail)]
    words += ["--since", since] if since else []
    command = options.engine.verbs.logs_command(service, words)
    if options.explain:
        explain(Plan((command,)))
        return
    snapshot = options.engine.observe()
    if not snapshot.replicas:
        raise StackError(_nothing_there(snapshot.project))
    runner.become(command.argv)


@click.command("doctor")
@click.pass_obj
def doctor(options: Options) -> None:
    """Check what the stack needs: engine, Compose, base images, port, disk."""
    from stack import doctor as checks
    from stack.plan import Plan

    if options.explain:
        own = (check.command for check in options.engine.checks())
        explain(Plan((*checks.COMMANDS, *own)))
        return
    findings = checks.examine(options.engine)
    click.echo(checks.report(findings))
    worst = next((finding for finding in findings if finding.exit_code), None)
    if worst:
        raise SystemExit(worst.exit_code)


def _ps(engine: "Engine", *, as_json: bool) -> str:
    from stack import show
    from stack.main import with_program

    snapshot = engine.observe()
    records = show.rows(snapshot, engine.memory_bytes(snapshot.replicas))
    if as_json:
        return json.dumps(records, indent=2)
    if not records:
        return with_program(_nothing_there(snapshot.project))
    return "\n".join([show.table(records), *(f"drift: {line}" for line in show.drift(snapshot))])


def _nothing_there(project: str) -> str:
    return f"Nothing of project {project} is there. Start it: python -m stack up"
