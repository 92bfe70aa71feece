"""The verbs that change something: read arguments, ask the engine for a plan, show it or run it."""

import math
import os
import re
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stack import __version__, arguments, engines, queries, runner, signals
from stack.arguments import Counts, Options, drain_timeout, explain
from stack.errors import ConfigurationError, EngineUnavailable, UsageError

# `ps` should not take much longer than `docker compose ps`, and most of that is importing. What
# it does not need is imported where it is used.
if TYPE_CHECKING:
    from stack.plan import Plan


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-p", "--project", metavar="NAME", help="Project name, instead of the Compose file's."
)
@click.option(
    "--engine",
    type=click.Choice(engines.NAMES),
    default=engines.COMPOSE,
    envvar="STACK_ENGINE",
    show_envvar=True,
    help="What runs the stack: Compose on one machine, or Swarm on several.",
)
@click.option(
    "--registry",
    metavar="HOST:PORT",
    envvar="STACK_REGISTRY",
    show_envvar=True,
    help="Where images are pushed, for the nodes of a Swarm to pull.",
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
    context: click.Context,
    project: str | None,
    engine: str,
    registry: str | None,
    explain: bool,
    debug: bool,
    lock_wait: float,
) -> None:
    """Run a Compose stack, and change it without losing a request."""
    if project is not None and not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", project):
        raise UsageError(
            f"{project!r} is no project name: those have lowercase letters, digits, - and _, and "
            "begin with a letter or digit"
        )
    if math.isnan(lock_wait):
        raise UsageError("--lock-wait: 'nan' is no number of seconds")
    if registry is not None:
        arguments.check_registry(registry)
    # The connection to the engine is made while Python imports the rest. Where it cannot be, the
    # first who needs it says so: help needs none.
    begun = None
    with suppress(EngineUnavailable):
        begun = runner.dial_engine()
    made = engines.make(engine, project, begun, registry)
    context.obj = Options(made, explain, debug, lock_wait)


@cli.command()
@click.argument("counts", nargs=-1, type=Counts(), metavar="[SERVICE=N]...")
@click.option("--no-build", is_flag=True, help="Use images that are there; never build.")
@drain_timeout
@click.pass_obj
def up(
    options: Options,
    counts: tuple[tuple[str, int], ...],
    no_build: bool,
    drain_timeout: int | None,
) -> None:
    """Build what has changed, start what is missing, send traffic to what is ready.

    A stack that is up to date is left alone. Numbers of replicas stay as they are where none is
    given.
    """
    wanted = arguments.counts(counts, options.engine.file.services, zero_allowed=False)
    _change(options, lambda: options.engine.verbs.up(wanted, drain_timeout, build=not no_build))
    if not options.explain:
        click.echo("\n".join(options.engine.urls()) or "up (no port is published)")


@cli.command()
@click.argument("counts", nargs=-1, required=True, type=Counts(), metavar="SERVICE=N...")
@click.option("--force", is_flag=True, help="Allow SERVICE=0, which nobody answers for.")
@drain_timeout
@click.pass_obj
def scale(
    options: Options, counts: tuple[tuple[str, int], ...], force: bool, drain_timeout: int | None
) -> None:
    """Change the number of replicas: new ones get traffic once ready, old ones are drained."""
    wanted = arguments.counts(counts, options.engine.file.services, zero_allowed=force)
    _change(options, lambda: options.engine.verbs.scale(wanted, drain_timeout))


@cli.command()
@click.argument("service", required=False)
@click.option("--all", "all_", is_flag=True, help="All services, those that others need first.")
@click.option("--build", is_flag=True, help="Build even if these sources are built already.")
@click.option("--image", metavar="REF", help="A revision that is there, or any other image.")
@drain_timeout
@click.pass_obj
def rollout(
    options: Options,
    service: str | None,
    all_: bool,
    build: bool,
    image: str | None,
    drain_timeout: int | None,
) -> None:
    """Replace a service's replicas by a new revision, one after the other.

    How many at a time, and what happens when a new one fails, says deploy.update_config in the
    Compose file. Without SERVICE: the one that the proxy routes to.
    """
    if (image and (build or all_)) or (service and all_):
        raise UsageError("of SERVICE and --all, and of --image, --build and --all, one is enough")
    if image is not None:
        arguments.check_image(image)
    services = options.engine.file.services
    names = [one.name for one in services if not one.is_proxy]
    if not all_:
        names = [arguments.the_routed(service, services, must=bool(image)).name]
    if image:
        _change(options, lambda: options.engine.verbs.rollout_image(names[0], image, drain_timeout))
    else:
        _change(options, lambda: options.engine.verbs.rollout(names, drain_timeout, again=build))


@cli.command()
@click.argument("service", required=False)
@click.argument("revision", required=False)
@drain_timeout
@click.pass_obj
def rollback(
    options: Options, service: str | None, revision: str | None, drain_timeout: int | None
) -> None:
    """Go back to the revision before the last rollout, or to REVISION. Nothing is built.

    `revisions` lists what there is. SERVICE can be left out where the proxy routes to one only.
    """
    services = options.engine.file.services
    if service and revision is None and service not in {one.name for one in services}:
        service, revision = None, service
    name = arguments.the_routed(service, services, must=True).name
    _change(options, lambda: options.engine.verbs.rollback(name, revision, drain_timeout))


@cli.command()
@click.argument("service")
@drain_timeout
@click.pass_obj
def restart(options: Options, service: str, drain_timeout: int | None) -> None:
    """Replace a service's replicas by new ones of the same revision, one after the other."""
    name = arguments.known(service, options.engine.file.services).name
    _change(options, lambda: options.engine.verbs.restart(name, drain_timeout))


@cli.command()
@click.argument("services", nargs=-1, metavar="[SERVICE]...")
@click.pass_obj
def push(options: Options, services: tuple[str, ...]) -> None:
    """Push images to the registry, as their sources are now. Builds what is not built yet."""
    there = options.engine.file.services
    names = [arguments.known(name, there).name for name in services]
    names = names or [one.name for one in there]
    _change(options, lambda: options.engine.verbs.push(names), checked=False)


@cli.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--cert", type=click.Path(path_type=Path), metavar="FILE", help="Your own, in PEM.")
@click.option("--key", type=click.Path(path_type=Path), metavar="FILE", help="Its key.")
@click.pass_obj
def cert(options: Options, names: tuple[str, ...], cert: Path | None, key: Path | None) -> None:
    """Make or renew the certificate for HTTPS, by a CA of this machine; or take your own.

    NAME: the host names and addresses that it is for. Without any: those of the one before, or
    this machine, and ALLOWED_HOSTS. STACK_TLS=1 serves it. A proxy that does already takes over a
    new one by itself, within seconds.
    """
    from stack import authority, certificates

    if (cert is None) != (key is None) or (cert and names):
        raise UsageError("give --cert and --key together, and no NAME with them")
    # The Compose file says where it is wanted.
    os.environ["STACK_TLS"] = "1"
    paths = certificates.paths(options.engine.file)
    for name in names:
        authority.identity(name)
    if options.explain:
        click.echo(f"# writes {paths.cert}, {paths.key} and those of the CA beside them")
        return
    if cert and key:
        made = certificates.install(paths, cert, key)
    else:
        names = names or certificates.names_now(paths, options.engine.file)
        made = certificates.issue(paths, names)
    click.echo(f"{paths.cert}: {', '.join(made.names)}, until {made.expires_at:%Y-%m-%d}")
    if made.has_new_ca:
        click.echo(f"Its CA is new. Browsers trust it once they trust {paths.ca}: docs/security.md")


@cli.command()
@click.option("--volumes", is_flag=True, help="Also remove the volumes that hold data.")
@click.pass_obj
def down(options: Options, volumes: bool) -> None:
    """Stop and remove containers and networks."""
    _change(options, lambda: options.engine.verbs.down(with_volumes=volumes), checked=False)


@cli.command()
@click.argument("words", nargs=-1, metavar="[N | check N | reset]")
@click.pass_obj
def learn(options: Options, words: tuple[str, ...]) -> None:
    """Lessons: list them, show number N, check what of it has been done, or clean up."""
    from stack import lesson_checks, lessons

    if words == ("reset",):
        mine = replace(options, engine=engines.make(engines.COMPOSE, lessons.NAME, None, None))
        _change(mine, lambda: lessons.reset(mine.engine), checked=False)
    elif not words:
        click.echo(lessons.listed(lessons.lessons()))
    elif len(words) == 1 and words[0].isdecimal():
        lessons.show(lessons.lesson(int(words[0])))
    elif len(words) == 2 and words[0] == "check" and words[1].isdecimal():
        found = lesson_checks.check(int(words[1]), options.engine)
        click.echo(lesson_checks.checked(found))
        if any(missing for _, missing in found):
            raise SystemExit(1)
    else:
        raise UsageError("say a number, such as: learn 1, learn check 1; or learn reset")


for query in (queries.ps, queries.top, queries.revisions, queries.logs, queries.doctor):
    cli.add_command(query)


def _change(options: Options, make_plan: Callable[[], "Plan"], *, checked: bool = True) -> None:
    """Make a plan and run it. `checked`: it needs a proxy that can be made, or go on running."""
    from stack import front_door, lock, show
    from stack.execute import execute
    from stack.progress import Progress
    from stack.topology import Publisher

    engine = options.engine
    if checked:
        front_door.check(engine.file)
        seen = engine.observe()
        if seen.mounts_gone:
            raise ConfigurationError(f"{show.unknown(seen)}. Put it back first")
    if options.explain:
        explain(make_plan())
        return
    path = lock.lock_path(engine.project, engine.id)
    verb = lock.described(sys.argv[1:])
    with lock.held(path, verb=verb, wait_s=options.lock_wait_s):
        plan = make_plan()
        publisher = Publisher(verb, engine.observe, engine.publish) if engine.publishes else None
        for note in plan.notes:
            click.echo(f"note: {note}", err=True)
        with publisher.verb() if publisher else nullcontext():
            if not plan.steps:
                click.echo(f"Nothing to do: {plan.outcome}.", err=True)
                return
            with signals.between_steps():
                execute(plan, engine.observe, Progress(debug=options.debug), publisher)
