"""What `slurm/README.md` says of the job script is what stands in it; needs no Slurm."""

from __future__ import annotations

import re
import subprocess

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
