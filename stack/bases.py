"""Base images: official ones where a registry answers, else made from Debian packages.

A Dockerfile names its base in a build argument that ends in _IMAGE, with the official image as
default; compose.yaml passes the variable of the same name on.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from stack.errors import ConfigurationError, EngineUnavailable, NotPermitted
from stack.model import Service
from stack.plan import Command

# What scripts/debian-base.sh can make, by the variable that it records in .env.
MADE_HERE = {
    "PYTHON_IMAGE": ("python", "stack-base/python:3.13"),
    "NGINX_IMAGE": ("nginx", "stack-base/nginx:1.30"),
}
SCRIPT = Path(__file__).parent.parent / "scripts" / "debian-base.sh"

REGISTRY_TIMEOUT_S = 20

AVAILABLE, NO_REGISTRY, NO_SUCH_IMAGE, NOT_ALLOWED = (
    "available",
    "no registry",
    "no such image",
    "not allowed",
)


@dataclass(frozen=True)
class Answer:
    """What a registry said about an image, or why none did; `digest` is what it has."""

    verdict: str
    detail: str = ""
    digest: str = ""


@dataclass(frozen=True)
class Base:
    """The base image to use for `variable`, the reason, and the step that provides it, if any."""

    variable: str
    reference: str
    reason: str
    step: Command | None = None


def references(services: Iterable[Service]) -> dict[str, str]:
    """Which base each *_IMAGE variable names: its value in the Compose file, or the Dockerfile's
    default.
    """
    found: dict[str, str] = {}
    for service in services:
        if service.build_context:
            path = Path(service.build_context) / service.dockerfile
            text = path.read_text() if path.is_file() else ""
            for variable, default in re.findall(r"^ARG (\w+_IMAGE)=(\S+)", text, re.MULTILINE):
                found[variable] = service.build_args.get(variable, default)
    return found


def is_made_here(reference: str) -> bool:
    return any(reference == made for _, made in MADE_HERE.values())


def ask_registry(reference: str) -> Answer:
    """Ask the image's registry for it, with the user's credentials; nothing is downloaded."""
    # Only here: importing the SDK takes as long as a whole `ps`.
    import docker
    from docker.errors import APIError, DockerException

    try:
        client = docker.from_env(timeout=REGISTRY_TIMEOUT_S)
        found = client.api.inspect_distribution(reference)  # type: ignore[no-untyped-call]
    except APIError as error:
        return classify(error.status_code, error.explanation or str(error))
    except (DockerException, OSError) as error:
        return classify(None, str(error))
    return Answer(AVAILABLE, digest=found["Descriptor"]["digest"])


def classify(status: int | None, text: str) -> Answer:
    """Tell the three ways apart in which a registry does not give an image.

    `status` is the HTTP status that the engine passed on, None if it did not answer in time.
    """
    detail = text.strip() or "no answer"
    # A registry that does not want to say whether an image exists says "denied" for both.
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return Answer(NOT_ALLOWED, detail)
    if status == HTTPStatus.NOT_FOUND:
        return Answer(NO_SUCH_IMAGE, detail)
    return Answer(NO_REGISTRY, detail)


def decide(
    variable: str,
    reference: str,
    *,
    here: bool,
    answer: Answer | None,
    made_is_here: bool = False,
) -> Base:
    """The base to use. `answer` is needed only where the engine does not have the image;
    `made_is_here` says whether it has the one that is made from packages.

    Raises ConfigurationError (no such image), NotPermitted, or EngineUnavailable where no
    registry answers and the base cannot be made.
    """
    if here:
        return Base(variable, reference, "is there already")
    if is_made_here(reference):
        return _made(variable, f"{reference} is made on this machine", is_here=made_is_here)
    if answer is None or answer.verdict == NO_REGISTRY:
        why = f"no registry answers for {reference} ({answer.detail if answer else 'not asked'})"
        return _made(variable, why, is_here=made_is_here)
    if answer.verdict == NO_SUCH_IMAGE:
        raise ConfigurationError(
            f"base image {reference}: the registry answers, but has no such image "
            f"({answer.detail}). Correct {variable}"
        )
    if answer.verdict == NOT_ALLOWED:
        raise NotPermitted(
            f"base image {reference}: the registry does not give it to this user "
            f"({answer.detail}). Log in with `docker login`, or set {variable} to another image"
        )
    why = "the registry has it"
    return Base(
        variable, reference, why, Command(("docker", "pull", reference), f"base image: {why}")
    )


def with_bases(service: Service, bases: Iterable[Base]) -> Mapping[str, str]:
    """The service's build arguments, with the bases that were decided on."""
    made = {base.variable: base.reference for base in bases if is_made_here(base.reference)}
    path = Path(service.build_context or "") / service.dockerfile
    text = path.read_text() if path.is_file() else ""
    return {**service.build_args, **{k: v for k, v in made.items() if f"ARG {k}" in text}}


def _made(variable: str, why: str, *, is_here: bool) -> Base:
    if is_here and not SCRIPT.exists():
        return Base(variable, MADE_HERE[variable][1], f"{why}, made from packages before")
    if variable not in MADE_HERE or not SCRIPT.exists():
        raise EngineUnavailable(
            f"{why}, and it cannot be made here. Connect to a registry, `docker load` the image, "
            f"or set {variable} to one that the engine has"
        )
    name, reference = MADE_HERE[variable]
    script = os.path.relpath(SCRIPT)
    step = Command((script, name), f"base image: {why}; made from Debian packages", timeout_s=1800)
    return Base(variable, reference, why, step)
