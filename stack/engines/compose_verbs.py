"""The verbs on Compose: reads what each needs to know, then asks for its plan."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from stack import revision
from stack.engines import compose_plans, compose_proxy, compose_up
from stack.engines.compose import ComposeEngine
from stack.engines.compose_reads import load, prepare, running, with_options, with_revisions
from stack.engines.compose_steps import Wanted, revision_env
from stack.errors import ConfigurationError, StackError, UsageError
from stack.model import PROJECT_LABEL, Snapshot
from stack.plan import Command, Plan
from stack.reconcile import running_revision

DISPOSABLE_LABEL = "stack.disposable"


def up(
    engine: ComposeEngine, counts: Mapping[str, int], drain_timeout_s: int | None, *, build: bool
) -> Plan:
    """The plan to bring the stack up, with `counts` replicas where a number was asked for."""
    snapshot = engine.observe()
    built = [service for service in engine.file.services if service.build_context]
    snapshot, wanted = prepare(engine, snapshot, built, build=build)
    proxy = next((service for service in built if service.is_proxy), None)
    wanted = replace(
        with_options(engine, wanted, drain_timeout_s),
        counts=counts,
        proxy_config=revision.configuration_of(proxy) if proxy else None,
    )
    if compose_proxy.proxy_is_renewed(snapshot):
        for conflict in engine.ports_in_use():
            raise StackError(conflict)
    return compose_up.up(snapshot, wanted, engine.compose)


def rollout(
    engine: ComposeEngine, names: Sequence[str], drain_timeout_s: int | None, *, again: bool
) -> Plan:
    """The plan to bring these services to what their sources are now. `again`: build them even
    if there is an image of these sources.
    """
    snapshot = engine.observe()
    services = engine.file.services
    needed = {other for one in services if one.name in names for other in one.needs}
    built = [
        service
        for service in engine.file.services
        if service.build_context and not service.is_proxy and service.name in {*names, *needed}
    ]
    snapshot, wanted = prepare(engine, snapshot, built, build=True, anew=names if again else ())
    return compose_plans.rollout(
        snapshot, names, with_options(engine, wanted, drain_timeout_s), engine.compose
    )


def rollout_image(
    engine: ComposeEngine, service: str, image: str, drain_timeout_s: int | None
) -> Plan:
    """The plan to bring a service to an image: one of its revisions, or any other image."""
    snapshot = with_revisions(engine, engine.observe())
    known = {one.name for one in snapshot.revisions.get(service, ())}
    if image in known:
        return rollback(engine, service, image, drain_timeout_s)
    image_id = engine.api.image_id(image)
    if not image_id:
        raise StackError(
            f"{service}: there is no image {image}. Get it first: docker pull {image}. Revisions "
            f"that are there: {', '.join(sorted(known)) or 'none'}"
        )
    name = revision.name_of_image(image, image_id, snapshot.revisions.get(service, ()))
    file = load(engine, {**running(engine, snapshot), service: name})
    wanted_image = f"{snapshot.project}-{service}:{name}"
    one = next(known for known in file.services if known.name == service)
    if one.image != wanted_image:
        raise ConfigurationError(_not_by_revision(service, one.image))
    services = tuple(
        replace(known, revision=name, image_id=image_id) if known is one else known
        for known in file.services
    )
    tags = () if name in known else ((image, wanted_image),)
    wanted = with_options(engine, Wanted(revisions={service: name}, tags=tags), drain_timeout_s)
    return compose_plans.rollout(
        replace(snapshot, services=services), [service], wanted, engine.compose
    )


def rollback(
    engine: ComposeEngine, service: str, name: str | None, drain_timeout_s: int | None
) -> Plan:
    """The plan to bring a service back to a revision; the one before the last rollout if None."""
    snapshot = with_revisions(engine, engine.observe())
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
    file = load(engine, {**running(engine, snapshot), service: found.name})
    one = next(known for known in file.services if known.name == service)
    if not one.image.endswith(f":{found.name}"):
        raise ConfigurationError(_not_by_revision(service, one.image))
    chosen = replace(one, revision=found.name, image_id=found.image_id)
    sources = revision.revision_of(one) if one.build_context else ""
    services = tuple(chosen if known is one else known for known in file.services)
    return compose_plans.rollback(
        replace(snapshot, services=services),
        chosen,
        with_options(engine, Wanted(), drain_timeout_s),
        engine.compose,
        sources,
    )


def restart(engine: ComposeEngine, service: str, drain_timeout_s: int | None) -> Plan:
    """The plan to replace a service's replicas by new ones of the same revision."""
    snapshot = with_revisions(engine, engine.observe())
    name = running_revision(snapshot, service) or ""
    file = load(engine, running(engine, snapshot))
    services = tuple(
        replace(one, revision=name)
        if one.name == service and one.port is not None and one.image.endswith(f":{name}")
        else one
        for one in file.services
    )
    return compose_plans.restart(
        replace(snapshot, services=services),
        next(one for one in services if one.name == service),
        with_options(engine, Wanted(), drain_timeout_s),
        engine.compose,
    )


def scale(engine: ComposeEngine, counts: Mapping[str, int], drain_timeout_s: int | None) -> Plan:
    """The plan to change the numbers of replicas."""
    snapshot = with_revisions(engine, engine.observe())
    at_home = {
        one.name: revision.latest_build(
            revision.revision_of(one), snapshot.revisions.get(one.name, ()), another=False
        )
        for one in engine.file.services
        if one.build_context and not one.is_proxy
    }
    # Where none runs: what `up` would start.
    revisions = {**at_home, **running(engine, snapshot)}
    file = load(engine, revisions)
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
    wanted = with_options(engine, Wanted(revisions=revisions), drain_timeout_s)
    return compose_plans.scale(
        replace(snapshot, services=services), counts, wanted, engine.compose, at_home
    )


def revisions(engine: ComposeEngine) -> Snapshot:
    """What there is, with the revisions of every service."""
    return with_revisions(engine, replace(engine.observe(), services=engine.file.services))


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


def _not_by_revision(service: str, image: str) -> str:
    variable = revision_env({service: ""})[0][0]
    return (
        f"Compose file: service {service}: its image is {image} whatever the revision. Name it "
        f"${{COMPOSE_PROJECT_NAME}}-{service}:${{{variable}:-dev}}"
    )
