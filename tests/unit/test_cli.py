"""Arguments that are wrong get a message, exit code 2, and nothing happens."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stack import main

ROOT = Path(__file__).parent.parent.parent


def stack(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-m", "stack", *arguments),
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nosuch",), "No such command"),
        (("scale",), "Missing argument"),
        (("scale", "web"), "is not SERVICE=N"),
        (("scale", "=3"), "is not SERVICE=N"),
        (("scale", "web="), "whole number"),
        (("scale", "web=-1"), "whole number"),
        (("scale", "web=1.5"), "whole number"),
        (("scale", "web=abc"), "whole number"),
        (("scale", "web=٣"), "whole number"),
        (("scale", "web=99999"), "at most 100"),
        (("up", "web=1", "--nosuch"), "No such option"),
        (("scale", "web=1", "--drain-timeout", "121"), "not in the range"),
        (("rollout", "--all", "--image", "x"), "one is enough"),
        (("restart",), "Missing argument"),
        (("--lock-wait", "-1", "ps"), "not in the range"),
        (("-p", "Bad Name", "ps"), "is no project name"),
        (("-p", "", "ps"), "is no project name"),
    ],
)
def test_wrong_arguments_exit_2_and_say_which(arguments: tuple[str, ...], message: str) -> None:
    done = stack(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("stack: ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_help_lists_the_verbs() -> None:
    done = stack("--help")
    assert done.returncode == 0
    for verb in ("up", "ps", "scale", "down", "logs", "doctor"):
        assert f"\n  {verb} " in done.stdout


def test_an_engine_that_does_not_answer_exits_69(tmp_path: Path) -> None:
    done = stack("-p", "nosuch", "ps", DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert done.returncode == 69
    assert "does not answer" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_docker_command_exits_69(tmp_path: Path) -> None:
    done = stack("-p", "nosuch", "ps", PATH=str(tmp_path))
    assert done.returncode == 69
    assert "docker is not installed" in done.stderr


def test_what_a_message_quotes_cannot_command_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("click.utils.should_strip_ansi", lambda *_: False)
    main._complain("no file \x1b[31mred\x07, but ü\nand more")
    assert capsys.readouterr().err == "stack: no file \\x1b[31mred\\x07, but ü\nand more\n"
