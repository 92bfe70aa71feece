"""A revision's name follows what goes into the image, and nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest

from stack.errors import ConfigurationError
from stack.model import Service
from stack.revision import configuration_of, program_of, revision_of


@pytest.fixture
def web(tmp_path: Path) -> Service:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    (tmp_path / ".dockerignore").write_text("# not these\n**/*.pyc\nnotes\n")
    (tmp_path / "app.py").write_text("print(1)\n")
    return Service("web", build_context=str(tmp_path))


def test_the_same_sources_give_the_same_name(web: Service) -> None:
    assert revision_of(web) == revision_of(web)
    assert len(revision_of(web)) == 7


def test_ignored_files_do_not_count(web: Service) -> None:
    before = revision_of(web)
    context = Path(web.build_context or "")
    (context / "app.pyc").write_text("x")
    (context / "notes").write_text("x")
    assert revision_of(web) == before


@pytest.mark.parametrize("name", ["app.py", "Dockerfile", "new.py"])
def test_a_changed_or_new_file_gives_a_new_name(web: Service, name: str) -> None:
    before = revision_of(web)
    (Path(web.build_context or "") / name).write_text("FROM other\n")
    assert revision_of(web) != before


def test_another_base_gives_a_new_name_but_the_revision_argument_does_not(web: Service) -> None:
    before = revision_of(web)
    assert revision_of(replace(web, build_args={"PYTHON_IMAGE": "other"})) != before
    assert revision_of(replace(web, build_args={"REVISION": "dev"})) == before


def test_a_proxy_configuration_changes_only_the_second_part_of_its_name(web: Service) -> None:
    proxy = replace(web, is_proxy=True)
    conf = Path(web.build_context or "") / "conf"
    conf.mkdir()
    (conf / "nginx.conf").write_text("a")
    before = revision_of(proxy)
    (conf / "nginx.conf").write_text("b")
    after = revision_of(proxy)
    assert after != before
    assert program_of(after) == program_of(before)
    assert after.endswith(configuration_of(proxy))


def test_a_context_that_is_not_there_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="no build context"):
        revision_of(Service("web", build_context="/does/not/exist"))
