"""``neurotrale compact``: on files, datasets and data roots, while a service writes them."""

from __future__ import annotations

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from neurotrale.annotations.journals.journal import Journal
from tests.brains import Brain, error_of, invoked, new_brain, point, succeed
from tests.conftest import Service, StartService
from tests.processes import names_in

FIRST = b'[{"id": "a", "type": "point", "point": [1, 2, 3]}]'
LATER = ("--before", "9999-01-01")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Service:
    return start_service(tmp_path_factory.mktemp("compact"), "--workers", "2")


@pytest.fixture
def brain(shared: Service) -> Brain:
    """A file of a running service with five changes, and one without."""
    brain = new_brain(shared, FIRST)
    shutil.copy(brain.file, brain.file.with_name("centroids.json"))
    for x in range(5):
        brain.patch(point("a", x=x))
    return brain


def refused(*arguments: str | Path) -> str:
    done = invoked("compact", *arguments)
    assert done.exit_code in (1, 2), done.output
    return " ".join(done.output.split())


def answered(brain: Brain) -> list[object]:
    corrections = f"{brain.service.url}/{brain.name}/annotations/corrections"
    changes = brain.history(limit=1000)
    return [
        changes,
        [requests.get(f"{brain.url}/history/{n}").content for n in range(len(changes) + 1)],
        requests.get(corrections).text,
        succeed("history", brain.file),
    ]


@pytest.mark.parametrize("what", ["file", "dataset"])
def test_compact_moves_what_is_older_and_the_service_answers_as_before(
    brain: Brain, what: str
) -> None:
    before = answered(brain)
    path = brain.file if what == "file" else brain.annotations.parent
    (line,) = succeed("compact", path, *LATER)
    assert re.search(r"moved records 1-4, [\d,]+ bytes, into an archive of [\d,]+ bytes", line)
    assert answered(brain) == before
    assert names_in(brain.file.parent) == {
        "fibers.json", "centroids.json", ".fibers.json.lock", ".fibers.json.journal",
        ".fibers.json.journal.base", ".fibers.json.journal.1.zst",
    }  # fmt: skip
    brain.patch(point("b"))
    assert [change["revision"] for change in brain.history()] == [6, 5, 4, 3, 2, 1]
    assert succeed("compact", path, *LATER)[0].count("records 5-5") == 1
    requests.post(f"{brain.url}/restore?revision=2", json={})
    assert brain.content()[0]["point"][0] == 1


def test_compact_of_a_data_root_does_all_of_its_datasets(
    tmp_path: Path, start_service: StartService
) -> None:
    service = start_service(tmp_path)
    brains = [new_brain(service, FIRST) for _ in range(3)]
    for brain in brains:
        brain.patch(point("a", x=7))
        brain.patch(point("a", x=8))
    lines = succeed("compact", tmp_path, *LATER)
    assert [line.partition(":")[0] for line in lines] == [brain.filename for brain in brains]


def test_dry_run_says_what_would_be_moved_and_changes_nothing(brain: Brain) -> None:
    names, journal = names_in(brain.file.parent), Journal(brain.file).path.read_bytes()
    (line,) = succeed("compact", brain.file, *LATER, "--dry-run")
    assert "would move records 1-4, " in line
    assert (names_in(brain.file.parent), Journal(brain.file).path.read_bytes()) == (names, journal)


def test_recent_records_stay(brain: Brain) -> None:
    for options in ((), ("--keep", "1h"), ("--before", "2020-01-01")):
        (line,) = succeed("compact", brain.file, *options)
        assert line.startswith("nothing to do: no records from before ")
    assert len(succeed("compact", brain.file, "--keep", "0")) == 1


def test_compact_while_people_write_loses_no_change_and_repeats_no_number(brain: Brain) -> None:
    def edit(who: int) -> None:
        for n in range(25):
            brain.patch(point(f"{who}-{n}"))
            assert brain.history(limit=2)[0]["revision"] > n

    with ThreadPoolExecutor(4) as pool:
        editors = [pool.submit(edit, who) for who in range(3)]
        moved = 0
        while not all(editor.done() for editor in editors):
            moved += sum("moved" in line for line in succeed("compact", brain.file, *LATER))
        for editor in editors:
            editor.result()
    assert moved
    assert brain.ids() == {"a"} | {f"{who}-{n}" for who in range(3) for n in range(25)}
    changes = brain.history(limit=1000)
    assert [change["revision"] for change in changes] == list(range(80, 0, -1))
    assert {change["operation"] for change in changes} == {"patch"}
    assert all(change["applied"] for change in changes)
    assert requests.get(f"{brain.url}/history/0").content == FIRST
    assert [entry.n for entry in Journal(brain.file).records_forward()] == list(range(1, 81))


# --- discarding ---


def test_discard_needs_the_name_of_the_dataset(brain: Brain) -> None:
    succeed("compact", brain.file, *LATER)
    before = answered(brain)
    for path in (brain.file, brain.annotations.parent):
        assert "--discard needs --confirm" in refused(path, "--discard")
        text = refused(path, *LATER, "--discard", "--confirm", "other")
        assert f"add --confirm with the name of the dataset, '{brain.name}'" in text
    text = refused(brain.service.root, "--discard", "--confirm", brain.service.root.name)
    assert "one dataset at a time" in text
    assert "leave out one" in refused(brain.file, *LATER, "--keep", "1d").lower()
    assert answered(brain) == before


def test_history_says_what_was_discarded(brain: Brain) -> None:
    corrections = f"{brain.service.url}/{brain.name}/annotations/corrections"
    folded, now = requests.get(corrections).text, brain.history(limit=1)
    middle = brain.history()[2]["at"]
    fourth = requests.get(f"{brain.url}/history/4").content
    lines = succeed("compact", brain.file, *LATER, "--discard", "--confirm", brain.name)
    assert lines == [f"{brain.file}: discarded records 1-4"]
    sentence = r"Records 1-4 were discarded on \d{4}-\d\d-\d\dT[\d:.]+Z by \S.*\."
    listed = succeed("history", brain.file)
    assert len(listed) == 2
    assert re.fullmatch(sentence, listed[1])
    page = requests.get(f"{brain.url}/history").json()
    assert page["changes"] == now
    assert re.fullmatch(sentence, page["discarded"])
    for revision in range(4):
        text = error_of(requests.get(f"{brain.url}/history/{revision}"), 404)
        assert re.search(rf"There is no revision {revision}\. {sentence}", text)
    assert requests.get(f"{brain.url}/history/4").content == fourth
    assert requests.get(corrections).text == folded
    text = error_of(requests.get(corrections, params={"since": middle}), 400)
    assert re.search(sentence, text)
    requests.post(f"{brain.url}/restore?revision=4", json={})
    assert brain.file.read_bytes() == fourth
    assert brain.history()[0]["revision"] == 6


def test_page_of_the_history_that_is_not_the_last_says_nothing_of_it(brain: Brain) -> None:
    succeed("compact", brain.file, *LATER, "--discard", "--confirm", brain.name)
    brain.patch(point("b"))
    page = requests.get(f"{brain.url}/history?limit=1").json()
    assert "discarded" not in page
    last = requests.get(f"{brain.url}/history", params={"before": page["next"]}).json()
    assert last["discarded"].startswith("Records 1-4 ")


# --- what cannot be done ---


def test_file_that_cannot_be_compacted_is_named_and_the_others_are_done(brain: Brain) -> None:
    other = Brain(brain.service, brain.name, "centroids.json")
    for x in range(3):
        other.patch(point("a", x=x))
    journal = Journal(other.file).path
    journal.rename(journal.with_name("aside"))
    journal.symlink_to("aside")
    done = invoked("compact", brain.annotations.parent, *LATER)
    assert (done.exit_code, "moved records 1-4" in done.output) == (0, True)  # a link is no journal
    journal.unlink()
    text = (journal.with_name("aside")).read_text().replace('"format":3', '"format":99')
    journal.write_text(text)
    brain.patch(point("c"))
    done = invoked("compact", brain.annotations.parent, *LATER)
    assert done.exit_code == 1
    assert "moved records 5-5" in done.output
    assert "unchanged: .centroids.json.journal was written by a newer version" in done.output
    assert journal.read_text() == text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--before", "yesterday"), "is not a time; expected ISO 8601"),
        (("--keep", "forever"), "expected days, weeks or hours: 90d, 12w, 48h"),
        (("--keep", "999999w"), "--keep goes back to before the year 1"),
        (("--confirm", "brain"), "--confirm confirms --discard: add --discard"),
        (("--discard", "--dry-run", "--confirm", "x"), "--dry-run shows what would be moved"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    brain: Brain, options: tuple[str, ...], says: str
) -> None:
    assert says in refused(brain.file, *options)


def test_directory_without_datasets_is_refused(tmp_path: Path) -> None:
    assert "is neither an annotation file nor a dataset" in refused(tmp_path)
