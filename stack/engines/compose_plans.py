"""The plan for each verb on Compose: pure functions from a snapshot to native commands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from stack.bases import Base
from stack.engines.compose_proxy import (
    is_outdated,
    proxy_is_missing,
    proxy_name,
    proxy_service,
    proxy_steps,
)
from stack.errors import ConfigurationError, StackError
from stack.model import Replica, Service, Snapshot
from stack.plan import Command, Plan, Steps
from stack.reconcile import (
    Choice,
    choose,
    remove_dead,
    route,
    shift,
    wanted_count,
)

MAX_REPLICAS = 100

Env = tuple[tuple[str, str], ...]


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
        for service in _scalable(snapshot)
    }
    choices = {
        service.name: _choose_for_up(snapshot, service, counts[service.name])
        for service in _scalable(snapshot)
    }
    steps = _build(wanted, compose, env)
    steps += _make(snapshot, choices, compose, env, proxy=proxy_is_missing(snapshot))
    # First what the running proxy knows, while it runs. Then what is made anew, among it perhaps
    # the proxy; then what only the new proxy or its new configuration knows.
    name, proxy = proxy_name(snapshot), snapshot.proxy
    known = [
        service
        for service in _scalable(snapshot)
        if proxy and proxy.is_live and (not service.port or service.target in snapshot.routing)
    ]
    for service in known:
        steps += shift(snapshot, service, choices[service.name], name, counts[service.name])
    steps += _renew(snapshot, counts, compose, env)
    steps += proxy_steps(snapshot, wanted.revisions, wanted.proxy_config)
    if is_outdated(snapshot, proxy_service(snapshot)):
        steps += [
            replace(
                route(snapshot, service, choices[service.name], name),
                why=f"{service.name}: a new proxy starts without a list",
                without=(),
            )
            for service in known
            if service.port
        ]
        snapshot = replace(snapshot, routing={})
    for service in _scalable(snapshot):
        if service not in known:
            steps += shift(snapshot, service, choices[service.name], name, counts[service.name])
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
    choices = {}
    for service in _scalable(snapshot):
        live = sum(replica.is_live for replica in snapshot.of(service.name))
        count = counts.get(service.name, live)
        choices[service.name] = choose(snapshot, service, count, config_hash=None)
        if service.name in counts:
            _refuse_what_scale_cannot_do(snapshot, service, count, choices[service.name])
        else:
            choices[service.name] = replace(choices[service.name], dead=())
    steps = _make(snapshot, choices, compose, revision_env(revisions), proxy=False)
    for service in _scalable(snapshot):
        if service.name in counts:
            choice = choices[service.name]
            steps += shift(snapshot, service, choice, proxy_name(snapshot), counts[service.name])
    return Plan(tuple(steps), ", ".join(f"{name} has {n}" for name, n in counts.items()))


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


def _scalable(snapshot: Snapshot) -> list[Service]:
    return [service for service in snapshot.services if not service.is_proxy]


def _choose_for_up(snapshot: Snapshot, service: Service, count: int) -> Choice:
    mine = snapshot.of(service.name)
    if service.port is None and mine and all(_has_done_its_work(replica) for replica in mine):
        return Choice(keep=(), surplus=(), dead=(), missing=0)
    # What is not routed has no requests to lose: Compose renews it in place.
    config_hash = None if service.port is None else service.config_hash
    return choose(snapshot, service, count, config_hash=config_hash)


def _has_done_its_work(replica: Replica) -> bool:
    return not replica.is_live and replica.exit_code == 0 and replica.started_at > 0


def _refuse_what_scale_cannot_do(
    snapshot: Snapshot, service: Service, count: int, choice: Choice
) -> None:
    proxy = snapshot.proxy
    if service.port is not None and (proxy is None or not proxy.is_live):
        raise StackError(f"the stack is not up. Run: python -m stack up {service.name}={count}")
    if choice.missing and any(r.config_hash != service.config_hash for r in choice.keep):
        raise ConfigurationError(
            f"{service.name}: its settings in the Compose file have changed since its replicas "
            "were made, and new replicas would differ from them. "
            f"To apply the change and scale: python -m stack up {service.name}={count}"
        )


def _build(wanted: Wanted, compose: Sequence[str], env: Env) -> Steps:
    if not wanted.to_build:
        return []
    names = ", ".join(f"{name} {wanted.revisions.get(name, '')}" for name in wanted.to_build)
    build = Command(
        (*compose, "build", *wanted.to_build),
        f"build {names}",
        (*env, *wanted.build_env),
        timeout_s=3600,
    )
    return [*(base.step for base in wanted.bases if base.step), build]


def _make(
    snapshot: Snapshot,
    choices: Mapping[str, Choice],
    compose: Sequence[str],
    env: Env,
    *,
    proxy: bool,
) -> Steps:
    """Let Compose make what is missing, in the order of depends_on, and leave the rest alone."""
    steps: Steps = []
    for service in _scalable(snapshot):
        steps += remove_dead(service, choices[service.name])
    missing = {name for name, choice in choices.items() if choice.missing}
    missing |= {service.name for service in snapshot.services if service.is_proxy and proxy}
    if not missing:
        return steps
    # Compose would bring what it touches back to deploy.replicas, and choose itself whom to stop:
    # whatever differs from that is named, with its number.
    totals = {
        service.name: choices[service.name].total
        for service in _scalable(snapshot)
        if service.name in missing or _differs(service, choices[service.name].total)
    }
    named = sorted(missing | totals.keys())
    everything = len(named) == len(snapshot.services)
    variables = {name for name, _ in revision_env(dict.fromkeys(named, ""))}
    steps.append(
        Command(
            (
                *(*compose, "up", "--detach", "--no-build", "--no-recreate"),
                *_numbers(totals),
                *(() if everything else named),
            ),
            f"make what is missing of {', '.join(sorted(missing))}; "
            "--no-recreate leaves the rest alone",
            tuple(pair for pair in env if pair[0] in variables),
        )
    )
    return steps


def _differs(service: Service, total: int) -> bool:
    return total not in (0, service.replicas)


def _numbers(totals: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(word for name, n in totals.items() for word in ("--scale", f"{name}={n}"))


def _renew(
    snapshot: Snapshot, counts: Mapping[str, int], compose: Sequence[str], env: Env
) -> Steps:
    """Let Compose make anew what is outdated and not routed. It comes when all routed replicas
    are up to date, so that Compose finds nothing to do with those it depends on.
    """
    outdated = [
        service
        for service in snapshot.services
        if service.port is None and is_outdated(snapshot, service)
    ]
    if not outdated:
        return []
    names = ", ".join(service.name for service in outdated)
    why = f"{names}: settings or program have changed"
    if any(service.is_proxy for service in outdated):
        why += ". One port, one proxy: there is no answer for about a second"
    totals = {
        service.name: counts[service.name]
        for service in _scalable(snapshot)
        if _differs(service, counts[service.name])
    }
    words = sorted({service.name for service in outdated} | totals.keys())
    return [
        Command((*compose, "up", "--detach", "--no-build", *_numbers(totals), *words), why, env)
    ]
