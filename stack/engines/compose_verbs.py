"""The verbs on Compose: reads what each needs to know, then asks for its plan."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from stack import bases, composefile, revision
from stack.bases import Base
from stack.engines import compose_plans, compose_proxy
from stack.engines.compose import ComposeEngine
from stack.engines.compose_plans import Wanted, revision_env
from stack.errors import StackError
from stack.model import PROJECT_LABEL, Service, Snapshot
from stack.plan import Command, Plan
from stack.reconcile import running_revision

DISPOSABLE_LABEL = "stack.disposable"

# Where systems keep the CA certificates that they trust, most common first.
CA_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)


def up(engine: ComposeEngine, counts: Mapping[str, int], *, build: bool) -> Plan:
    """The plan to bring the stack up, with `counts` replicas where a number was asked for."""
    snapshot = engine.observe()
    built = [service for service in engine.file.services if service.build_context]
    services, revisions = _revise(engine, snapshot, built)
    to_build = _without_image(services, revisions)
    if to_build and not build:
        raise StackError(
            f"{', '.join(to_build)}: revision not built yet. Run again without --no-build"
        )
    chosen: tuple[Base, ...] = ()
    if to_build:
        chosen = _bases(engine)
        built = [replace(one, build_args=bases.with_bases(one, chosen)) for one in built]
        services, revisions = _revise(engine, snapshot, built)
    proxy = next((service for service in built if service.is_proxy), None)
    wanted = Wanted(
        counts=counts,
        revisions=revisions,
        to_build=_without_image(services, revisions),
        bases=chosen,
        build_env=(*_made_here(chosen), *_ca_env(engine.file.ca_file)),
        proxy_config=revision.configuration_of(proxy) if proxy else None,
    )
    snapshot = replace(snapshot, services=services)
    if compose_proxy.proxy_is_renewed(snapshot):
        for conflict in engine.ports_in_use():
            raise StackError(conflict)
    return compose_plans.up(snapshot, wanted, engine.compose)


def _revise(
    engine: ComposeEngine, snapshot: Snapshot, built: Sequence[Service]
) -> tuple[tuple[Service, ...], dict[str, str]]:
    """The services with the revisions of their sources, and these revisions."""
    revisions = {service.name: revision.revision_of(service) for service in built}
    for service in built:
        if service.is_proxy:
            wanted = revisions[service.name]
            revisions[service.name] = compose_proxy.proxy_revision(snapshot, wanted)
    file = composefile.load(engine.compose, dict(revision_env(revisions)))
    services = tuple(
        replace(
            service,
            revision=revisions[service.name],
            image_id=engine.api.image_id(service.image),
        )
        if service.name in revisions
        else service
        for service in file.services
    )
    return services, revisions


def scale(engine: ComposeEngine, counts: Mapping[str, int]) -> Plan:
    """The plan to change the numbers of replicas."""
    snapshot = engine.observe()
    revisions = {}
    for service in engine.file.services:
        if service.build_context and not service.is_proxy:
            # Where none runs: what `up` would start.
            running = running_revision(snapshot, service.name)
            revisions[service.name] = running or revision.revision_of(service)
    file = composefile.load(engine.compose, dict(revision_env(revisions)))
    for service in file.services:
        more = counts.get(service.name, 0) > sum(
            replica.is_live for replica in snapshot.of(service.name)
        )
        if more and not engine.api.image_id(service.image):
            raise StackError(
                f"{service.name}: the image {service.image} is not there. Get it and scale: "
                f"python -m stack up {service.name}={counts[service.name]}"
            )
    return compose_plans.scale(
        replace(snapshot, services=file.services), counts, revisions, engine.compose
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


def _made_here(chosen: tuple[Base, ...]) -> compose_plans.Env:
    # .env gets these only once the first step of the plan has run.
    return tuple(
        (base.variable, base.reference) for base in chosen if bases.is_made_here(base.reference)
    )


def _ca_env(ca_file: str | None) -> compose_plans.Env:
    """CA_BUNDLE for the build, if the Compose file wants one and the user named none."""
    if ca_file is None or (Path(ca_file).is_file() and Path(ca_file).stat().st_size):
        return ()
    candidates = (os.environ.get("SSL_CERT_FILE", ""), *CA_BUNDLES)
    bundle = next((path for path in candidates if Path(path).is_file()), None)
    return (("CA_BUNDLE", bundle),) if bundle else ()
