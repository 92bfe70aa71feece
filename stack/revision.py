"""The name of a revision: a short hash of the image's sources and of the service's settings.

The same sources and settings give the same name, so an unchanged service is neither built nor
replaced. A proxy's name has two parts, program and configuration, since a new configuration needs
no new container: it is installed into the running one.
"""

import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path

from stack.errors import ConfigurationError
from stack.model import PREVIOUS, Revision, Service

LENGTH = 7
PROXY_CONF = "conf"


def revision_of(service: Service) -> str:
    """The revision that `service` has by its sources and settings of now."""
    context = Path(service.build_context or "")
    if not context.is_dir():
        raise ConfigurationError(f"service {service.name}: no build context {context}")
    files = dict(_files(context, service.dockerfile))
    rest = {f"arg {k}": v.encode() for k, v in service.build_args.items() if k != "REVISION"}
    rest["settings"] = service.settings.encode()
    rest["build"] = service.build_settings.encode()
    if not service.is_proxy:
        return digest({**files, **rest})
    program = {name: data for name, data in files.items() if not name.startswith(f"{PROXY_CONF}/")}
    return f"{digest({**program, **rest})}-{configuration_of(service)}"


def latest_build(name: str, known: Iterable[Revision], *, another: bool) -> str:
    """The revision that the sources `name` are built as: builds of the same sources, on a newer
    base say, are counted. `another`: one that is not there yet.

    >>> latest_build("e1a6501", [Revision("e1a6501", ""), Revision("e1a6501.2", "")], another=True)
    'e1a6501.3'
    """
    counts = [
        int(one.name.rpartition(".")[2]) if "." in one.name else 1
        for one in known
        if re.fullmatch(re.escape(name) + r"(\.[0-9]+)?", one.name)
    ]
    number = max(counts, default=0) + (another or not counts)
    return name if number == 1 else f"{name}.{number}"


def name_of_image(image: str, image_id: str, known: Iterable[Revision]) -> str:
    """The revision that an image from elsewhere becomes: its tag, if that says something and is
    not taken by another; else the beginning of its id.

    >>> name_of_image("shop/web:1.4", "sha256:0123456789ab", [])
    '1.4'
    >>> name_of_image("shop/web", "sha256:0123456789ab", [])
    '0123456'
    """
    tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
    taken = {one.name: one.image_id for one in known}
    if tag and tag not in ("latest", PREVIOUS) and taken.get(tag, image_id) == image_id:
        return tag
    return image_id.removeprefix("sha256:")[:LENGTH]


def configuration_of(proxy: Service) -> str:
    """The digest of the proxy's configuration on disk; `digest` of the running one is the same
    if it is the same.
    """
    return digest(read_tree(Path(proxy.build_context or "") / PROXY_CONF))


def program_of(revision: str) -> str:
    """The part of a proxy's revision that needs a new container when it changes."""
    return revision.partition("-")[0]


def read_tree(directory: Path) -> dict[str, bytes]:
    """All files below a directory, by their path relative to it."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def digest(files: Mapping[str, bytes]) -> str:
    """A short hash of names and contents."""
    total = sha256()
    for name, data in sorted(files.items()):
        total.update(f"{name}\0{len(data)}\0".encode())
        total.update(data)
    return total.hexdigest()[:LENGTH]


def _files(context: Path, dockerfile: str) -> Iterable[tuple[str, bytes]]:
    # Only here: importing the SDK takes as long as a whole `ps`.
    from docker.utils.build import exclude_paths

    ignore = context / ".dockerignore"
    patterns = ignore.read_text().splitlines() if ignore.is_file() else []
    patterns = [line.strip() for line in patterns if line.strip() and not line.startswith("#")]
    for name in exclude_paths(str(context), patterns, dockerfile):
        path = context / name
        if path.is_file():
            executable = b"x" if path.stat().st_mode & 0o100 else b"-"
            yield Path(name).as_posix(), executable + path.read_bytes()
