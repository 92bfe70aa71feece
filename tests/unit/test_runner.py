"""Commands end in time, tell what they printed, and are never left behind."""

import signal
import subprocess
import time

import pytest

from stack import runner
from stack.errors import CommandFailed, ConfigurationError, EngineUnavailable, Interrupted
from stack.plan import Command


def test_a_command_gives_what_it_printed() -> None:
    assert runner.run(Command(("echo", "hello"), "test")) == "hello\n"


def test_a_command_reads_what_its_feed_prints() -> None:
    assert (
        runner.run(Command(("cat",), "test", feed=(("echo", "fed"), ("tr", "f", "F")))) == "Fed\n"
    )


def test_a_command_reads_a_text_and_shows_it_as_a_shell_would_take_it() -> None:
    command = Command(("cat",), "test", text_in="one\n$two\n")
    assert runner.run(command) == "one\n$two\n"
    shown = subprocess.run(("sh", "-c", command.text()), capture_output=True, text=True, check=True)
    assert shown.stdout == "one\n$two\n"


def test_a_command_has_the_environment_that_is_shown() -> None:
    command = Command(("sh", "-c", "echo $WEB_REVISION"), "test", (("WEB_REVISION", "a b"),))
    assert command.text().startswith("WEB_REVISION='a b' sh -c ")
    assert runner.run(command) == "a b\n"


def test_a_command_that_fails_keeps_its_words_exit_code_and_output() -> None:
    with pytest.raises(CommandFailed) as caught:
        runner.run(Command(("sh", "-c", "echo broken >&2; exit 3"), "test"))
    assert caught.value.output == "broken\n"
    assert "exit code 3" in str(caught.value)
    assert "sh -c" in str(caught.value)


def test_a_refused_configuration_has_the_exit_code_for_it() -> None:
    with pytest.raises(CommandFailed) as caught:
        runner.run(Command(("sh", "-c", "exit 78", "docker exec proxy proxy targets"), "test"))
    assert caught.value.exit_code == ConfigurationError.exit_code


def test_a_command_that_takes_too_long_is_ended() -> None:
    started = time.monotonic()
    with pytest.raises(CommandFailed, match="sleep"):
        runner.run(Command(("sleep", "30"), "test", timeout_s=0.2))
    assert time.monotonic() - started < 10


def test_a_command_is_ended_when_a_signal_comes() -> None:
    def interrupt(number: int, _frame: object) -> None:
        raise Interrupted(number)

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        started = time.monotonic()
        with pytest.raises(Interrupted):
            runner.run(Command(("sleep", "30"), "test"))
        assert time.monotonic() - started < 10
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_command_that_does_not_exist_says_what_to_install() -> None:
    with pytest.raises(EngineUnavailable, match="nosuch is not installed"):
        runner.read(("nosuch",))
