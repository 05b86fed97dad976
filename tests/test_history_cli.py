"""History, restoring, what is held and corrections on the command line, on the files themselves."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.brains import Brain, cli, invoked, new_brain, point, succeed
from tests.conftest import Service, StartService
from tests.processes import claims_in, names_in

REPOSITORY = Path(__file__).resolve().parent.parent
FIRST = b"""[
   {"id": "a", "type": "point", "point": [1e0, 2.0, 3], "description": "two  words"},
   {"id": "b", "type": "point", "point": [4, 5, 6]},
   {"id": "c", "type": "point", "point": [7, 8, 9]}
]
"""
LINE = re.compile(
    r" *(?P<n>\d+)  (?P<at>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)  (?P<by>\S.*?)"
    r"  (?P<op>[a-z]+)(?: \((?P<notes>.+)\))?  (?P<counts>\S+(?: [-~]\d+)*)(?:  (?P<ids>.+))?"
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Service:
    return start_service(tmp_path_factory.mktemp("past"))


@pytest.fixture
def brain(shared: Service) -> Brain:
    """A file of a running service that nobody has changed yet."""
    return new_brain(shared, FIRST)


@pytest.fixture(scope="module")
def edited(shared: Service) -> Brain:
    """A file with a history, for tests that only read."""
    brain = new_brain(shared, FIRST)
    brain.patch(point("d"))  # 1
    brain.patch(point("d", x=5))  # 2
    brain.delete("a")  # 3
    brain.put([point("c"), point("d", x=5), point("e")])  # 4
    requests.post(f"{brain.url}/restore?revision=2", json={})  # 5
    a, c, d = point("a", description="two  words"), point("c", x=7), point("d", x=5)
    brain.save([a, c, d])  # 6: b is held
    return brain


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Path:
    """A file with a history whose service is gone."""
    service = start_service(tmp_path_factory.mktemp("stopped"))
    brain = new_brain(service, FIRST)
    brain.patch(point("d"))
    brain.delete("a")
    assert service.stop() == 0
    return brain.file


def parsed(lines: list[str]) -> list[dict[str, str]]:
    matches = [LINE.fullmatch(line) for line in lines]
    assert all(matches), lines
    return [match.groupdict(default="") for match in matches if match]


def numbers(lines: list[str]) -> list[int]:
    return [int(line["n"]) for line in parsed(lines)]


# --- history ---


def test_history_prints_a_line_a_change_newest_first(edited: Brain) -> None:
    lines = parsed(succeed("history", edited.file))
    columns = ("n", "op", "notes", "counts", "ids")
    assert [tuple(line[column] for column in columns) for line in lines] == [
        ("6", "put", "held back 1", "~1", "c"),
        ("5", "restore", "of 2", "+2 ~1 -1", "a b c ..."),
        ("4", "put", "", "+1 ~1 -1", "e c b"),
        ("3", "delete", "", "-1", "a"),
        ("2", "patch", "", "~1", "d"),
        ("1", "patch", "", "+1", "d"),
    ]
    # The save that was guarded is that of a browser.
    by, _, session = lines[0]["by"].partition(" (session ")
    assert re.fullmatch(r"[0-9a-f]{10}\)", session)
    assert {by, *(line["by"] for line in lines[1:])} == {"127.0.0.1"}
    assert [line["at"] for line in lines] == [change["at"] for change in edited.history()]


def test_history_shortens_long_ids_to_their_ends(brain: Brain) -> None:
    brain.patch(point("0123456789abcdef" * 2))
    assert parsed(succeed("history", brain.file))[0]["ids"] == "012345...abcdef"


ALIKE = [
    pytest.param([f"{number:040d}" for number in range(12)], id="padded with zeros"),
    pytest.param([f"neuron-of-mouse-3-{n}-as-traced-by-anna" for n in range(12)], id="middle"),
    pytest.param([f"{'x' * 100}{n}{'y' * 100}" for n in range(12)], id="middle of very long"),
    pytest.param([f"{n}{'0' * 39}" for n in range(12)], id="first character"),
    pytest.param(["a b", "a", "b", "a...b", '"a', "a\\nb", "a\nb"], id="spaces, quotes, ends"),
    pytest.param(["a\u200bb", "ab", "a\ufe0fb", "a\u3164b", "a\xa0b", "a b"], id="not to be seen"),
]


@pytest.mark.parametrize("ids", ALIKE)
def test_history_shows_ids_that_can_be_told_apart(brain: Brain, ids: list[str]) -> None:
    for id_ in ids:
        brain.patch(point(id_))
    shown = [line["ids"] for line in parsed(succeed("history", brain.file))]
    assert len(set(shown)) == len(ids)
    assert all(one.isprintable() for one in shown)


def test_history_says_how_many_changes_it_does_not_list_and_how_to_get_them(brain: Brain) -> None:
    for x in range(53):
        brain.patch(point("d", x=x))
    listed = cli("history", brain.file)
    assert numbers(listed.stdout.splitlines()) == list(range(53, 3, -1))
    assert listed.stderr == "3 more changes: list them with --limit 53 or --all\n"
    for options in (["--all"], ["--limit", "53"], ["--limit", "1000"]):
        assert numbers(succeed("history", brain.file, *options)) == list(range(53, 0, -1))
    few = cli("history", brain.file, "--id", "d", "--limit", "2")
    assert few.stderr == "51 more changes: list them with --limit 53 or --all\n"


def test_history_escapes_what_would_steer_a_terminal(brain: Brain) -> None:
    brain.put([point("a\x1b[31m\nb\u202e")])
    assert parsed(succeed("history", brain.file))[0]["ids"].split()[0] == r'"a\u001b[31m\nb\u202e"'
    brain.put([point("a\x1b[31mb\nc\rd\x07\x7f\x9b1me\u202ef\u2066g\u200eh\u2028i" * 4)])
    assert all(line.isprintable() for line in succeed("history", brain.file))


def test_history_escapes_authors(brain: Brain) -> None:
    brain.patch(point("d"))
    assert (
        cli("restore", brain.file, "--revision", "0", LOGNAME="ev\x1b[2Jil\u202e").returncode == 0
    )
    assert parsed(succeed("history", brain.file))[0]["by"] == r"ev\u001b[2Jil\u202e"


def test_held_escapes_and_stays_the_same_json(brain: Brain) -> None:
    nasty = point("x", description="a\x7fb\x9bc\u202ed\U000e0101e")
    body = json.dumps([nasty, point("y")], ensure_ascii=False)
    assert requests.put(brain.url, data=body.encode()).ok
    brain.save([])
    lines = succeed("held", brain.file)
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)
    assert nasty in [json.loads(line) for line in lines]


@pytest.mark.quick(1)
@pytest.mark.parametrize("command", ["history", "restore", "held"])
def test_errors_escape_names(command: str, tmp_path: Path) -> None:
    more = ["--removed"] if command == "restore" else []
    done = cli(command, tmp_path / "a\x1b[31m\nError: b\u202e", *more)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.isprintable()
    assert r"a\u001b[31m\nError: b\u202e" in line


@pytest.mark.long
def test_commands_write_data_to_a_terminal_without_steering_it(brain: Brain) -> None:
    body = json.dumps([point("x", description="a\x7fb\x9bc\u202ed")], ensure_ascii=False)
    assert requests.put(brain.url, data=body.encode()).ok
    for arguments in (
        ["history", str(brain.file), "--show", "1"],
        ["history", str(brain.file), "--show", "1", "--id", "x"],
        ["corrections", str(brain.file.parents[2])],
        ["export", str(brain.file)],
        ["export", str(brain.file), "--format", "csv"],
    ):
        seen, piped = on_terminal(arguments), cli(*arguments).stdout
        assert r"a\u007fb\u009bc\u202ed" in seen
        assert "a\x7fb\x9bc\u202ed" in piped
        assert all(char.isprintable() or char in "\r\n\t" for char in seen)
        if arguments[-1] != "csv":
            assert json.loads(seen.splitlines()[-1]) == json.loads(piped.splitlines()[-1]) or (
                json.loads(seen) == json.loads(piped)
            )


def on_terminal(arguments: list[str]) -> str:
    """What a command prints to a terminal."""
    master, slave = pty.openpty()
    with os.fdopen(master, "rb", buffering=0) as screen:
        command = [sys.executable, "-m", "neurotrale", *arguments]
        with subprocess.Popen(command, stdin=slave, stdout=slave) as process:
            os.close(slave)
            seen = b""
            while piece := _read(screen):
                seen += piece
        assert process.returncode == 0
    return seen.decode()


def _read(screen: io.FileIO) -> bytes:
    try:
        return screen.read(65536) or b""
    except OSError:  # the other side is closed
        return b""


def test_log_level_of_a_command_is_heeded(brain: Brain) -> None:
    brain.patch(point("d"))
    assert cli("restore", brain.file, "--revision", "0").stderr == ""
    loud = cli("restore", brain.file, "--revision", "1", "--log", "INFO")
    assert loud.stderr.startswith("INFO: changed ")


def test_history_of_a_change_that_only_moved_annotations_says_so(brain: Brain) -> None:
    brain.put(list(reversed(brain.content())))
    assert parsed(succeed("history", brain.file))[0]["counts"] == "="


def test_history_of_a_file_that_was_never_changed_here_is_empty(brain: Brain) -> None:
    assert succeed("history", brain.file) == []


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param(["--limit", "2"], [6, 5], id="limit"),
        pytest.param(["--id", "d"], [2, 1], id="id"),  # the save at 6 leaves it where it was
        pytest.param(["--id", "d", "--limit", "1"], [2], id="id-and-limit"),
        pytest.param(["--by", "127.0.0.1"], [6, 5, 4, 3, 2, 1], id="by"),
        pytest.param(["--by", "nobody"], [], id="by-nobody"),
        pytest.param(["--since", "2000-01-01"], [6, 5, 4, 3, 2, 1], id="since"),
        pytest.param(["--until", "2000-01-01T00:00+02:00"], [], id="until"),
    ],
)
def test_history_lists_what_the_options_choose(
    edited: Brain, options: list[str], expected: list[int]
) -> None:
    done = cli("history", edited.file, *options)
    assert done.returncode == 0
    assert numbers(done.stdout.splitlines()) == expected


@pytest.mark.quick(1)
@pytest.mark.parametrize("number", [0, 2, 6])
def test_history_shows_the_file_at_a_revision_byte_for_byte(edited: Brain, number: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "neurotrale", "history", edited.file, "--show", str(number)],
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == requests.get(f"{edited.url}/history/{number}").content
    if number == 0:
        assert done.stdout == FIRST


def test_history_shows_an_annotation_at_a_revision(edited: Brain) -> None:
    (line,) = succeed("history", edited.file, "--show", "1", "--id", "d")
    assert json.loads(line) == point("d")


def test_history_without_a_service_reads_the_journal_all_the_same(stopped: Path) -> None:
    assert numbers(succeed("history", stopped)) == [2, 1]
    assert succeed("history", stopped, "--show", "0") == FIRST.decode().splitlines()


def test_history_of_a_file_by_another_way_to_it(stopped: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(stopped.parent)
    assert numbers(succeed("history", tmp_path / "link" / "fibers.json")) == [2, 1]


def test_history_of_a_file_that_was_deleted_is_still_there_and_brings_it_back(
    brain: Brain,
) -> None:
    brain.patch(point("d"))
    content = brain.file.read_bytes()
    brain.file.unlink()
    assert numbers(succeed("history", brain.file)) == [1]
    done = cli("restore", brain.file, "--revision", "1")
    assert done.returncode == 0
    assert "was changed by another program" in done.stderr
    assert numbers(done.stdout.splitlines()) == [3]
    assert brain.file.read_bytes() == content
    assert requests.get(brain.url).content == content


# --- restore ---


def test_restored_revision_is_seen_by_the_running_service_and_is_no_outside_change(
    brain: Brain,
) -> None:
    brain.put([point("x")])
    old = requests.get(brain.url).headers["ETag"]
    (line,) = parsed(succeed("restore", brain.file, "--revision", "0"))
    assert (line["n"], line["op"], line["counts"]) == ("2", "restore", "+3 -1")
    now = requests.get(brain.url)
    assert now.content == FIRST
    assert now.headers["ETag"] != old
    brain.patch(point("d"))
    assert [change["operation"] for change in brain.history()] == ["patch", "restore", "put"]


def test_restored_annotation_is_what_it_was(brain: Brain) -> None:
    brain.patch(point("a", x=2))
    brain.patch(point("a", x=3))
    brain.delete("b")
    (line,) = parsed(succeed("restore", brain.file, "--id", "a"))
    assert (line["counts"], line["ids"]) == ("~1", "a")
    assert point("a", x=2) in brain.content()
    (line,) = parsed(succeed("restore", brain.file, "--id", "a", "--revision", "0"))
    assert line["counts"] == "~1"
    assert FIRST.splitlines()[1].strip(b" ,") in brain.file.read_bytes()
    assert brain.ids() == {"a", "c"}


def test_restored_removals_come_back_beside_what_is_there(brain: Brain) -> None:
    brain.put([point("new")])
    (line,) = parsed(succeed("restore", brain.file, "--removed"))
    assert (line["op"], line["counts"]) == ("restore", "+3")
    assert brain.ids() == {"a", "b", "c", "new"}


@pytest.mark.parametrize(
    "options",
    [["--removed"], ["--revision", "1"], ["--id", "d", "--revision", "1"],
     ["--removed", "--since", "2999-01-01"]],
    ids=["removals", "revision", "annotation", "removals-of-the-future"],
)  # fmt: skip
def test_restoring_what_is_there_already_says_so_and_changes_nothing(
    brain: Brain, options: list[str]
) -> None:
    brain.patch(point("d"))
    before = brain.file.stat().st_mtime_ns
    assert succeed("restore", brain.file, *options) == [
        "nothing to restore: the file already has this content"
    ]
    assert brain.file.stat().st_mtime_ns == before
    assert len(brain.history()) == 1


def test_restoring_is_recorded_under_the_name_of_the_user(brain: Brain) -> None:
    brain.delete("a")
    done = cli("restore", brain.file, "--id", "a", LOGNAME="ann")
    assert parsed(done.stdout.splitlines())[0]["by"] == "ann"
    change = brain.history()[0]
    assert (change["by"], change["from"]) == ("ann", "command line")


def test_restoring_while_others_edit_loses_nobody_s_work(brain: Brain) -> None:
    brain.put([])

    def edit(number: int) -> None:
        for step in range(10):
            brain.patch(point(f"{number}-{step}"))

    with ThreadPoolExecutor(3) as pool:
        editors = [pool.submit(edit, number) for number in range(2)]
        succeed("restore", brain.file, "--removed")
        for editor in editors:
            editor.result()
    expected = {f"{number}-{step}" for number in range(2) for step in range(10)}
    assert brain.ids() == expected | {"a", "b", "c"}
    assert "outside" not in {change["operation"] for change in brain.history()}


def test_restoring_without_a_service_is_a_change_like_any_other(tmp_path: Path) -> None:
    file = tmp_path / "fibers.json"
    file.write_bytes(FIRST)
    assert succeed("restore", file, "--removed") == [
        "nothing to restore: the file already has this content"
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"fibers.json", ".fibers.json.lock"}


def test_restoring_keeps_mode_and_leaves_nothing_but_the_known_files(brain: Brain) -> None:
    brain.file.chmod(0o640)
    brain.delete("a")
    succeed("restore", brain.file, "--removed")
    assert brain.file.stat().st_mode & 0o777 == 0o640
    assert names_in(brain.file.parent) == {
        "fibers.json", ".fibers.json.lock", ".fibers.json.journal", ".fibers.json.journal.base",
    }  # fmt: skip
    assert len(claims_in(brain.file.parent)) == 1  # the service's; the command has ended


# --- held ---


def test_held_prints_an_annotation_a_line_as_it_is(brain: Brain) -> None:
    brain.save([point("new")])
    lines = succeed("held", brain.file)
    assert lines[0] == '{"id":"a","type":"point","point":[1e0,2.0,3],"description":"two  words"}'
    assert [json.loads(line)["id"] for line in lines] == ["a", "b", "c"]


@pytest.mark.parametrize(("id_", "count"), [("b", 1), ("new", 0), ("unknown", 0)])
def test_held_with_an_id_prints_that_one(brain: Brain, id_: str, count: int) -> None:
    brain.save([point("new")])
    lines = succeed("held", brain.file, "--id", id_)
    assert [json.loads(line)["id"] for line in lines] == [id_] * count


def test_held_of_a_file_that_holds_nothing_is_empty(brain: Brain) -> None:
    assert succeed("held", brain.file) == []
    assert succeed("held", brain.file, "--confirm") == []
    assert brain.file.read_bytes() == FIRST


def test_held_that_is_confirmed_is_recorded_under_the_name_of_the_user(brain: Brain) -> None:
    brain.save([point("new")])
    cli("held", brain.file, "--confirm", LOGNAME="ann")
    assert brain.content() == [point("new")]
    change = brain.history()[0]
    assert (change["operation"], change["by"]) == ("confirm", "ann")
    assert parsed(succeed("history", brain.file))[0]["counts"] == "-3"


# --- corrections ---


def test_corrections_are_those_of_the_url(edited: Brain) -> None:
    lines = succeed("corrections", edited.annotations.parent)
    url = edited.url.replace("/x0y0z0/fibers.json", "/corrections")
    assert lines == requests.get(url).text.splitlines()
    assert {json.loads(line)["id"] for line in lines} == {"c", "d"}


def test_corrections_are_chosen_by_time_and_name(edited: Brain) -> None:
    dataset = edited.annotations.parent
    assert succeed("corrections", dataset, "--by", "nobody") == []
    assert succeed("corrections", dataset, "--since", "2999-01-01") == []
    since = edited.history()[0]["at"]
    (line,) = succeed("corrections", dataset, "--since", since, "--by", "127.0.0.1")
    assert json.loads(line)["id"] == "c"


def test_corrections_without_a_service_are_read_from_the_journals(stopped: Path) -> None:
    lines = succeed("corrections", stopped.parent.parent.parent)
    assert {json.loads(line)["id"]: json.loads(line)["kind"] for line in lines} == {
        "a": "removed",
        "d": "added",
    }


def test_corrections_of_a_dataset_without_journals_are_empty(brain: Brain) -> None:
    assert succeed("corrections", brain.annotations.parent) == []


# --- errors ---

NO_REVISION = "no revision 99"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(
            ["history", "gone.json"],
            "gone.json does not exist, and there is no journal of it",
            id="no-file",
        ),
        pytest.param(
            ["restore", "gone.json", "--removed"],
            "gone.json does not exist, and there is no journal of it",
            id="restore-no-file",
        ),
        pytest.param(
            ["held", "gone.json"],
            "gone.json does not exist, and there is no journal of it",
            id="held-no-file",
        ),
        pytest.param(["history", f"{'x' * 300}.json"], "too long", id="name-too-long"),
        pytest.param(["history", "f.json/g.json"], "g.json does not exist", id="below-a-file"),
        pytest.param(["history", "f.json", "--since", "soon"], "--since='soon'", id="since"),
        pytest.param(["history", "f.json", "--until", "soon"], "--until='soon'", id="until"),
        pytest.param(["history", "f.json", "--show", "99"], NO_REVISION, id="show"),
        pytest.param(["history", "f.json", "--show", "1", "--id", "z"], "'z'", id="show-id"),
        pytest.param(["restore", "f.json", "--revision", "99"], NO_REVISION, id="revision"),
        pytest.param(["restore", "f.json", "--id", "z"], "'z'", id="restore-id"),
        pytest.param(["restore", "f.json", "--id", ""], "''", id="restore-empty-id"),
        pytest.param(
            ["restore", "f.json", "--id", "", "--revision", "0"], "''", id="restore-revision-no-id"
        ),
        pytest.param(
            ["restore", "f.json", "--removed", "--since", "x"], "--since='x'", id="restore-since"
        ),
        pytest.param(["held", "f.json", "--id", "z", "--confirm"], "'z'", id="held-id"),
        pytest.param(["held", "broken.json"], "then PUT a whole one", id="held-broken"),
        pytest.param(["restore", "broken.json", "--removed"], "broken.json", id="restore-broken"),
        pytest.param(["corrections", "."], "no 'annotations'", id="no-dataset"),
        pytest.param(["corrections", "gone"], "no 'annotations'", id="no-directory"),
        pytest.param(["corrections", "brain", "--since", "x"], "--since='x'", id="corrections"),
    ],
)
def test_error_is_a_sentence_and_exit_code_1(
    brain: Brain, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    brain.patch(point("d"))
    directory = brain.file.parent
    brain.file.rename(directory / "f.json")
    for last in ("", ".base"):
        journal = directory / f".fibers.json.journal{last}"
        journal.rename(directory / f".f.json.journal{last}")
    (directory / "broken.json").write_bytes(b"[{")
    (directory / "brain" / "annotations").mkdir(parents=True)
    monkeypatch.chdir(directory)
    before = (directory / "f.json").read_bytes()
    done = invoked(*arguments)
    assert done.exit_code == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert said in line
    assert (directory / "f.json").read_bytes() == before


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["history"], id="no-file"),
        pytest.param(["history", "."], id="directory"),
        pytest.param(["history", "f.json", "--limit", "0"], id="limit"),
        pytest.param(["history", "f.json", "--show", "-1"], id="show-negative"),
        pytest.param(["history", "f.json", "--page", "1"], id="no-such-option"),
        pytest.param(["restore", "f.json"], id="nothing-to-restore"),
        pytest.param(["restore", "f.json", "--revision", "x"], id="revision-no-number"),
        pytest.param(["restore", "f.json", "--removed", "--id", "a"], id="removed-and-id"),
        pytest.param(["restore", "f.json", "--removed", "--revision", "0"], id="removed-and-rev"),
        pytest.param(["restore", "f.json", "--id", "a", "--since", "2026-01-01"], id="since"),
        pytest.param(["restore", "f.json", "--removed", "--lock", "soft"], id="lock"),
        pytest.param(["held"], id="held-no-file"),
        pytest.param(["corrections", "f.json"], id="corrections-of-a-file"),
        pytest.param(["locks"], id="locks-no-directory"),
    ],
)
def test_usage_error_is_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    (tmp_path / "f.json").write_bytes(b"[]")
    monkeypatch.chdir(tmp_path)
    done = invoked(*arguments)
    assert done.exit_code == 2
    assert "Usage: " in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["f.json"]


@pytest.mark.quick(2)
@pytest.mark.parametrize("command", ["history", "restore", "held", "corrections", "locks"])
def test_command_explains_itself(command: str) -> None:
    lines = cli(command, "--help").stdout.splitlines()
    assert lines[0].startswith(f"Usage: python -m neurotrale {command} [OPTIONS] ")
