"""What `slurm/README.md` says of the job script is what stands in it; needs no Slurm."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from tests.processes import REPOSITORY

SLURM = REPOSITORY / "slurm"
PAGE = (SLURM / "README.md").read_text()
SETTINGS = (SLURM / "settings.sh").read_text()
SCRIPT = (SLURM / "serve.sbatch").read_text()


def table(first: str) -> dict[str, str]:
    """The first two cells of each row of the table that has this first word in its head."""
    (body,) = re.findall(rf"^\| {first} \|.*\n\|[ -|]*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    cells = [line.strip("|\n ").split(" | ") for line in body.splitlines()]
    return {row[0]: row[1] for row in cells}


def test_page_has_the_settings_of_the_job_script() -> None:
    found = re.findall(r'^: "\$\{(NEUROTRALE_\w+):=(.*?)\}"', SCRIPT, re.MULTILINE)
    expected = {f"`{name}`": f"`{default}`" if default else "none" for name, default in found}
    assert table("name") == expected


def test_page_has_the_defaults_of_what_the_job_asks_for() -> None:
    asked = dict(re.findall(r"^#SBATCH (--[\w-]+)=(\S+)", SCRIPT, re.MULTILINE))
    asked |= re.findall(r"\|\| echo (--mem-per-cpu)=(\S+)$", SETTINGS, re.MULTILINE)
    shown = table("option of sbatch")
    named = {name: default for name, default in shown.items() if default.startswith("`")}
    assert named == {name: f"`{asked[name.strip('`')]}`" for name in named}
    assert {
        "`--time`",
        "`--cpus-per-task`",
        "`--mem-per-cpu`",
        "`--nodes`",
        "`--signal`",
    } <= named.keys()


def test_scripts_hand_over_with_exec_and_stop_at_the_first_error() -> None:
    commands = [line for line in SCRIPT.splitlines() if not re.match(r"\s*(#|$)", line)]
    assert commands[0] == "set -euo pipefail"
    assert commands[-2].startswith('exec "${run[@]}" serve ')
    assert "trap" not in SCRIPT
    for name in ("launch", "balance", "resubmit", "ingest", "ingest.sbatch"):
        assert "\nset -euo pipefail\n" in (SLURM / name).read_text()


def test_launch_sends_every_script_that_a_job_needs() -> None:
    (sent,) = re.findall(r"^files=\((.*)\)$", (SLURM / "remote.sh").read_text(), re.MULTILINE)
    here = {path.name for path in SLURM.iterdir()}
    never = {"README.md", "site.example", "remote.sh", "ingest", "ingest.sbatch"}
    assert set(sent.split()) == here - never


def test_launch_without_a_command_tells_its_usage() -> None:
    done = subprocess.run([SLURM / "launch"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: launch ")


def test_example_of_a_site_file_sets_what_there_is() -> None:
    names = set(re.findall(r"NEUROTRALE_\w+", (SLURM / "site.example").read_text()))
    assert names - {"NEUROTRALE_SITE"} <= set(re.findall(r"NEUROTRALE_\w+", SCRIPT))


def from_settings(command: str, *words: str, **variables: str) -> str:
    """Print with a function of settings.sh, in an environment of these variables alone."""
    script = f'set -euo pipefail; . "$0"; cd /; {command} "$@"'
    env = {"HOME": "/home/anna", "PATH": os.environ["PATH"], **variables}
    done = subprocess.run(
        ["bash", "-c", script, SLURM / "settings.sh", *words],
        capture_output=True,
        text=True,
        check=True,
        env=env,
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/lab/x.sif", "/lab/x.sif"),
        ("x.sif", "//x.sif"),
        ("~", "/home/anna"),
        ("~/my images/x.sif", "/home/anna/my images/x.sif"),
        ("", ""),
    ],
    ids=["absolute", "relative", "home", "in the home", "none"],
)
def test_path_of_a_setting_is_made_absolute(path: str, expected: str) -> None:
    assert from_settings("absolute", path) == expected


@pytest.mark.parametrize(
    ("wanted", "site", "expected"),
    [
        ("", "", "ALL"),
        ("", "ALL", "ALL"),
        ("", "NONE", "NEUROTRALE_DATA"),
        ("", "nil", "NEUROTRALE_DATA"),
        ("", "PATH,LANG", "PATH,LANG,NEUROTRALE_DATA"),
        ("ALL,X=1", "NONE", "ALL,X=1,NEUROTRALE_DATA"),
        ("NONE", "", "NEUROTRALE_DATA"),
    ],
    ids=["nothing", "all", "none", "nil", "a list", "of the user", "none of the user"],
)
def test_settings_are_named_for_sbatch_whatever_is_exported(
    wanted: str, site: str, expected: str
) -> None:
    variables = {"NEUROTRALE_DATA": "/lab/a,b", **({"SBATCH_EXPORT": site} if site else {})}
    assert from_settings("exports", wanted, **variables) == expected
