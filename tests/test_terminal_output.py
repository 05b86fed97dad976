"""Text from files on its way to a terminal or a log."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from neurotrale.errors import one_word, printable, printable_json
from tests.datasets import write_dataset
from tests.processes import neurotrale, run, running


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("plain text: 1/2 µm, 神経", "plain text: 1/2 µm, 神経", id="plain"),
        pytest.param("", "", id="empty"),
        pytest.param("a\x1b[31mb", r"a\u001b[31mb", id="escape"),
        pytest.param("a\nb\rc\td", r"a\nb\rc\td", id="line ends"),
        pytest.param("\x00\x7f\x80\x9b", r"\u0000\u007f\u0080\u009b", id="controls"),
        pytest.param("\u202e\u2066\u200f\u061c", r"\u202e\u2066\u200f\u061c", id="direction"),
        pytest.param("\u200b\u200d\ufeff\u00ad", r"\u200b\u200d\ufeff\u00ad", id="no width"),
        pytest.param("\u2028\u2029\x85", r"\u2028\u2029\u0085", id="separators"),
        pytest.param("\ufe0f\u3164\u2800\u115f", r"\ufe0f\u3164\u2800\u115f", id="not seen"),
        pytest.param("\ud800\udcff", r"\ud800\udcff", id="lone surrogates"),
        pytest.param("\ue000\U000e0041", r"\ue000\udb40\udc41", id="private, tags"),
    ],
)
def test_text_is_shown_without_what_cannot_be_seen(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown
    assert one_word(text).isprintable()
    shown.encode()


def test_json_with_escapes_is_the_same_json() -> None:
    value = {"a\x7f\u202e": ["b\x9b\U000e0041\ufe0f", 1.5, None, 'c"\\d\n']}
    for indent in (None, 1):
        text = json.dumps(value, ensure_ascii=False, indent=indent)
        shown = printable_json(text)
        assert json.loads(shown) == value
        assert all(char.isprintable() or char == "\n" for char in shown)


def test_words_are_different_where_texts_are() -> None:
    texts = ["a", "a b", '"a"', "a\\nb", "a\nb", '"a b"', "", "...", "a...b", " a", "a\u202e"]
    words = [one_word(text) for text in texts]
    assert len(set(words)) == len(texts)
    assert words[0] == "a"
    assert all(word.startswith('"') or " " not in word for word in words)


NASTY = "x\x1b[31m\nerror\u202e"
SHOWN = r"x\u001b[31m\nerror\u202e"


@pytest.mark.quick(4)
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["check", "{}"], id="check"),
        pytest.param(["check", "{}", "--json"], id="check as JSON"),
        pytest.param(["repack", "{}", "--layout", "single"], id="repack"),
        pytest.param(["export", "{}/gone"], id="export"),
        pytest.param(["corrections", "{}/gone"], id="corrections"),
        pytest.param(["locks", "{}"], id="locks"),
        pytest.param(["serve", "{}/gone"], id="serve"),
        pytest.param(
            ["ingest", "--source", "{}/*.tif", "--dest", "d", "--voxel-size", "1"], id="ingest"
        ),
        pytest.param(["token", "--name", "a", "--append", "{}/info"], id="token"),
        pytest.param(["history", "{}/gone"], id="history"),
        pytest.param(["history", "{}/gone", "--log", "debug"], id="history with a log"),
    ],
)
def test_commands_print_no_name_that_steers_a_terminal(
    arguments: list[str], tmp_path: Path
) -> None:
    brain = write_dataset(tmp_path / NASTY)
    (brain / "1_1_1" / NASTY).write_text("x")
    (brain / "1_1_1" / f"{NASTY}.tiff").write_text("x")
    (brain / f"a{NASTY}.tif").write_text("x")
    (brain / os.fsdecode(b"b\xff.tif")).write_text("x")
    done = run(neurotrale(*(word.format(brain) for word in arguments)), cwd=tmp_path)
    assert "Traceback" not in done.stderr
    said = done.stdout + done.stderr
    assert all(line.isprintable() for line in said.splitlines())
    assert "\u202e" not in said
    assert not any(line.startswith("error\u202e") for line in said.splitlines())


def test_log_of_the_service_escapes_names(tmp_path: Path) -> None:
    root = tmp_path / NASTY
    write_dataset(root / "brain")
    (root / "api").mkdir()
    with running(neurotrale("serve", root, "--port", "0", "--workers", "1")) as service:
        assert any(SHOWN in line for line in service.said)
        assert f"{SHOWN}/api is not served" in service.log()
