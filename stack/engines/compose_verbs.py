"""The verbs on Compose: reads what each needs to know, then asks for its plan."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from stack import certificates, composefile, front_door, revision, versions
from stack.composefile import DISPOSABLE_LABEL
from stack.engines import compose_plans, compose_proxy, compose_up
from stack.engines.compose import ComposeEngine
from stack.engines.images import Wanted, build, prune, push
from stack.engines.sources import (
    load,
    no_image,
    no_revision,
    not_by_revision,
    prepare,
    running,
    with_revisions,
)
from stack.errors import ConfigurationError, StackError, UsageError
from stack.model import PROJECT_LABEL, Snapshot
from stack.plan import Command, Plan
from stack.reconcile import running_revision

# The first version of Compose that runs post_start itself.
HOOKS_SINCE = (2, 30)


class ComposeVerbs:
    """What each verb does on Compose; see Verbs."""

    def __init__(self, engine: ComposeEngine) -> None:
        self._engine = engine

    def up(self, counts: Mapping[str, int], drain_timeout_s: int | None, *, build: bool) -> Plan:
        """The plan to bring the stack up, with `counts` replicas where a number was asked for."""
        info = self._engine.api.info()
        versions.require("Docker Engine", info["ServerVersion"], versions.ENGINE_AT_LEAST)
        compose = ".".join(map(str, composefile.version()))
        versions.require("Docker Compose", compose, versions.COMPOSE_AT_LEAST)
        snapshot = self._engine.observe()
        if self._engine.runs_on_swarm():
            raise StackError(
                f"project {self._engine.project} runs on the Swarm of this engine. Use it there "
                "(--engine swarm), or end it first: python -m stack --engine swarm down"
            )
        front_door.dropped(snapshot, self._engine.file.services)
        built = [service for service in self._engine.file.services if service.build_context]
        snapshot, wanted = prepare(self._engine, snapshot, built, build=build)
        proxy = next((service for service in built if service.is_proxy), None)
        wanted = replace(
            self._with_options(wanted, drain_timeout_s),
            counts=counts,
            proxy_config=revision.configuration_of(proxy) if proxy else None,
        )
        if compose_proxy.proxy_is_renewed(snapshot):
            for conflict in self._engine.ports_in_use():
                raise StackError(conflict)
        plan = compose_up.up(snapshot, wanted, self._engine.compose)
        steps = (*certificates.steps(self._engine.file), *plan.steps)
        if not compose_proxy.proxy_is_renewed(snapshot) and self._engine.stale_secrets(snapshot):
            steps += tuple(compose_proxy.restart_proxy(snapshot, "it has an older file mounted"))
        if proxy and proxy.name in wanted.to_build:
            known = self._engine.api.revisions(f"{snapshot.project}-{proxy.name}")
            of_proxy = replace(snapshot, revisions={proxy.name: known})
            renewed = replace(proxy, revision=wanted.revisions[proxy.name])
            steps += tuple(prune(of_proxy, renewed, renewed.revision))
        notes = (*plan.notes, *certificates.notes(self._engine.file))
        return replace(plan, steps=steps, notes=notes)

    def rollout(self, names: Sequence[str], drain_timeout_s: int | None, *, again: bool) -> Plan:
        """The plan to bring these services to what their sources are now. `again`: build them even
        if there is an image of these sources.
        """
        snapshot = self._engine.observe()
        services = self._engine.file.services
        needed = {other for one in services if one.name in names for other in one.needs}
        built = [
            service
            for service in self._engine.file.services
            if service.build_context and not service.is_proxy and service.name in {*names, *needed}
        ]
        snapshot, wanted = prepare(
            self._engine, snapshot, built, build=True, anew=names if again else ()
        )
        return compose_plans.rollout(
            snapshot,
            names,
            self._with_options(wanted, drain_timeout_s),
            self._engine.compose,
        )

    def rollout_image(self, service: str, image: str, drain_timeout_s: int | None) -> Plan:
        """The plan to bring a service to an image: one of its revisions, or any other image."""
        snapshot = with_revisions(self._engine, self._engine.observe())
        known = {one.name for one in snapshot.revisions.get(service, ())}
        if image in known:
            return self.rollback(service, image, drain_timeout_s)
        image_id = self._engine.api.image_id(image)
        if not image_id:
            raise no_image(service, image, snapshot.revisions.get(service, ()))
        name = revision.name_of_image(image, image_id, snapshot.revisions.get(service, ()))
        file = load(self._engine, {**running(self._engine, snapshot), service: name})
        wanted_image = f"{snapshot.project}-{service}:{name}"
        one = next(known for known in file.services if known.name == service)
        if one.image != wanted_image:
            raise ConfigurationError(not_by_revision(service, one.image))
        services = tuple(
            replace(known, revision=name, image_id=image_id) if known is one else known
            for known in file.services
        )
        tags = () if name in known else ((image, wanted_image),)
        wanted = self._with_options(Wanted(revisions={service: name}, tags=tags), drain_timeout_s)
        return compose_plans.rollout(
            replace(snapshot, services=services), [service], wanted, self._engine.compose
        )

    def rollback(self, service: str, name: str | None, drain_timeout_s: int | None) -> Plan:
        """The plan to bring a service back to a revision; to the one before if None."""
        snapshot = with_revisions(self._engine, self._engine.observe())
        known = snapshot.revisions.get(service, ())
        found = next(
            (one for one in known if (one.is_previous if name is None else one.name == name)), None
        )
        if found is None:
            raise no_revision(service, name, known)
        file = load(self._engine, {**running(self._engine, snapshot), service: found.name})
        one = next(known for known in file.services if known.name == service)
        if not one.image.endswith(f":{found.name}"):
            raise ConfigurationError(not_by_revision(service, one.image))
        chosen = replace(one, revision=found.name, image_id=found.image_id)
        sources = revision.revision_of(one) if one.build_context else ""
        services = tuple(chosen if known is one else known for known in file.services)
        return compose_plans.rollback(
            replace(snapshot, services=services),
            chosen,
            self._with_options(Wanted(), drain_timeout_s),
            self._engine.compose,
            sources,
        )

    def restart(self, service: str, drain_timeout_s: int | None) -> Plan:
        """The plan to replace a service's replicas by new ones of the same revision."""
        snapshot = with_revisions(self._engine, self._engine.observe())
        name = running_revision(snapshot, service) or ""
        file = load(self._engine, running(self._engine, snapshot))
        services = tuple(
            replace(one, revision=name)
            if one.name == service and one.port is not None and one.image.endswith(f":{name}")
            else one
            for one in file.services
        )
        return compose_plans.restart(
            replace(snapshot, services=services),
            next(one for one in services if one.name == service),
            self._with_options(Wanted(), drain_timeout_s),
            self._engine.compose,
        )

    def scale(self, counts: Mapping[str, int], drain_timeout_s: int | None) -> Plan:
        """The plan to change the numbers of replicas."""
        snapshot = with_revisions(self._engine, self._engine.observe())
        at_home = {
            one.name: revision.latest_build(
                revision.revision_of(one), snapshot.revisions.get(one.name, ()), another=False
            )
            for one in self._engine.file.services
            if one.build_context and not one.is_proxy
        }
        # Where none runs: what `up` would start.
        revisions = {**at_home, **running(self._engine, snapshot)}
        file = load(self._engine, revisions)
        for service in file.services:
            more = counts.get(service.name, 0) > sum(
                replica.is_live for replica in snapshot.of(service.name)
            )
            if more and not self._engine.api.image_id(service.image):
                raise StackError(
                    f"{service.name}: the image {service.image} is not there. Get it and scale: "
                    f"python -m stack up {service.name}={counts[service.name]}"
                )
        services = tuple(
            replace(one, revision=revisions.get(one.name, "")) for one in file.services
        )
        wanted = self._with_options(Wanted(revisions=revisions), drain_timeout_s)
        return compose_plans.scale(
            replace(snapshot, services=services), counts, wanted, self._engine.compose, at_home
        )

    def push(self, names: Sequence[str]) -> Plan:
        """The plan to put images of services, as their sources are now, into the registry."""
        registry = self._engine.registry
        if not registry:
            raise UsageError("say where to: python -m stack push --registry HOST:PORT")
        services = self._engine.file.services
        built = [one for one in services if one.build_context and one.name in names]
        snapshot, wanted = prepare(self._engine, self._engine.observe(), built, build=True)
        chosen = [service for service in snapshot.services if service.name in wanted.revisions]
        steps = build(snapshot, wanted, self._engine.compose)
        steps += push(snapshot.project, chosen, registry)
        return Plan(tuple(steps), outcome="there is nothing to push")

    def revisions(self) -> Snapshot:
        """What there is, with the revisions of every service."""
        return with_revisions(
            self._engine, replace(self._engine.observe(), services=self._engine.file.services)
        )

    def down(self, *, with_volumes: bool) -> Plan:
        """The plan to remove the stack."""
        return compose_plans.down(
            self._engine.observe(),
            {
                name: name in self._engine.file.networks
                for name in self._engine.api.networks(self._engine.project)
            },
            {
                name: labels.get(DISPOSABLE_LABEL) == "true"
                for name, labels in self._engine.api.volumes(self._engine.project).items()
            },
            self._engine.compose,
            with_volumes=with_volumes,
        )

    def ps_commands(self) -> Plan:
        """The commands whose answers `ps` puts together."""
        mine = ("--filter", f"label={PROJECT_LABEL}={self._engine.project}")
        proxy = compose_proxy.proxy_name(self._engine.observe())
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

    def revisions_commands(self) -> Plan:
        """The commands whose answers `revisions` puts together."""
        return Plan(
            tuple(
                Command(
                    ("docker", "image", "ls", f"{self._engine.project}-{service.name}"),
                    f"the revisions of {service.name}: its images, by their tags",
                )
                for service in self._engine.file.services
                if not service.is_proxy
            )
        )

    def logs_command(self, service: str | None, options: Sequence[str]) -> Command:
        """The command that prints logs."""
        words = (service,) if service else ()
        return Command(
            (*self._engine.compose, "logs", *options, *words), "what the containers wrote"
        )

    def _with_options(self, wanted: Wanted, drain_timeout_s: int | None) -> Wanted:
        hooked = any(service.post_start for service in self._engine.file.services)
        return replace(
            wanted,
            drain_timeout_s=drain_timeout_s,
            runs_post_start=hooked and composefile.version() < HOOKS_SINCE,
        )
