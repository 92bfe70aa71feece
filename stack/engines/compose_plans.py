"""The plan for each verb on Compose: pure functions from a snapshot to native commands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from stack.bases import Base
from stack.errors import ConfigurationError, StackError
from stack.model import Replica, Service, Snapshot
from stack.plan import Command, Plan, Route, WaitReady
from stack.reconcile import (
    Choice,
    choose,
    remove_dead,
    shift,
    wanted_count,
)
from stack.revision import PROXY_CONF, program_of

MAX_REPLICAS = 100

Env = tuple[tuple[str, str], ...]
Steps = list[Command | WaitReady | Route]


@dataclass(frozen=True)
class Wanted:
    """What `up` is to bring about, beside what the Compose file says.

    `counts`: replicas that were asked for, by service. `revisions`: of each service that is
    built. `to_build`: those whose image is not there yet. `build_env`: the environment of the
    build alone. `proxy_config`: digest of the proxy's configuration on disk.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    revisions: Mapping[str, str] = field(default_factory=dict)
    to_build: tuple[str, ...] = ()
    bases: tuple[Base, ...] = ()
    build_env: Env = ()
    proxy_config: str | None = None


def revision_env(revisions: Mapping[str, str]) -> Env:
    """The variables that compose.yaml takes revisions from: WEB_REVISION for the service web."""
    return tuple(
        (f"{name.upper().replace('-', '_').replace('.', '_')}_REVISION", revision)
        for name, revision in sorted(revisions.items())
    )


def up(snapshot: Snapshot, wanted: Wanted, compose: Sequence[str]) -> Plan:
    """Bring everything that the Compose file describes about, and nothing that is there down."""
    env = revision_env(wanted.revisions)
    counts = {
        service.name: wanted.counts.get(service.name, wanted_count(snapshot, service))
        for service in snapshot.services
        if not service.is_proxy
    }
    choices = {
        service.name: choose(
            snapshot, service, counts[service.name], config_hash=service.config_hash
        )
        for service in snapshot.services
        if service.port is not None
    }
    steps: Steps = [base.step for base in wanted.bases if base.step] if wanted.to_build else []
    if wanted.to_build:
        steps.append(
            Command(
                (*compose, "build", *wanted.to_build),
                "build " + _revisions(wanted),
                (*env, *wanted.build_env),
                timeout_s=3600,
            )
        )
    for service in snapshot.services:
        if service.name in choices:
            steps += remove_dead(service, choices[service.name])
    steps += _make(snapshot, counts, choices, (*compose, "up", "--detach", "--no-build"), env)
    steps += _proxy(snapshot, wanted, compose, env)
    if any(service.is_proxy and _is_outdated(snapshot, service) for service in snapshot.services):
        # A new proxy starts without lists.
        snapshot = replace(snapshot, routing={})
    for service in snapshot.services:
        if service.port is not None:
            steps += shift(
                snapshot,
                service,
                choices[service.name],
                proxy_name(snapshot),
                counts[service.name],
            )
    return Plan(tuple(steps), "everything is up and as the Compose file says")


def scale(
    snapshot: Snapshot,
    counts: Mapping[str, int],
    revisions: Mapping[str, str],
    compose: Sequence[str],
) -> Plan:
    """Change numbers of replicas. `revisions` are those that new ones will be of: the running
    ones, for which the services' hashes have been computed.
    """
    steps: Steps = []
    for service in snapshot.services:
        if service.name in counts:
            steps += _scale(snapshot, service, counts[service.name], revisions, compose)
    return Plan(tuple(steps), ", ".join(f"{name} has {n}" for name, n in counts.items()))


def _scale(
    snapshot: Snapshot,
    service: Service,
    count: int,
    revisions: Mapping[str, str],
    compose: Sequence[str],
) -> Steps:
    proxy = snapshot.proxy
    if service.port is not None and (proxy is None or not proxy.is_live):
        raise StackError(f"the stack is not up. Run: python -m stack up {service.name}={count}")
    choice = choose(snapshot, service, count, config_hash=None)
    steps: Steps = list(remove_dead(service, choice))
    own = {name: value for name, value in revisions.items() if name == service.name}
    changed = any(replica.config_hash != service.config_hash for replica in choice.keep)
    if choice.missing and changed:
        raise ConfigurationError(
            f"{service.name}: its settings in the Compose file have changed since its replicas "
            "were made, and new replicas would differ from them. "
            f"To apply the change and scale: python -m stack up {service.name}={count}"
        )
    if choice.missing:
        steps.append(
            Command(
                (
                    *(*compose, "up", "--detach", "--no-build", "--no-deps", "--no-recreate"),
                    *("--scale", f"{service.name}={choice.total}", service.name),
                ),
                f"{service.name}: make {choice.missing} more; --no-recreate leaves the rest alone",
                revision_env(own),
            )
        )
    return steps + shift(snapshot, service, choice, proxy_name(snapshot), count)


def down(
    snapshot: Snapshot,
    networks: Sequence[str],
    volumes: Mapping[str, bool],
    compose: Sequence[str],
    *,
    with_volumes: bool,
) -> Plan:
    """Stop and remove everything of the project. `volumes`: of each, whether it holds nothing of
    value; those go always, the others only `with_volumes`.
    """
    steps: Steps = []
    doomed = [name for name, disposable in volumes.items() if disposable or with_volumes]
    if snapshot.replicas or networks:
        steps.append(
            Command(
                (*compose, "down", "--remove-orphans"),
                "stop the proxy, then what is behind it, then remove containers and networks",
            )
        )
    if doomed:
        steps.append(
            Command(
                ("docker", "volume", "rm", *doomed),
                "remove the volumes" if with_volumes else "holds only what the next `up` writes",
            )
        )
    kept = [name for name in volumes if name not in doomed]
    notes = (f"kept: volume {', '.join(kept)} (remove with --volumes)",) if kept else ()
    return Plan(tuple(steps), "nothing of the project is there", notes)


def proxy_name(snapshot: Snapshot) -> str:
    """The name of the proxy's container, also before Compose has made it."""
    if snapshot.proxy:
        return snapshot.proxy.name
    service = next((service for service in snapshot.services if service.is_proxy), None)
    return f"{snapshot.project}-{service.name if service else 'proxy'}-1"


def _make(
    snapshot: Snapshot,
    counts: Mapping[str, int],
    choices: Mapping[str, Choice],
    compose_up: Sequence[str],
    env: Env,
) -> Steps:
    """Let Compose make what is missing, in the order of depends_on, and renew what is outdated
    and not routed.
    """
    steps: Steps = []
    plain = [service for service in snapshot.services if service.port is None]
    outdated = [
        service.name
        for service in plain
        if not service.is_proxy and _is_outdated(snapshot, service)
    ]
    if outdated:
        steps.append(
            Command(
                (*compose_up, "--no-deps", *outdated),
                f"the settings of {', '.join(outdated)} have changed",
                env,
            )
        )
    missing = [name for name, choice in choices.items() if choice.missing]
    missing += [
        service.name
        for service in plain
        if service.name not in outdated
        and not (service.is_proxy and _is_outdated(snapshot, service))
        and sum(map(_counts_as_there, snapshot.of(service.name))) < counts.get(service.name, 1)
    ]
    if not missing:
        return steps
    # Every routed service has its number here: without it Compose would go back to
    # deploy.replicas, and choose itself whom to stop.
    totals = {name: choice.total for name, choice in choices.items()} | {
        service.name: max(counts[service.name], len(snapshot.of(service.name)))
        for service in plain
        if service.name in counts
    }
    numbers = [
        word
        for service in snapshot.services
        if service.name in totals
        and (totals[service.name] != service.replicas or service.port is not None)
        for word in ("--scale", f"{service.name}={totals[service.name]}")
    ]
    everything = len(missing) == len(snapshot.services)
    steps.append(
        Command(
            (
                *(*compose_up, "--no-recreate", *numbers),
                *(() if everything else sorted(missing)),
            ),
            f"make what is missing: {', '.join(sorted(missing))}",
            env,
        )
    )
    return steps


def _is_outdated(snapshot: Snapshot, service: Service) -> bool:
    return any(r.config_hash != service.config_hash for r in snapshot.of(service.name))


def _counts_as_there(replica: Replica) -> bool:
    """Running, or a one-shot service that has done its work."""
    return replica.is_live or (replica.exit_code == 0 and replica.started_at > 0)


def _proxy(snapshot: Snapshot, wanted: Wanted, compose: Sequence[str], env: Env) -> Steps:
    """Bring the proxy up to date: a new configuration is installed into the running one, only a
    new program needs a new container.
    """
    service = next((service for service in snapshot.services if service.is_proxy), None)
    if service is None:
        return []
    ready = WaitReady(
        snapshot.project,
        service,
        1,
        service.start_timeout_s,
        f"{service.name}: wait until it answers",
    )
    proxy = snapshot.proxy
    if proxy is None:
        return [ready]
    running_config = snapshot.proxy_config
    steps: Steps = []
    if proxy.config_hash != service.config_hash:
        renew = Command(
            (*compose, "up", "--detach", "--no-build", "--no-deps", service.name),
            f"{service.name}: its program or settings have changed. One port, one proxy: "
            "there is no answer for about a second",
            env,
        )
        steps += [renew, ready]
        running_config = wanted.revisions.get(service.name, "").partition("-")[2]
    elif not proxy.is_ready:
        steps.append(ready)
    if wanted.proxy_config and wanted.proxy_config != running_config:
        steps.append(
            Command(
                ("docker", "exec", "-i", proxy.name, "proxy", "configure"),
                f"{service.name}: check the changed configuration, then take it over",
                feed=("tar", "-c", "-C", f"{service.build_context}/{PROXY_CONF}", "."),
                timeout_s=60,
            )
        )
    return steps


def proxy_revision(snapshot: Snapshot, wanted: str) -> str:
    """The revision to name to Compose: the running proxy's, as long as only the configuration
    differs, so that Compose leaves its container alone.
    """
    proxy = snapshot.proxy
    if proxy and proxy.is_live and program_of(proxy.revision) == program_of(wanted):
        return proxy.revision
    return wanted


def _revisions(wanted: Wanted) -> str:
    return ", ".join(f"{name} {wanted.revisions.get(name, '')}".strip() for name in wanted.to_build)
