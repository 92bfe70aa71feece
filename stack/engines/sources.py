"""The revisions that the sources and the Compose file give, and what has to be built for them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from stack import bases, composefile, revision
from stack.bases import Base
from stack.engines import compose_proxy
from stack.engines.compose import ComposeEngine
from stack.engines.engine_api import EngineApi
from stack.engines.images import Wanted, revision_env
from stack.errors import StackError, UsageError
from stack.model import Revision, Service, Snapshot
from stack.plan import Env
from stack.reconcile import running_revision

# Where systems keep the CA certificates that they trust, most common first.
CA_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)


def prepare(
    engine: ComposeEngine,
    snapshot: Snapshot,
    built: Sequence[Service],
    *,
    build: bool,
    anew: Sequence[str] = (),
) -> tuple[Snapshot, Wanted]:
    """Find the revisions of what is built, and what has to be built for them."""
    snapshot = with_revisions(engine, snapshot)
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
        build_env=(*_made_here(chosen), *_ca_env(engine.file.secrets.get("ca"))),
    )
    return replace(snapshot, services=services), wanted


def load(engine: ComposeEngine, revisions: Mapping[str, str]) -> composefile.ComposeFile:
    """The Compose file, with these revisions of services."""
    return composefile.load(engine.compose, dict(revision_env(revisions)))


def running(engine: ComposeEngine, snapshot: Snapshot) -> dict[str, str]:
    """The revisions that run, of services that are built here, but for the proxy."""
    found = {
        one.name: running_revision(snapshot, one.name)
        for one in engine.file.services
        if one.build_context and not one.is_proxy
    }
    return {name: revision for name, revision in found.items() if revision}


def with_revisions(engine: ComposeEngine, snapshot: Snapshot) -> Snapshot:
    found = {
        service.name: engine.api.revisions(f"{snapshot.project}-{service.name}")
        for service in engine.file.services
        if not service.is_proxy
    }
    return replace(snapshot, revisions=found)


def not_by_revision(service: str, image: str) -> str:
    """What to say of an image that has the same name whatever the revision."""
    variable = revision_env({service: ""})[0][0]
    return (
        f"Compose file: service {service}: its image is {image} whatever the revision. Name it "
        f"${{COMPOSE_PROJECT_NAME}}-{service}:${{{variable}:-dev}}"
    )


def no_image(service: str, image: str, known: Sequence[Revision]) -> StackError:
    """What to say where the engine has no such image."""
    return StackError(
        f"{service}: there is no image {image}. Get it first: docker pull {image}. "
        f"Revisions that are there: {', '.join(one.name for one in known) or 'none'}"
    )


def no_revision(service: str, name: str | None, known: Sequence[Revision]) -> UsageError:
    """What to say where there is no such revision, or none before."""
    what = f"no revision {name!r}" if name else "no revision before the one that runs"
    return UsageError(
        f"{service}: {what} is there. There is: "
        f"{', '.join(one.name for one in known) or 'none'} (python -m stack revisions)"
    )


def base(api: EngineApi, variable: str, reference: str) -> Base:
    """Find out which base image to use; asks a registry only if the engine has none."""
    here = bool(api.image_id(reference))
    answer = None
    if not here and not bases.is_made_here(reference):
        answer = bases.ask_registry(reference)
    _, made = bases.MADE_HERE.get(variable, ("", ""))
    made_is_here = bool(made and api.image_id(made))
    return bases.decide(variable, reference, here=here, answer=answer, made_is_here=made_is_here)


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
    names = {**running(engine, snapshot), **names}
    revised = {service.name for service in built}
    services = tuple(
        replace(one, revision=names[one.name], image_id=engine.api.image_id(one.image))
        if one.name in revised
        else one
        for one in load(engine, names).services
    )
    return services, {name: names[name] for name in names if name in revised}


def _bases(engine: ComposeEngine) -> tuple[Base, ...]:
    return tuple(
        base(engine.api, variable, reference)
        for variable, reference in bases.references(engine.file.services).items()
    )


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
