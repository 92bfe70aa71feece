"""The verbs on Swarm: reads what each needs to know, then asks for its plan."""

import base64
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from stack import bases, certificates, composefile, revision
from stack.engines import swarm_plans
from stack.engines.images import Wanted, build, push, revision_env
from stack.engines.sources import no_image, no_revision, prepare, with_revisions
from stack.engines.swarm import SwarmEngine, has_ipvs
from stack.engines.swarm_deploy import Wish, plan_for, refuse_unreachable_images, with_note
from stack.engines.swarm_file import INGRESS, PUBLISH_LABEL, publish_mode
from stack.engines.swarm_model import Cluster
from stack.engines.swarm_reads import file_digests
from stack.errors import ConfigurationError, StackError, UsageError
from stack.model import NAMESPACE_LABEL, SETTINGS_LABEL, Revision, Service, Snapshot
from stack.plan import Command, Plan


class SwarmVerbs:
    """What each verb does on Swarm; see Verbs."""

    def __init__(self, engine: SwarmEngine) -> None:
        self._engine = engine

    def up(self, counts: Mapping[str, int], drain_timeout_s: int | None, *, build: bool) -> Plan:
        cluster = self._engine.cluster()
        if not any(one.is_proxy for one in cluster.snapshot.replicas):
            for conflict in self._engine.ports_in_use():
                raise StackError(conflict)
        if certificates.steps(self._engine.file):
            raise StackError(
                "STACK_TLS is 1, and there is no certificate, or it is about to expire. Make one "
                "for the names of the nodes: python -m stack cert NAME..."
            )
        services, wanted = self._prepare(None, build=build)
        wanted = replace(wanted, counts=counts, drain_timeout_s=drain_timeout_s)
        return self._deploy(cluster, services, wanted)

    def rollout(self, names: Sequence[str], drain_timeout_s: int | None, *, again: bool) -> Plan:
        cluster = self._engine.cluster()
        services, wanted = self._prepare(names, build=True, anew=names if again else ())
        chosen = [service for service in services if service.name in names]
        wanted = replace(wanted, drain_timeout_s=drain_timeout_s)
        return self._deploy(cluster, chosen, wanted)

    def rollout_image(self, service: str, image: str, drain_timeout_s: int | None) -> Plan:
        cluster = self._engine.cluster()
        known = self._known(service)
        if image in {one.name for one in known}:
            return self.rollback(service, image, drain_timeout_s)
        image_id = self._engine.api.image_id(image)
        if not image_id:
            raise no_image(service, image, known)
        name = revision.name_of_image(image, image_id, known)
        local = f"{self._engine.project}-{service}:{name}"
        chosen = [
            replace(one, revision=name, image=local)
            for one in self._engine.file.services
            if one.name == service
        ]
        tags = () if name in {one.name for one in known} else ((image, local),)
        wanted = Wanted(revisions={service: name}, tags=tags)
        wanted = replace(wanted, drain_timeout_s=drain_timeout_s)
        return self._deploy(cluster, chosen, wanted)

    def rollback(self, service: str, name: str | None, drain_timeout_s: int | None) -> Plan:
        cluster = self._engine.cluster()
        known = self._known(service)
        there = cluster.services.get(service)
        name = name or (there.previous if there else "")
        found = next((one for one in known if one.name == name), None)
        if found is None:
            raise no_revision(service, name, known)
        image = f"{self._engine.project}-{service}:{found.name}"
        recorded = self._engine.api.image_labels(image).get(SETTINGS_LABEL, "")
        text = base64.b64decode(recorded).decode()
        wanted = Wanted(revisions={service: found.name})
        document = self._document(wanted, text)
        # As the file was then, but for what Swarm does not keep: the hashes are Compose's.
        chosen = [
            replace(one, revision=found.name, image_id=found.image_id)
            for one in composefile.described(document, {}).services
            if one.name == service
        ]
        if not chosen or not chosen[0].image.endswith(f":{found.name}"):
            raise ConfigurationError(
                f"{service}: in the Compose file of revision {found.name}, its image is another "
                "whatever the revision"
            )
        wanted = replace(wanted, drain_timeout_s=drain_timeout_s)
        return self._deploy(cluster, chosen, wanted, document, at_once=True)

    def restart(self, service: str, drain_timeout_s: int | None) -> Plan:
        cluster = self._engine.cluster()
        self._require_deployed(cluster, [service])
        self._refuse_unreachable(cluster, [service])
        chosen = next(one for one in self._engine.file.services if one.name == service)
        return with_note(swarm_plans.restart(cluster, chosen), drain_timeout_s)

    def scale(self, counts: Mapping[str, int], drain_timeout_s: int | None) -> Plan:
        cluster = self._engine.cluster()
        self._require_deployed(cluster, counts)
        self._refuse_unreachable(cluster, counts)
        return with_note(
            swarm_plans.scale(cluster, self._engine.file.services, counts), drain_timeout_s
        )

    def down(self, *, with_volumes: bool) -> Plan:
        plan = swarm_plans.down(self._engine.cluster(), self._engine.file.services)
        if not with_volumes:
            return plan
        label = f"label={NAMESPACE_LABEL}={self._engine.project}"
        note = (
            "volumes are on each node, and only that node removes them: docker volume prune --all "
            f"--filter {label}"
        )
        return replace(plan, notes=(*plan.notes, note))

    def push(self, names: Sequence[str]) -> Plan:
        registry = self._engine.registry(self._engine.cluster())
        if not registry:
            raise UsageError("say where to: python -m stack --registry HOST:PORT push")
        services, wanted = self._prepare(names, build=True)
        chosen = [one for one in services if one.name in names and one.build_context]
        project = self._engine.project
        steps = [
            *build(Snapshot(project, services=services), wanted, self._engine.local.compose),
            *push(project, chosen, registry),
        ]
        return Plan(tuple(steps), outcome="there is nothing to push")

    def revisions(self) -> Snapshot:
        cluster = self._engine.cluster()
        snapshot = with_revisions(self._engine.local, cluster.snapshot)
        known = {
            service: tuple(
                replace(one, is_previous=one.name == cluster.services[service].previous)
                if service in cluster.services
                else one
                for one in found
            )
            for service, found in snapshot.revisions.items()
        }
        return replace(snapshot, revisions=known)

    def revisions_commands(self) -> Plan:
        return self._engine.local.verbs.revisions_commands()

    def ps_commands(self) -> Plan:
        return Plan(
            (
                Command(
                    (
                        *("docker", "stack", "ps", "--filter", "desired-state=running"),
                        self._engine.project,
                    ),
                    "replicas, their nodes and states",
                ),
                Command(("docker", "stats", "--no-stream"), "memory of those on this node"),
            )
        )

    def logs_command(self, service: str | None, options: Sequence[str]) -> Command:
        names = [service] if service else sorted(self._engine.cluster().services)
        commands = [
            ("docker", "service", "logs", *options, f"{self._engine.project}_{name}")
            for name in names
        ]
        why = "what the containers wrote"
        if len(commands) == 1:
            return Command(commands[0], why)
        # Swarm prints the logs of one service at a time.
        script = "".join(f"{shlex.join(command)} & " for command in commands)
        stop = "trap - INT TERM; kill $(jobs -p) 2>/dev/null"
        return Command(("sh", "-c", f"trap '{stop}' INT TERM; {script}wait"), why)

    def _prepare(
        self, names: Sequence[str] | None, *, build: bool, anew: Sequence[str] = ()
    ) -> tuple[tuple[Service, ...], Wanted]:
        """The services with the revisions of their sources, of all or of `names`, and what has to
        be built for that.
        """
        local = self._engine.local
        built = [
            one
            for one in local.file.services
            if one.build_context and (names is None or one.name in names)
        ]
        snapshot, wanted = prepare(local, Snapshot(local.project), built, build=build, anew=anew)
        return snapshot.services, wanted

    def _deploy(
        self,
        cluster: Cluster,
        services: Sequence[Service],
        wanted: Wanted,
        document: Mapping[str, Any] | None = None,
        *,
        at_once: bool = False,
    ) -> Plan:
        """The plan to deploy these services as the Compose file says, or as `document` does."""
        local = self._engine.local
        if local.observe().replicas:
            raise StackError(
                f"project {local.project} runs under Compose on this engine. End it first: "
                "python -m stack --engine compose down"
            )
        document = document or self._document(wanted)
        self._refuse_ingress_without_ipvs(document, services)
        registry = self._engine.registry(cluster)
        wish = Wish(
            tuple(services),
            wanted,
            document,
            registry,
            digests=file_digests(document),
            at_once=at_once,
        )
        if registry:
            found = {one.name: self._pushed(one, registry) for one in wish.revised}
            pushed = {name: digest for name, digest in found.items() if digest}
            wish = replace(wish, pushed=pushed)
        known = replace(cluster, snapshot=with_revisions(local, cluster.snapshot))
        return plan_for(known, wish, local.compose)

    def _refuse_ingress_without_ipvs(
        self, document: Mapping[str, Any], services: Sequence[Service]
    ) -> None:
        wants_it = publish_mode(document, services) == INGRESS
        if wants_it and self._engine.api.is_local and not has_ipvs():
            raise ConfigurationError(
                f"this machine's kernel has no IPVS, which {PUBLISH_LABEL}: {INGRESS} needs"
            )

    def _document(self, wanted: Wanted, text: str = "") -> dict[str, Any]:
        env = dict(revision_env(wanted.revisions))
        return composefile.document(self._engine.local.compose, env, text=text)

    def _known(self, service: str) -> tuple[Revision, ...]:
        return self._engine.api.revisions(f"{self._engine.project}-{service}")

    def _pushed(self, service: Service, registry: str) -> str:
        """The digest by which the registry has this revision; empty if it has not what is here."""
        repository = f"{registry}/{self._engine.project}-{service.name}"
        reference = f"{repository}:{service.revision}"
        known = self._engine.api.image_digests(reference)
        mine = [one.partition("@")[2] for one in known if one.startswith(f"{repository}@")]
        if not mine:
            return ""
        answer = bases.ask_registry(reference)
        if answer.verdict == bases.NO_REGISTRY:
            # Nodes that have it can run it all the same.
            return mine[0]
        return answer.digest if answer.digest in mine else ""

    def _refuse_unreachable(
        self, cluster: Cluster, names: "Mapping[str, int] | Sequence[str]"
    ) -> None:
        project = self._engine.project
        if any(cluster.services[name].image.startswith(f"{project}-{name}:") for name in names):
            refuse_unreachable_images(cluster)

    def _require_deployed(
        self, cluster: Cluster, names: "Mapping[str, int] | Sequence[str]"
    ) -> None:
        missing = [name for name in names if name not in cluster.services]
        if missing:
            raise StackError(
                f"{', '.join(missing)}: not deployed on this Swarm. Deploy: python -m stack up"
            )
