"""What a quick run of the tests and a long one are made of, and that either can be repeated."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.processes import REPOSITORY, run

OF_EVERY_KIND = """
import random

import pytest
from hypothesis import given, settings, strategies

from tests.examples import examples

drawn = []

@pytest.mark.long
def test_long():
    pass

@pytest.mark.thorough
def test_thorough(pytestconfig, seed):
    print("crash at every:", pytestconfig.option.crash_every, "from", random.Random(seed).random())

@settings(max_examples=examples(200))
@given(strategies.integers(0, 2**64))
def test_drawn(number):
    drawn.append(number)

def test_plain():
    pass

@pytest.mark.quick(2)
@pytest.mark.parametrize("first", ["a", "b"])
@pytest.mark.parametrize("second", ["c", pytest.param("d", marks=pytest.mark.long), "e"])
def test_cases(first, second):
    pass

@pytest.mark.thorough
def test_last():
    print("examples:", len(drawn), hash(tuple(drawn)))
    assert False

"""


def ran(directory: Path, *options: str) -> str:
    """Run a test of each kind, and one that fails, as the tests here are run; give what is said."""
    (directory / "test_kinds.py").write_text(OF_EVERY_KIND)
    command = [sys.executable, "-m", "pytest", "-c", str(REPOSITORY / "pyproject.toml"), "-vs"]
    command += ["-p", "pytest_timeout", "-p", "_hypothesis_pytestplugin", "-p", "tests.conftest"]
    command += ["-p", "no:cacheprovider", "--rootdir", str(directory), *options, str(directory)]
    done = run(command, {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}, cwd=directory)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def told(start: str, said: str) -> str:
    """Give the rest of the line that has this in it."""
    (found,) = re.findall(f"{start} (.*)", said)
    return str(found)


def run_in(said: str) -> set[str]:
    return set(re.findall(r"^\S+::test_(\S+) ", said, re.MULTILINE))


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> str:
    return ran(tmp_path_factory.mktemp("quick"), "--seed", "random")


def test_every_test_is_in_the_quick_run_or_the_long_one(quick: str, tmp_path: Path) -> None:
    long = ran(tmp_path, "--long")
    assert run_in(quick) == {"thorough", "drawn", "plain", "last", "cases[c-a]", "cases[e-b]"}
    others = {"cases[c-b]", "cases[d-a]", "cases[d-b]", "cases[e-a]"}
    assert run_in(long) == {"thorough", "drawn", "long", "last", *others}
    assert told("examples:", quick).startswith("30 ")
    assert told("examples:", long).startswith("200 ")
    assert told("crash at every:", quick).startswith("12 ")
    assert told("crash at every:", long).startswith("1 ")


@pytest.mark.long
def test_failure_tells_the_options_that_draw_the_same_again(quick: str, tmp_path: Path) -> None:
    options = told("the same again:", quick)
    again = ran(tmp_path, *options.split())
    for what in ("examples:", "crash at every:", "the same again:"):
        assert told(what, again) == told(what, quick)
    other = ran(tmp_path, *options.split(), "--seed", "0")
    for what in ("examples:", "crash at every:", "the same again:"):
        assert told(what, other) != told(what, quick)


def test_examples_are_fewer_in_a_quick_run_wherever_a_number_is_named() -> None:
    for path in sorted((REPOSITORY / "tests").glob("test_*.py")):
        assert re.findall(r"max_examples=\d+", path.read_text()) == [], path.name
