"""Lessons as a terminal shows them."""

import io

import pytest
from rich.console import Console

from stack.lessons import CODE, Lesson, lessons, typeset


@pytest.mark.parametrize("lesson", lessons(), ids=lambda lesson: lesson.path.stem)
def test_a_narrow_terminal_breaks_no_command(lesson: Lesson) -> None:
    shown = io.StringIO()
    typeset(lesson, Console(width=40, file=shown))
    blocks = CODE.findall(lesson.text)
    assert blocks
    for block in blocks:
        assert block in shown.getvalue()
