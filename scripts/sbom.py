"""Write a bill of materials for each image of the running stack: sbom/SERVICE.cdx.json (CycloneDX).

    .venv/bin/python scripts/sbom.py

The packages are those that the image itself lists: Debian's, Python's and Python itself. No
registry is asked. Exit code 1 where nothing runs.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

OUTPUT = Path("sbom")
DEBIAN = ("dpkg-query", "--show", "--showformat", r"${Package} ${Version} ${Architecture}\n")
PYTHON = (
    "import importlib.metadata as m, platform\n"
    "print('python', platform.python_version())\n"
    "for one in m.distributions(): print(one.metadata['Name'], one.version)"
)
# The app's packages, and the interpreter's own.
INTERPRETERS = ("/opt/venv/bin/python3", "/usr/local/bin/python3")


def main() -> int:
    """Write the files; return the exit code."""
    argv = (sys.executable, "-m", "stack", "ps", "--json")
    rows = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)
    project = json.loads(_run("docker", "compose", "config", "--format", "json"))["name"]
    images = {row["service"]: f"{project}-{row['service']}:{row['revision']}" for row in rows}
    if not images:
        sys.stderr.write("nothing runs; start it: make up\n")
        return 1
    OUTPUT.mkdir(exist_ok=True)
    for service, image in sorted(images.items()):
        text = bom(service, image)
        path = OUTPUT / f"{service}.cdx.json"
        path.write_text(text)
        sys.stdout.write(f"{path}: {len(json.loads(text)['components'])} packages of {image}\n")
    return 0


def bom(service: str, image: str) -> str:
    """The bill of materials of an image, as JSON that fits CycloneDX 1.6."""
    made = Bom(components=packages(image))
    made.metadata.component = Component(
        name=service, type=ComponentType.CONTAINER, version=image.rpartition(":")[2]
    )
    made.register_dependency(made.metadata.component, made.components)
    text = JsonV1Dot6(made).output_as_string(indent=2)
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error:
        raise ValueError(error)
    return text


def packages(image: str) -> Iterator[Component]:
    """What the image says is installed in it."""
    for line in _in_image(image, *DEBIAN).splitlines():
        name, version, architecture = line.split()
        yield _component(PackageURL("deb", "debian", name, version, {"arch": architecture}))
    found = set()
    for interpreter in INTERPRETERS:
        script = f'[ ! -x {interpreter} ] || exec {interpreter} -c "{PYTHON}"'
        found |= set(_in_image(image, "sh", "-c", script).splitlines())
    for line in sorted(found):
        name, version = line.split()
        kind = "generic" if name == "python" else "pypi"
        yield _component(PackageURL(kind, None, name, version))


def _component(purl: PackageURL) -> Component:
    return Component(
        name=purl.name,
        version=purl.version,
        type=ComponentType.LIBRARY,
        purl=purl,
        bom_ref=purl.to_string(),
    )


def _in_image(image: str, *argv: str) -> str:
    return _run(*("docker", "run", "--rm", "--network", "none", "--entrypoint", ""), image, *argv)


def _run(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
