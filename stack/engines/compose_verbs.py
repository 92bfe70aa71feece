"""The verbs on Compose: reads what each needs to know, then asks for its plan."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stack import bases, composefile, revision
from stack.bases import Base
from stack.engines import compose_plans, compose_proxy, compose_steps
from stack.engines.compose import ComposeEngine
from stack.engines.compose_steps import Wanted, revision_env
from stack.errors import ConfigurationError, StackError, UsageError
from stack.model import PROJECT_LABEL, Service, Snapshot
from stack.plan import Command, Env, Plan
from stack.reconcile import running_revision

# The first version of Compose that runs post_start itself.
HOOKS_SINCE = (2, 30)

DISPOSABLE_LABEL = "stack.disposable"

# Where systems keep the CA certificates that they trust, most common first.
CA_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)


@dataclass(frozen=True)
class Options:
    """What verbs that change something have in common. None: as long as stop_grace_period."""

    drain_timeout_s: int | None = None


def up(engine: ComposeEngine, counts: Mapping[str, int], options: Options, *, build: bool) -> Plan:
    """The plan to bring the stack up, with `counts` replicas where a number was asked for."""
    snapshot = engine.observe()
    built = [service for service in engine.file.services if service.build_context]
    snapshot, wanted = _prepare(engine, snapshot, built, build=build)
    proxy = next((service for service in built if service.is_proxy), None)
    wanted = replace(
        _with_options(engine, wanted, options),
        counts=counts,
        proxy_config=revision.configuration_of(proxy) if proxy else None,
    )
    if compose_proxy.proxy_is_renewed(snapshot):
        for conflict in engine.ports_in_use():
            raise StackError(conflict)
    return compose_plans.up(snapshot, wanted, engine.compose)


def rollout(engine: ComposeEngine, names: Sequence[str], options: Options, *, again: bool) -> Plan:
    """The plan to bring these services to what their sources are now. `again`: build them even
    if there is an image of these sources.
    """
    snapshot = engine.observe()
    needed = compose_steps.needed_by(replace(snapshot, services=engine.file.services), names)
    built = [
        service
        for service in engine.file.services
        if service.build_context and not service.is_proxy and service.name in {*names, *needed}
    ]
    snapshot, wanted = _prepare(engine, snapshot, built, build=True, anew=names if again else ())
    return compose_plans.rollout(
        snapshot, names, _with_options(engine, wanted, options), engine.compose
    )


def rollout_image(engine: ComposeEngine, service: str, image: str, options: Options) -> Plan:
    """The plan to bring a service to an image: one of its revisions, or any other image."""
    snapshot = _with_revisions(engine, engine.observe())
    known = {one.name for one in snapshot.revisions.get(service, ())}
    if image in known:
        return rollback(engine, service, image, options)
    image_id = engine.api.image_id(image)
    if not image_id:
        raise StackError(
            f"{service}: there is no image {image}. Get it first: docker pull {image}. Revisions "
            f"that are there: {', '.join(sorted(known)) or 'none'}"
        )
    name = revision.name_of_image(image, image_id, snapshot.revisions.get(service, ()))
    file = _load(engine, {service: name})
    wanted_image = f"{snapshot.project}-{service}:{name}"
    one = next(known for known in file.services if known.name == service)
    if one.image != wanted_image:
        raise ConfigurationError(_not_by_revision(service, one.image))
    services = tuple(
        replace(known, revision=name, image_id=image_id) if known is one else known
        for known in file.services
    )
    tags = () if name in known else ((image, wanted_image),)
    wanted = _with_options(engine, Wanted(revisions={service: name}, tags=tags), options)
    return compose_plans.rollout(
        replace(snapshot, services=services), [service], wanted, engine.compose
    )


def rollback(engine: ComposeEngine, service: str, name: str | None, options: Options) -> Plan:
    """The plan to bring a service back to a revision; the one before the last rollout if None."""
    snapshot = _with_revisions(engine, engine.observe())
    known = snapshot.revisions.get(service, ())
    found = next(
        (one for one in known if (one.is_previous if name is None else one.name == name)), None
    )
    if found is None:
        what = f"no revision {name!r}" if name else "no revision before the one that runs"
        raise UsageError(
            f"{service}: {what} is there. There is: "
            f"{', '.join(one.name for one in known) or 'none'} (python -m stack revisions)"
        )
    running = running_revision(snapshot, service)
    if name is None and found.name == running:
        raise UsageError(
            f"{service}: {found.name}, what a rollback would go back to, runs already. Choose "
            f"another: {', '.join(one.name for one in known)}"
        )
    file = _load(engine, {service: found.name})
    one = next(known for known in file.services if known.name == service)
    if not one.image.endswith(f":{found.name}"):
        raise ConfigurationError(_not_by_revision(service, one.image))
    chosen = replace(one, revision=found.name, image_id=found.image_id)
    sources = revision.revision_of(one) if one.build_context else ""
    services = tuple(chosen if known is one else known for known in file.services)
    return compose_plans.rollback(
        replace(snapshot, services=services),
        chosen,
        _with_options(engine, Wanted(), options),
        engine.compose,
        sources,
    )


def restart(engine: ComposeEngine, service: str, options: Options) -> Plan:
    """The plan to replace a service's replicas by new ones of the same revision."""
    snapshot = _with_revisions(engine, engine.observe())
    name = running_revision(snapshot, service) or ""
    file = _load(engine, {service: name} if name else {})
    services = tuple(
        replace(one, revision=name)
        if one.name == service and one.port is not None and one.image.endswith(f":{name}")
        else one
        for one in file.services
    )
    return compose_plans.restart(
        replace(snapshot, services=services),
        next(one for one in services if one.name == service),
        _with_options(engine, Wanted(), options),
        engine.compose,
    )


def scale(engine: ComposeEngine, counts: Mapping[str, int], options: Options) -> Plan:
    """The plan to change the numbers of replicas."""
    snapshot = _with_revisions(engine, engine.observe())
    revisions, at_home = {}, {}
    for service in engine.file.services:
        if service.build_context and not service.is_proxy:
            # Where none runs: what `up` would start.
            at_home[service.name] = revision.revision_of(service)
            running = running_revision(snapshot, service.name)
            revisions[service.name] = running or at_home[service.name]
    file = _load(engine, revisions)
    for service in file.services:
        more = counts.get(service.name, 0) > sum(
            replica.is_live for replica in snapshot.of(service.name)
        )
        if more and not engine.api.image_id(service.image):
            raise StackError(
                f"{service.name}: the image {service.image} is not there. Get it and scale: "
                f"python -m stack up {service.name}={counts[service.name]}"
            )
    services = tuple(replace(one, revision=revisions.get(one.name, "")) for one in file.services)
    wanted = _with_options(engine, Wanted(revisions=revisions), options)
    return compose_plans.scale(
        replace(snapshot, services=services), counts, wanted, engine.compose, at_home
    )


def revisions(engine: ComposeEngine) -> Snapshot:
    """What there is, with the revisions of every service."""
    return _with_revisions(engine, replace(engine.observe(), services=engine.file.services))


def _prepare(
    engine: ComposeEngine,
    snapshot: Snapshot,
    built: Sequence[Service],
    *,
    build: bool,
    anew: Sequence[str] = (),
) -> tuple[Snapshot, Wanted]:
    """Find the revisions of what is built, and what has to be built for them."""
    snapshot = _with_revisions(engine, snapshot)
    services, names = _revise(engine, snapshot, built, anew)
    to_build = _without_image(services, names)
    if to_build and not build:
        raise StackError(
            f"{', '.join(to_build)}: revision not built yet. Run again without --no-build"
        )
    chosen: tuple[Base, ...] = ()
    if to_build:
        chosen = _bases(engine)
        built = [replace(one, build_args=bases.with_bases(one, chosen)) for one in built]
        services, names = _revise(engine, snapshot, built, anew)
    wanted = Wanted(
        revisions=names,
        to_build=_without_image(services, names),
        bases=chosen,
        build_env=(*_made_here(chosen), *_ca_env(engine.file.ca_file)),
    )
    return replace(snapshot, services=services), wanted


def _revise(
    engine: ComposeEngine, snapshot: Snapshot, built: Sequence[Service], anew: Sequence[str]
) -> tuple[tuple[Service, ...], dict[str, str]]:
    """The services with the revisions of their sources, and these revisions."""
    names = {}
    for service in built:
        name = revision.revision_of(service)
        if service.is_proxy:
            name = compose_proxy.proxy_revision(snapshot, name)
        else:
            known = snapshot.revisions.get(service.name, ())
            name = revision.latest_build(name, known, another=service.name in anew)
        names[service.name] = name
    # Of the others: what runs.
    for service in engine.file.services:
        if service.build_context and service.name not in names:
            running = running_revision(snapshot, service.name)
            names.update({service.name: running} if running else {})
    revised = {service.name for service in built}
    services = tuple(
        replace(one, revision=names[one.name], image_id=engine.api.image_id(one.image))
        if one.name in revised
        else one
        for one in _load(engine, names).services
    )
    return services, {name: names[name] for name in names if name in revised}


def _load(engine: ComposeEngine, revisions: Mapping[str, str]) -> composefile.ComposeFile:
    return composefile.load(engine.compose, dict(revision_env(revisions)))


def _with_revisions(engine: ComposeEngine, snapshot: Snapshot) -> Snapshot:
    found = {
        service.name: engine.api.revisions(f"{snapshot.project}-{service.name}")
        for service in engine.file.services
        if not service.is_proxy
    }
    return replace(snapshot, revisions=found)


def _with_options(engine: ComposeEngine, wanted: Wanted, options: Options) -> Wanted:
    hooked = any(service.post_start for service in engine.file.services)
    return replace(
        wanted,
        drain_timeout_s=options.drain_timeout_s,
        runs_post_start=hooked and composefile.version() < HOOKS_SINCE,
    )


def _not_by_revision(service: str, image: str) -> str:
    variable = revision_env({service: ""})[0][0]
    return (
        f"Compose file: service {service}: its image is {image} whatever the revision. Name it "
        f"${{COMPOSE_PROJECT_NAME}}-{service}:${{{variable}:-dev}}"
    )


def down(engine: ComposeEngine, *, with_volumes: bool) -> Plan:
    """The plan to remove the stack."""
    return compose_plans.down(
        engine.observe(),
        {name: name in engine.file.networks for name in engine.api.networks(engine.project)},
        {
            name: labels.get(DISPOSABLE_LABEL) == "true"
            for name, labels in engine.api.volumes(engine.project).items()
        },
        engine.compose,
        with_volumes=with_volumes,
    )


def ps_commands(engine: ComposeEngine) -> Plan:
    """The commands whose answers `ps` puts together."""
    mine = ("--filter", f"label={PROJECT_LABEL}={engine.project}")
    proxy = compose_proxy.proxy_name(engine.observe())
    return Plan(
        (
            Command(("docker", "ps", "--all", *mine), "containers, their state and age"),
            Command(("docker", "stats", "--no-stream"), "memory"),
            Command(
                ("docker", "exec", proxy, "sh", "-c", "cat /var/lib/proxy/current/targets/*"),
                "who gets traffic",
            ),
        )
    )


def revisions_commands(engine: ComposeEngine) -> Plan:
    """The commands whose answers `revisions` puts together."""
    return Plan(
        tuple(
            Command(
                ("docker", "image", "ls", f"{engine.project}-{service.name}"),
                f"the revisions of {service.name}: its images, by their tags",
            )
            for service in engine.file.services
            if not service.is_proxy
        )
    )


def logs_command(engine: ComposeEngine, service: str | None, *, follow: bool) -> Command:
    """The command that prints logs."""
    options = ("--follow",) if follow else ()
    words = (service,) if service else ()
    return Command((*engine.compose, "logs", *options, *words), "what the containers wrote")


def _bases(engine: ComposeEngine) -> tuple[Base, ...]:
    return tuple(
        base(engine, variable, reference)
        for variable, reference in bases.references(engine.file.services).items()
    )


def base(engine: ComposeEngine, variable: str, reference: str) -> Base:
    """Find out which base image to use; asks a registry only if the engine has none."""
    here = bool(engine.api.image_id(reference))
    answer = None
    if not here and not bases.is_made_here(reference):
        answer = bases.ask_registry(reference)
    _, made = bases.MADE_HERE.get(variable, ("", ""))
    made_is_here = bool(made and engine.api.image_id(made))
    return bases.decide(variable, reference, here=here, answer=answer, made_is_here=made_is_here)


def _without_image(services: tuple[Service, ...], revisions: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(s.name for s in services if s.name in revisions and not s.image_id)


def _made_here(chosen: tuple[Base, ...]) -> Env:
    # .env gets these only once the first step of the plan has run.
    return tuple(
        (base.variable, base.reference) for base in chosen if bases.is_made_here(base.reference)
    )


def _ca_env(ca_file: str | None) -> Env:
    """CA_BUNDLE for the build, if the Compose file wants one and the user named none."""
    if ca_file is None or (Path(ca_file).is_file() and Path(ca_file).stat().st_size):
        return ()
    candidates = (os.environ.get("SSL_CERT_FILE", ""), *CA_BUNDLES)
    bundle = next((path for path in candidates if Path(path).is_file()), None)
    return (("CA_BUNDLE", bundle),) if bundle else ()
