"""The Compose engine: reads what a verb needs to know, then asks for its plan."""

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from stack import bases, composefile, lock, revision
from stack.bases import Base
from stack.composefile import ComposeFile
from stack.engines import compose_plans, compose_proxy
from stack.engines.compose_plans import Wanted, revision_env
from stack.engines.engine_api import EngineApi
from stack.errors import StackError
from stack.model import Service, Snapshot
from stack.plan import PROJECT_LABEL, Command, Plan
from stack.reconcile import running_revision

DISPOSABLE_LABEL = "stack.disposable"

# Where systems keep the CA certificates that they trust, most common first.
CA_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)


class ComposeEngine:
    """One project on the engine that DOCKER_HOST or the Docker context names.

    `project` overrides the name that Compose would take.
    """

    def __init__(self, project: str | None = None) -> None:
        self.compose = ("docker", "compose", *(("--project-name", project) if project else ()))
        self._given = project

    @cached_property
    def api(self) -> EngineApi:
        return EngineApi()

    @cached_property
    def file(self) -> ComposeFile:
        return composefile.load(self.compose, {})

    @cached_property
    def project(self) -> str:
        return self._given or composefile.project_name(self.compose)

    @cached_property
    def lock_path(self) -> Path:
        """The lock that excludes other runs on the same project of the same engine."""
        return lock.lock_path(self.project, self.api.info()["ID"])

    def observe(self) -> Snapshot:
        """What runs. Knows nothing of the Compose file but the project's name."""
        return _observe(self.api, self.project)

    def up(self, counts: Mapping[str, int], *, build: bool) -> Plan:
        """The plan to bring the stack up, with `counts` replicas where a number was asked for."""
        snapshot = self.observe()
        built = [service for service in self.file.services if service.build_context]
        services, revisions = self._revise(snapshot, built)
        to_build = _without_image(services, revisions)
        if to_build and not build:
            raise StackError(
                f"{', '.join(to_build)}: revision not built yet. Run again without --no-build"
            )
        chosen: tuple[Base, ...] = ()
        if to_build:
            chosen = self._bases()
            built = [replace(one, build_args=bases.with_bases(one, chosen)) for one in built]
            services, revisions = self._revise(snapshot, built)
        proxy = next((service for service in built if service.is_proxy), None)
        wanted = Wanted(
            counts=counts,
            revisions=revisions,
            to_build=_without_image(services, revisions),
            bases=chosen,
            build_env=(*_made_here(chosen), *_ca_env(self.file.ca_file)),
            proxy_config=revision.configuration_of(proxy) if proxy else None,
        )
        snapshot = replace(snapshot, services=services)
        if compose_proxy.proxy_is_renewed(snapshot):
            for conflict in self.ports_in_use():
                raise StackError(conflict)
        return compose_plans.up(snapshot, wanted, self.compose)

    def _revise(
        self, snapshot: Snapshot, built: Sequence[Service]
    ) -> tuple[tuple[Service, ...], dict[str, str]]:
        """The services with the revisions of their sources, and these revisions."""
        revisions = {service.name: revision.revision_of(service) for service in built}
        for service in built:
            if service.is_proxy:
                wanted = revisions[service.name]
                revisions[service.name] = compose_proxy.proxy_revision(snapshot, wanted)
        file = composefile.load(self.compose, dict(revision_env(revisions)))
        services = tuple(
            replace(
                service,
                revision=revisions[service.name],
                image_id=self.api.image_id(service.image),
            )
            if service.name in revisions
            else service
            for service in file.services
        )
        return services, revisions

    def scale(self, counts: Mapping[str, int]) -> Plan:
        """The plan to change the numbers of replicas."""
        snapshot = self.observe()
        revisions = {}
        for service in self.file.services:
            if service.build_context and not service.is_proxy:
                # Where none runs: what `up` would start.
                running = running_revision(snapshot, service.name)
                revisions[service.name] = running or revision.revision_of(service)
        file = composefile.load(self.compose, dict(revision_env(revisions)))
        for service in file.services:
            more = counts.get(service.name, 0) > sum(
                replica.is_live for replica in snapshot.of(service.name)
            )
            if more and not self.api.image_id(service.image):
                raise StackError(
                    f"{service.name}: the image {service.image} is not there. Get it and scale: "
                    f"python -m stack up {service.name}={counts[service.name]}"
                )
        return compose_plans.scale(
            replace(snapshot, services=file.services), counts, revisions, self.compose
        )

    def down(self, *, with_volumes: bool) -> Plan:
        """The plan to remove the stack."""
        return compose_plans.down(
            self.observe(),
            {name: name in self.file.networks for name in self.api.networks(self.project)},
            {
                name: labels.get(DISPOSABLE_LABEL) == "true"
                for name, labels in self.api.volumes(self.project).items()
            },
            self.compose,
            with_volumes=with_volumes,
        )

    def ports_in_use(self) -> list[str]:
        """Ports that the Compose file publishes and somebody else has, a sentence each."""
        users = self.api.published_ports()
        ours = {replica.name for replica in self.observe().replicas}
        # Of another machine's ports only the engine knows.
        local = Path(self.api.info()["DockerRootDir"]).is_dir()
        found = []
        for host, port in (pair for one in self.file.services for pair in one.published):
            user = users.get(port)
            if user in ours:
                continue
            if user or (local and _answers(host, port)):
                by = f"container {user}" if user else "a process that is not a container"
                found.append(
                    f"port {port} of {host} is in use by {by}. Choose another: "
                    "HTTP_PORT=8081 python -m stack up"
                )
        return found

    def url(self) -> str | None:
        """Where the proxy answers; None if it publishes no fixed port."""
        services = sorted(self.file.services, key=lambda service: not service.is_proxy)
        published = [port for service in services for port in service.published]
        if not published:
            return None
        host, port = published[0]
        # Listening on every address is reached on this one.
        return f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}/"  # noqa: S104

    def ps_commands(self) -> Plan:
        """The commands whose answers `ps` puts together."""
        mine = ("--filter", f"label={PROJECT_LABEL}={self.project}")
        proxy = compose_proxy.proxy_name(self.observe())
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

    def logs_command(self, service: str | None, *, follow: bool) -> Command:
        """The command that prints logs."""
        options = ("--follow",) if follow else ()
        words = (service,) if service else ()
        return Command((*self.compose, "logs", *options, *words), "what the containers wrote")

    def _bases(self) -> tuple[Base, ...]:
        return tuple(
            self.base(variable, reference)
            for variable, reference in bases.references(self.file.services).items()
        )

    def base(self, variable: str, reference: str) -> Base:
        """Find out which base image to use; asks a registry only if the engine has none."""
        here = bool(self.api.image_id(reference))
        answer = None
        if not here and not bases.is_made_here(reference):
            answer = bases.ask_registry(reference)
        _, made = bases.MADE_HERE.get(variable, ("", ""))
        made_is_here = bool(made and self.api.image_id(made))
        return bases.decide(
            variable, reference, here=here, answer=answer, made_is_here=made_is_here
        )


def _observe(api: EngineApi, project: str) -> Snapshot:
    snapshot = Snapshot(project, replicas=api.replicas(project))
    if snapshot.proxy is None:
        return snapshot
    routing, proxy_config = api.routing(snapshot.proxy)
    draining = {name for routes in routing.values() for name in routes.draining}
    replicas = tuple(
        replace(replica, draining=replica.is_live and replica.name in draining)
        for replica in snapshot.replicas
    )
    return replace(snapshot, routing=routing, proxy_config=proxy_config, replicas=replicas)


def _answers(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


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
