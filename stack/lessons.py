"""The lessons: their texts, and how to get rid of what they leave."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stack.engines import Engine
from stack.errors import UsageError
from stack.model import PROJECT_LABEL
from stack.plan import Command, Plan, Steps

if TYPE_CHECKING:
    from rich.console import Console

LESSONS = Path("docs/lessons")
# The project of the lessons' stack, and where their files are.
NAME = "lesson"
DIRECTORY = Path(NAME)
CODE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# All that lessons make.
PROJECTS = (NAME, "lesson-two")
CONTAINERS = (
    *("lesson-hello", "lesson-app", "lesson-shell", "lesson-crash"),
    *("lesson-modest", "lesson-greedy", "lesson-registry"),
)
IMAGES = (
    *("lesson-hello", "lesson-python", "lesson-web", "lesson-proxy"),
    "127.0.0.1:5088/lesson-hello",
)


@dataclass(frozen=True)
class Lesson:
    """A lesson: its number, its title, and its text, in Markdown."""

    number: int
    title: str
    path: Path

    @property
    def text(self) -> str:
        return self.path.read_text()


def lessons() -> list[Lesson]:
    """All of them, in their order. Raises UsageError where there are none."""
    paths = sorted(LESSONS.glob("[0-9][0-9]-*.md"))
    if not paths:
        raise UsageError(f"there are no lessons here: they are in {LESSONS} of a clone")
    found = []
    for path in paths:
        number, _, title = path.read_text().splitlines()[0].removeprefix("# ").partition(". ")
        found.append(Lesson(int(number), title, path))
    return found


def lesson(number: int) -> Lesson:
    """The lesson of this number; raises UsageError if there is none."""
    found = {one.number: one for one in lessons()}
    if number not in found:
        raise UsageError(f"there is no lesson {number}; there are 1 to {max(found)}")
    return found[number]


def listed(lessons: Sequence[Lesson]) -> str:
    """All lessons, a line each."""
    lines = [f"{one.number:>2}  {one.title}" for one in lessons]
    return "\n".join([*lines, "", f"python -m stack learn 1; or read them in {LESSONS}"])


def show(lesson: Lesson) -> None:
    """Print a lesson: set for a terminal, as it is for everybody else."""
    if not sys.stdout.isatty():
        click.echo(lesson.text, nl=False)
        return
    from rich.console import Console

    # less shows colours only if told to.
    os.environ.setdefault("LESS", "-R")
    console = Console()
    with console.pager(styles=True):
        typeset(lesson, console)


def typeset(lesson: Lesson, console: "Console") -> None:
    """Print a lesson as wide as it is read well; commands as they are to be typed, since a line
    that is broken is another command.
    """
    from rich.markdown import Markdown
    from rich.text import Text

    for number, part in enumerate(CODE.split(lesson.text)):
        if number % 2:
            console.print("\n", Text(part, "cyan"), sep="", soft_wrap=True)
        else:
            console.print(Markdown(part), width=min(console.width, 100))


def reset(engine: Engine) -> Plan:
    """The plan to remove all that lessons have made and nothing else: what has exactly these names
    and what is of these projects.

    Raises UsageError while machines of lesson 11 run, and where this is no clone.
    """
    lessons()
    if (DIRECTORY / "nodes.sock").exists():
        raise UsageError("stop the nodes of lesson 11 first: python docs/lessons/nodes.py stop")
    api = engine.api
    containers = [
        one["Names"][0].removeprefix("/")
        for one in api.json("/containers/json", all="true") or ()
        if one["Names"][0].removeprefix("/") in CONTAINERS or _is_mine(one)
    ]
    networks = [one["Name"] for one in api.json("/networks") or () if _is_mine(one)]
    listed = (api.json("/volumes") or {}).get("Volumes") or ()
    volumes = [one["Name"] for one in listed if _is_mine(one)]
    images = api.json("/images/json") or ()
    tags = [
        tag
        for image in images
        for tag in image.get("RepoTags") or ()
        if tag.rpartition(":")[0] in IMAGES
    ]
    # What was pulled by its digest, or has lost its tag to another. Some go with their tags.
    digests = [
        digest
        for image in images
        for digest in image.get("RepoDigests") or ()
        if digest.partition("@")[0] in IMAGES
    ]
    steps: Steps = [
        Command((*argv, *sorted(names)), why)
        for argv, names, why in (
            (("docker", "rm", "--force", "--volumes"), containers, "containers of lessons"),
            (("docker", "network", "rm"), networks, "networks of lessons"),
            (("docker", "volume", "rm"), volumes, "volumes of lessons"),
            (("docker", "rmi", "--force"), tags + digests, "images of lessons"),
        )
        if names
    ]
    if DIRECTORY.exists():
        steps.append(Command(("rm", "-r", str(DIRECTORY)), "files of lessons, which git ignores"))
    return Plan(tuple(steps), outcome="nothing of the lessons is there")


def _is_mine(one: Mapping[str, Any]) -> bool:
    return (one.get("Labels") or {}).get(PROJECT_LABEL) in PROJECTS
