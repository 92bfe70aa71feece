"""Images and revisions, whoever runs them: built, pushed, remembered and forgotten."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from stack.bases import Base
from stack.model import PREVIOUS, Service, Snapshot
from stack.plan import Command, Env, Output, Steps

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


def push(project: str, services: Iterable[Service], registry: str) -> Steps:
    """Put the images of services into the registry."""
    steps: Steps = []
    for service in services:
        remote = f"{registry}/{project}-{service.name}:{service.revision}"
        steps += [
            Command(
                ("docker", "tag", service.image, remote), f"{service.name}: tag it for the registry"
            ),
            Command(
                ("docker", "push", remote),
                f"{service.name}: push revision {service.revision}",
                timeout_s=1800,
                interruptible=True,
            ),
        ]
    return steps


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


def forget(
    snapshot: Snapshot,
    service: Service,
    wanted: Wanted | None,
    registry: str | None = None,
    *,
    force: bool = False,
) -> Steps:
    """After a rollout that failed: nobody is to go back to an image that was made for it. `force`:
    containers that have failed are still there, for their logs.
    """
    image = f"{snapshot.project}-{service.name}:{service.revision}"
    tagged = wanted is not None and image in (name for _, name in wanted.tags)
    if wanted is None or not (service.name in wanted.to_build or tagged):
        return []
    why = f"{service.name}: revision {service.revision} has failed, and is no longer listed"
    options = ("--force",) if force else ()
    return [Command(("docker", "rmi", *options, *_names([image], registry)), why, may_fail=True)]


def prune(snapshot: Snapshot, service: Service, old: str, registry: str | None = None) -> Steps:
    """After a rollout: images of revisions that nobody is likely to want again."""
    running = {replica.revision for replica in snapshot.of(service.name)}
    needed = {service.revision, old, *running}
    others = [r.name for r in snapshot.revisions.get(service.name, ()) if r.name not in needed]
    room = max(0, KEPT_REVISIONS - len(needed))
    doomed = [f"{snapshot.project}-{service.name}:{name}" for name in others[room:]]
    if not doomed:
        return []
    why = f"{service.name}: the last {KEPT_REVISIONS} revisions stay"
    return [Command(("docker", "rmi", *_names(doomed, registry)), why, may_fail=True)]


def _names(images: Sequence[str], registry: str | None) -> list[str]:
    """The images, also by the names under which they were pushed."""
    return [*images, *(f"{registry}/{image}" for image in images if registry)]


def _stem(name: str) -> str:
    return name.upper().replace("-", "_").replace(".", "_")
