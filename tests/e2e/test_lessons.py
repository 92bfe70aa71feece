"""The lessons, as somebody would type them: each command of each file, and what it promises."""

import contextlib
import doctest
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stack.lessons import CODE
from tests.e2e.harness import ARTIFACTS, ROOT, Stack, copy_sources

LESSONS = sorted((ROOT / "docs" / "lessons").glob("[0-9][0-9]-*.md"))
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
LIMIT_S = 300
END = "--- end of command"


@dataclass(frozen=True)
class Typed:
    """A command, its lines joined as they are typed, and what is promised to come of it."""

    command: str
    expected: str


def commands(text: str) -> list[Typed]:
    """What a lesson tells to type, in its order."""
    found: list[Typed] = []
    for block in CODE.findall(text):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = part.splitlines()
            typed = [lines[0]]
            rest = lines[1:]
            while rest and rest[0].startswith(">"):
                typed.append(rest.pop(0).removeprefix(">").removeprefix(" "))
            found.append(Typed("\n".join(typed), "\n".join(rest)))
    return found


class Shell:
    """A shell that is typed into, as one would: variables and background jobs stay."""

    def __init__(self, directory: Path, log: Path) -> None:
        self._log = log.open("w")
        self._bash = subprocess.Popen(
            ("bash", "--noprofile", "--norc"),
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def type(self, command: str) -> tuple[str, int]:
        """What comes of a command: what it prints, and its exit code."""
        assert self._bash.stdin
        assert self._bash.stdout
        # Nobody types while a command runs; what would read from here gets nothing.
        script = f"{{ {command}\n}} </dev/null\nprintf '\\n%s %s\\n' '{END}' $?\n"
        self._bash.stdin.write(script)
        self._bash.stdin.flush()
        limit = threading.Timer(LIMIT_S, os.killpg, (self._bash.pid, signal.SIGKILL))
        limit.start()
        text = ""
        for line in self._bash.stdout:
            if line.startswith(END):
                limit.cancel()
                text = text.removesuffix("\n")
                self._log.write(f"$ {command}\n{text}\n")
                self._log.flush()
                return text, int(line.split()[-1])
            text += line
        pytest.fail(f"$ {command}\ndid not end within {LIMIT_S} s:\n{text}")

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._bash.pid, signal.SIGKILL)
        # Its pipes are read, and closed.
        self._bash.communicate(timeout=10)
        self._log.close()


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The sources, with the environment that `make` makes; nothing of the lessons before, and
    nothing of them after.
    """
    directory = copy_sources(tmp_path_factory.mktemp("lessons") / "clone")
    (directory / ".venv").symlink_to(sys.prefix)
    stack = Stack(directory=directory)
    plan = stack.run("--explain", "learn", "reset")
    assert "Nothing to do" in plan, f"somebody does the lessons on this machine: {plan}"
    # The first one that is done makes what all build on.
    begin = ("bash", "-c", ". docs/lessons/begin.sh")
    subprocess.run(begin, cwd=directory, check=True, timeout=LIMIT_S)
    yield directory
    if (directory / "lesson" / "nodes.sock").exists():
        nodes = (sys.executable, "docs/lessons/nodes.py", "stop")
        subprocess.run(nodes, cwd=directory, check=False)
    stack.run("learn", "reset")
    assert "Nothing to do" in stack.run("--explain", "learn", "reset")
    # Asked in another way than `reset` asks: it cannot miss what it does not know.
    for what in ("images", "ps --all", "network ls", "volume ls"):
        assert "lesson" not in stack.docker(*what.split()), what


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_does_what_it_says(clone: Path, path: Path) -> None:
    checker = doctest.OutputChecker()
    (ARTIFACTS / "lessons").mkdir(parents=True, exist_ok=True)
    shell = Shell(clone, ARTIFACTS / "lessons" / f"{path.stem}.txt")
    try:
        # What a lesson leaves is not there before it.
        number = path.name[:2]
        said, code = shell.type(
            f". docs/lessons/begin.sh; python -m stack learn check {int(number)}"
        )
        assert (code, "not yet" in said) == (1, True), said
        for typed in commands(path.read_text()):
            said, code = shell.type(typed.command)
            assert code == 0, f"$ {typed.command}\nexit code {code}:\n{said}"
            if typed.expected:
                right = checker.check_output(typed.expected + "\n", said + "\n", OPTIONS)
                assert right, f"$ {typed.command}\nexpected:\n{typed.expected}\ngot:\n{said}"
            else:
                assert not said.strip(), f"$ {typed.command}\nsays: {said}"
    finally:
        shell.close()


def test_each_lesson_is_listed_and_read(clone: Path) -> None:
    stack = Stack(directory=clone)
    listed = stack.run("learn")
    for path in LESSONS:
        title = path.read_text().splitlines()[0].removeprefix("# ")
        number, _, name = title.partition(". ")
        assert f"{number:>2}  {name}" in listed
        assert stack.run("learn", number) == path.read_text()
    done = stack.try_run("learn", "13")
    assert done.returncode == 2
    assert "there are 1 to 12" in done.stderr
