"""The steps on Compose that do not route anything: images, services without a port, hooks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from stack.bases import Base
from stack.model import PREVIOUS, SETTINGS_LABEL, Service, Snapshot
from stack.plan import Command, Env, Output, Source, Steps
from stack.reconcile import Choice, Goal
from stack.transition import post_start

COMPLETED = "service_completed_successfully"

A_DAY_S = 86_400

# Revisions of a service that stay, so that going back to one needs no build.
KEPT_REVISIONS = 5


@dataclass(frozen=True)
class Wanted:
    """What a verb is to bring about, beside what the Compose file says.

    `counts`: replicas that were asked for, by service. `revisions`: of each service that has one.
    `to_build`: those whose image is not there yet. `tags`: images that become revisions, as
    (image, its new name). `build_env`: the environment of the build alone. `proxy_config`: digest
    of the proxy's configuration on disk. `runs_post_start`: Compose is too old to do it.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    revisions: Mapping[str, str] = field(default_factory=dict)
    to_build: tuple[str, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    bases: tuple[Base, ...] = ()
    build_env: Env = ()
    proxy_config: str | None = None
    drain_timeout_s: int | None = None
    runs_post_start: bool = False


def revision_env(revisions: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The variables that compose.yaml takes revisions from: WEB_REVISION for the service web."""
    return tuple((f"{_stem(name)}_REVISION", value) for name, value in sorted(revisions.items()))


def build(snapshot: Snapshot, wanted: Wanted, compose: Sequence[str]) -> Steps:
    """Build what has to be built, on the bases that were decided on."""
    steps: Steps = [
        Command(("docker", "tag", image, name), f"{image} becomes a revision of its own")
        for image, name in wanted.tags
    ]
    if not wanted.to_build:
        return steps
    names = ", ".join(f"{name} {wanted.revisions.get(name, '')}" for name in wanted.to_build)
    # A revision is its image and these settings: going back to it brings both back.
    # In base64, since some versions of Compose and BuildKit read ${...} in a label as theirs.
    config = ("config", "--no-interpolate", "--no-path-resolution", "--format", "json")
    settings = Output(((*compose, *config), ("base64",), ("tr", "-d", "\\n")))
    routed = {service.name for service in snapshot.services if service.port is not None}
    build = Command(
        (*compose, "build", *wanted.to_build),
        f"build {names}",
        (
            *revision_env(wanted.revisions),
            *((f"{_stem(name)}_SETTINGS", settings) for name in wanted.to_build if name in routed),
            *wanted.build_env,
        ),
        timeout_s=3600,
        interruptible=True,
    )
    return [*steps, *(base.step for base in wanted.bases if base.step), build]


def source_of(snapshot: Snapshot, service: Service, compose: Sequence[str]) -> Source:
    """How more replicas of `service.revision` are made: with the settings that its image
    carries, if it does.
    """
    env = revision_env({service.name: service.revision}) if service.revision else ()
    known = {revision.name: revision for revision in snapshot.revisions.get(service.name, ())}
    if service.revision not in known or not known[service.revision].has_settings:
        return Source(tuple(compose), env)
    image = f"{snapshot.project}-{service.name}:{service.revision}"
    label = f'{{{{index .Config.Labels "{SETTINGS_LABEL}"}}}}'
    look = ("docker", "image", "inspect", "--format", label, image)
    return Source((*compose, "--file", "-"), env, (look, ("base64", "-d")))


def old_revision(snapshot: Snapshot, service: str, choice: Choice) -> str:
    """The revision to go back to: what most of those have that a rollout replaces. Where an
    earlier one has not finished, what that was replacing.
    """
    names = [replica.revision for replica in choice.old]
    previous = {one.name for one in snapshot.revisions.get(service, ()) if one.is_previous}
    if len(set(names)) > 1 and previous & set(names):
        return (previous & set(names)).pop()
    return max(names, key=names.count)


def keep_previous(snapshot: Snapshot, service: Service, old: str) -> Steps:
    """Note what `rollback` goes back to: before a rollout, after a rollback."""
    repository = f"{snapshot.project}-{service.name}"
    there = {revision.name: revision for revision in snapshot.revisions.get(service.name, ())}
    if old == service.revision or old not in there or there[old].is_previous:
        return []
    return [
        Command(
            ("docker", "tag", f"{repository}:{old}", f"{repository}:{PREVIOUS}"),
            f"{service.name}: revision {old} is what `rollback` goes back to",
        )
    ]


def restore_previous(snapshot: Snapshot, service: str) -> Steps:
    """Take `keep_previous` back."""
    repository = f"{snapshot.project}-{service}"
    before = next((r.name for r in snapshot.revisions.get(service, ()) if r.is_previous), None)
    if before is None:
        return []
    return [
        Command(
            ("docker", "tag", f"{repository}:{before}", f"{repository}:{PREVIOUS}"),
            f"{service}: revision {before} is what `rollback` goes back to, as before",
        )
    ]


def forget(snapshot: Snapshot, service: Service, wanted: Wanted | None) -> Steps:
    """After a rollout that failed: nobody is to go back to an image that was made for it."""
    image = f"{snapshot.project}-{service.name}:{service.revision}"
    tagged = wanted is not None and image in (name for _, name in wanted.tags)
    if wanted is None or not (service.name in wanted.to_build or tagged):
        return []
    why = f"{service.name}: revision {service.revision} has failed, and is no longer listed"
    return [Command(("docker", "rmi", image), why, may_fail=True)]


def prune(snapshot: Snapshot, service: Service, old: str) -> Steps:
    """After a rollout: images of revisions that nobody is likely to want again."""
    running = {replica.revision for replica in snapshot.of(service.name)}
    needed = {service.revision, old, *running}
    others = [r.name for r in snapshot.revisions.get(service.name, ()) if r.name not in needed]
    room = max(0, KEPT_REVISIONS - len(needed))
    doomed = [f"{snapshot.project}-{service.name}:{name}" for name in others[room:]]
    if not doomed:
        return []
    why = f"{service.name}: the last {KEPT_REVISIONS} revisions stay"
    return [Command(("docker", "rmi", *doomed), why, may_fail=True)]


def renew_plain(
    snapshot: Snapshot,
    names: Iterable[str],
    counts: Mapping[str, int],
    source: Source,
) -> Steps:
    """Let Compose make anew what is outdated and not routed, of `names`: databases and migrations
    come before the replicas that need them.
    """
    steps: Steps = []
    wanted = set(names)
    for service in in_order(snapshot.services):
        mine = snapshot.of(service.name)
        if service.name not in wanted or not is_renewed(snapshot, service):
            continue
        why = f"{service.name}: image or settings have changed"
        if _is_awaited_to_end(snapshot, service):
            # In the foreground: who needs it waits, however long its work takes.
            run = ("up", "--no-build", "--no-deps", "--exit-code-from", service.name, service.name)
            why = f"{service.name}: has to do its work first"
            steps.append(source.command(*run, why=why, timeout_s=A_DAY_S))
            continue
        # Compose would also renew routed replicas that it depends on, without draining them.
        alone = ("--no-deps",) if _needs_routed(snapshot, service) else ()
        totals = {service.name: max(len(mine), counts[service.name])}
        if not alone:
            totals = {**{name: len(snapshot.of(name)) for name in service.needs}, **totals}
        replicas = {one.name: one.replicas for one in snapshot.services}
        numbers = [
            word
            for name, total in totals.items()
            for word in ("--scale", f"{name}={total}")
            if total and total != replicas.get(name)
        ]
        up = ("up", "--detach", "--no-build", *alone, *numbers, service.name)
        steps.append(source.command(*up, why=why))
    return steps


def is_renewed(snapshot: Snapshot, service: Service) -> bool:
    """Whether `renew_plain` makes it anew."""
    mine = snapshot.of(service.name)
    if service.port is not None or service.is_proxy or not mine:
        return False
    if _is_awaited_to_end(snapshot, service):
        return not any(replica.is_done and replica.is_current(service) for replica in mine)
    return any(not replica.is_current(service) for replica in mine)


def make_missing(
    snapshot: Snapshot, goals: Sequence[Goal], choices: Mapping[str, Choice], source: Source
) -> Steps:
    """Let Compose make what is missing of services that have nothing to be replaced, in the order
    of depends_on, and leave the rest alone. All but the proxy: it has nobody to send to yet.
    """
    missing = {goal.service.name for goal in goals if choices[goal.service.name].missing}
    if not missing:
        return []
    # Compose would bring what it touches back to deploy.replicas, and choose itself whom to stop:
    # whatever differs from that is named, with its number.
    totals = {}
    for service in snapshot.services:
        if service.is_proxy or service.name not in choices:
            continue
        choice = choices[service.name]
        there = len((*choice.keep, *choice.old, *choice.leaving))
        total = there + (choice.missing if service.name in missing else 0)
        if service.name in missing or total not in (0, service.replicas):
            totals[service.name] = total
    numbers = [word for name, n in totals.items() for word in ("--scale", f"{name}={n}")]
    steps: Steps = [
        source.command(
            *("up", "--detach", "--no-build", "--no-recreate", *numbers),
            *sorted(missing | totals.keys()),
            why=f"make what is missing of {', '.join(sorted(missing))}, and leave the rest alone",
        )
    ]
    for goal in goals:
        name, choice = goal.service.name, choices[goal.service.name]
        if name in missing:
            others = (*choice.keep, *choice.old, *choice.leaving)
            first = max((replica.number for replica in others), default=0) + 1
            new = range(first, first + choice.missing)
            names = tuple(f"{snapshot.project}-{name}-{number}" for number in new)
            steps += post_start(goal, names)
    return steps


def in_order(services: Iterable[Service]) -> list[Service]:
    """Whoever is depended on comes first."""
    todo = sorted(services, key=lambda service: service.name)
    done: list[Service] = []
    while todo:
        waiting = {service.name for service in todo}
        ready = [one for one in todo if not waiting & set(one.depends_on)]
        # Compose refuses circles itself.
        done += ready or todo
        todo = [service for service in todo if service not in done]
    return done


def _is_awaited_to_end(snapshot: Snapshot, service: Service) -> bool:
    return any(one.conditions.get(service.name) == COMPLETED for one in snapshot.services)


def _needs_routed(snapshot: Snapshot, service: Service) -> bool:
    services = {one.name: one for one in snapshot.services}
    needed = (services[name] for name in service.needs if name in services)
    return any(one.port is not None or one.is_proxy for one in needed)


def _stem(name: str) -> str:
    return name.upper().replace("-", "_").replace(".", "_")
