"""What the text of a URL means, before any file is looked at."""

from __future__ import annotations

import dataclasses

import pytest

from neurotrale.errors import MissingError, NameTooLongError
from neurotrale.storage.names import (
    NAME_MAX_BYTES,
    PATH_MAX_BYTES,
    BlockName,
    ChunkName,
    ChunkPath,
    check_name,
    split_path,
)

# --- Paths ---


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        pytest.param("", (), id="empty"),
        pytest.param("/", (), id="root"),
        pytest.param("/brain", ("brain",), id="one-name"),
        pytest.param("brain", ("brain",), id="no-slash"),
        pytest.param("/lab/mouse-3/info", ("lab", "mouse-3", "info"), id="nested"),
        pytest.param("/brain/", ("brain",), id="slash-at-the-end"),
        pytest.param("//brain///1_1_1//a//", ("brain", "1_1_1", "a"), id="doubled-slashes"),
        pytest.param("////", (), id="slashes-only"),
        pytest.param("/a/" * 100, ("a",) * 100, id="deep"),
    ],
)
def test_path_is_split_at_its_slashes(path: str, parts: tuple[str, ...]) -> None:
    assert split_path(path) == parts


ORDINARY = {
    "spaces": " a b ",
    "quotes": "'a\"b'",
    "markup": "<b>&amp;",
    "url": "a?b#c%d",
    "percent-code": "%2e%2e%2f",
    "colon": "http:",
    "dash": "-rf",
    "tilde": "~root",
    "dots-inside": "a..b",
    "dots-at-the-end": "a..",
    "umlaut": "Gehirn-für-Ümit",
    "decomposed": "u\u0308",
    "han": "脑",
    "emoji": "🧠.raw",
    "ellipsis": "…",
    "fullwidth-dots": "\uff0e\uff0e",
    "two-dot-leader": "\u2025",
    "division-slash": "a\u2215b",
    "replacement": "\ufffd",
    "shell": "$(id);`id`|*",
    "longest": "n" * NAME_MAX_BYTES,
}


@pytest.mark.parametrize("name", [pytest.param(name, id=id_) for id_, name in ORDINARY.items()])
def test_ordinary_name_is_kept_as_it_is(name: str) -> None:
    check_name(name)
    assert split_path(f"/brain/{name}/x") == ("brain", name, "x")


REFUSED = {
    "dot": ".",
    "dot-dot": "..",
    "three-dots": "...",
    "dot-dot-space": ".. ",
    "hidden": ".git",
    "lock": ".fibers.json.lock",
    "temporary": ".tmp-1-0-fibers.json",
    "nul": "a\0b",
    "nul-alone": "\0",
    "nul-after-dots": "..\0",
    "backslash": "a\\b",
    "backslash-dots": "..\\..\\x",
    "drive": "C:\\x",
    "newline": "a\nb",
    "carriage-return": "a\rb",
    "tab": "a\tb",
    "escape": "\x1b[2J",
    "delete": "a\x7f",
    "surrogate": "a\udcff",
    "lone-surrogate": "\ud800",
}


@pytest.mark.parametrize("name", [pytest.param(name, id=id_) for id_, name in REFUSED.items()])
@pytest.mark.parametrize(
    "path",
    ["/{}", "/brain/{}", "/brain/{}/info", "{}/", "//{}//"],
    ids=["first", "last", "inside", "no-slash-before", "doubled-slashes"],
)
def test_name_that_is_never_served_is_missing(path: str, name: str) -> None:
    with pytest.raises(MissingError):
        split_path(path.format(name))


@pytest.mark.parametrize("name", [pytest.param(name, id=id_) for id_, name in REFUSED.items()])
def test_name_that_is_never_served_is_missing_alone_too(name: str) -> None:
    with pytest.raises(MissingError):
        check_name(name)


def test_single_name_holds_no_slash() -> None:
    with pytest.raises(MissingError):
        check_name("a/b")


@pytest.mark.parametrize(
    "name",
    ["n" * 256, "ü" * 128, "🧠" * 64, "n" * 20_000],
    ids=["256-letters", "128-umlauts", "64-emojis", "20000-letters"],
)
def test_name_of_more_than_255_bytes_is_too_long(name: str) -> None:
    with pytest.raises(NameTooLongError):
        check_name(name)
    with pytest.raises(NameTooLongError):
        split_path(f"/brain/{name}/info")


@pytest.mark.parametrize("name", ["ü" * 127 + "n", "🧠" * 63], ids=["umlauts", "emojis"])
def test_name_of_255_bytes_is_not_too_long(name: str) -> None:
    assert split_path(name) == (name,)


@pytest.mark.parametrize("letter", ["n", "ü"], ids=["ascii", "umlaut"])
def test_path_longer_than_the_system_takes_is_too_long(letter: str) -> None:
    name = letter * 50
    one = len(name.encode()) + 1
    most = PATH_MAX_BYTES // one
    assert len(split_path(f"/{name}" * most)) == most
    with pytest.raises(NameTooLongError):
        split_path(f"/{name}" * (most + 1))


@pytest.mark.parametrize("name", ["." + "n" * 20_000, "n" * 20_000], ids=["missing", "too-long"])
def test_error_about_a_long_name_is_short(name: str) -> None:
    with pytest.raises((MissingError, NameTooLongError)) as caught:
        split_path(name)
    assert 0 < len(str(caught.value)) < 300


def test_error_about_a_name_shows_control_characters_escaped() -> None:
    with pytest.raises(MissingError) as caught:
        split_path("/a\x1b[2J\nforged")
    assert str(caught.value).isprintable()


def test_errors_are_also_built_in_ones() -> None:
    assert issubclass(MissingError, LookupError)
    assert issubclass(NameTooLongError, ValueError)


# --- Chunks ---


@pytest.mark.parametrize(
    ("text", "start", "stop"),
    [
        pytest.param("0-64_0-64_0-64", (0, 0, 0), (64, 64, 64), id="first"),
        pytest.param("64-100_128-130_7-8", (64, 128, 7), (100, 130, 8), id="axes-are-x-y-z"),
        pytest.param("-64-0_-1-1_-5--2", (-64, -1, -5), (0, 1, -2), id="negative"),
        pytest.param("007-008_0-1_0-1", (7, 0, 0), (8, 1, 1), id="leading-zeros"),
        pytest.param(f"0-{10**18 - 1}_0-1_0-1", (0, 0, 0), (10**18 - 1, 1, 1), id="largest-number"),
    ],
)
def test_chunk_name_states_a_box(
    text: str, start: tuple[int, int, int], stop: tuple[int, int, int]
) -> None:
    assert ChunkName.parse(text) == ChunkName(start, stop)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("info", id="word"),
        pytest.param("0-64_0-64", id="two-axes"),
        pytest.param("0-64_0-64_0-64_0-64", id="four-axes"),
        pytest.param("0_0_0", id="no-ends"),
        pytest.param("0-64_0-64_0-64.tiff", id="extension"),
        pytest.param("x0-64_0-64_0-64", id="prefix"),
        pytest.param("0-64_0-64_0-64 ", id="space"),
        pytest.param("0-64_0-64_0-64\n", id="newline"),
        pytest.param("+0-64_0-64_0-64", id="plus"),
        pytest.param("0x0-0x4_0-64_0-64", id="hexadecimal"),
        pytest.param("0.5-64_0-64_0-64", id="fraction"),
        pytest.param("1_000-2_000_0-64_0-64", id="underscores"),
        pytest.param("\u0660-\u0666\u0664_\u0660-\u0664_\u0660-\u0664", id="arabic-digits"),
        pytest.param("²-³_0-1_0-1", id="superscripts"),
        pytest.param("0-0_0-64_0-64", id="empty-box"),
        pytest.param("64-0_0-64_0-64", id="backwards-x"),
        pytest.param("0-64_64-0_0-64", id="backwards-y"),
        pytest.param("0-64_0-64_1-1", id="empty-z"),
        pytest.param(f"0-{10**18}_0-1_0-1", id="number-too-large"),
        pytest.param(f"0-{'9' * 5000}_0-1_0-1", id="number-endless"),
    ],
)
def test_text_that_is_no_box_is_no_chunk_name(text: str) -> None:
    assert ChunkName.parse(text) is None


def test_chunk_shape_is_the_extent_of_the_box() -> None:
    name = ChunkName.parse("-4-60_64-100_7-8")
    assert name is not None
    assert name.shape_vx == (64, 36, 1)


def test_chunk_path_knows_its_box() -> None:
    box = ChunkName((0, 0, 0), (1, 2, 3))
    assert ChunkPath(("brain", "1_1_1"), "0-1_0-2_0-3").name == box
    assert ChunkPath(("brain", "1_1_1"), "overview").name is None


# --- Blocks ---


@pytest.mark.parametrize(
    ("text", "position"),
    [
        pytest.param("x0y0z0", (0, 0, 0), id="origin"),
        pytest.param("x1y2z3", (1, 2, 3), id="axes-are-x-y-z"),
        pytest.param("x-41y22z13", (-41, 22, 13), id="negative"),
        pytest.param("x0001y0002z0003", (1, 2, 3), id="leading-zeros"),
        pytest.param("x123456y7z890123", (123456, 7, 890123), id="voxels"),
        pytest.param("x0001_y0002", None, id="original-service"),
        pytest.param("x1y2", None, id="no-z"),
        pytest.param("x1.5y2z3", None, id="fraction"),
        pytest.param("x1y2z3 ", None, id="space"),
        pytest.param("X1Y2Z3", None, id="capitals"),
        pytest.param("x+1y2z3", None, id="plus"),
        pytest.param("x--1y2z3", None, id="two-dashes"),
        pytest.param("x\u0661y\u0662z\u0663", None, id="arabic-digits"),
        pytest.param(f"x{10**18}y0z0", None, id="number-too-large"),
        pytest.param("region-a", None, id="word"),
    ],
)
def test_block_name_is_a_position_or_a_directory(
    text: str, position: tuple[int, int, int] | None
) -> None:
    assert BlockName.parse(text) == BlockName(text, position)


@pytest.mark.parametrize(
    "text",
    ["..", ".hidden", "x0y0z0\0", "x0y0z0\n", "x0y0z0\\", "a/b"],
    ids=["dot-dot", "hidden", "nul", "newline", "backslash", "slash"],
)
def test_block_name_that_is_never_served_is_missing(text: str) -> None:
    with pytest.raises(MissingError):
        BlockName.parse(text)


def test_block_name_is_too_long() -> None:
    with pytest.raises(NameTooLongError):
        BlockName.parse("x" * 256)


# --- All of them ---


@pytest.mark.parametrize(
    "value",
    [
        ChunkName((0, 0, 0), (1, 1, 1)),
        ChunkPath(("brain", "1_1_1"), "0-1_0-1_0-1"),
        BlockName("x0y0z0", (0, 0, 0)),
    ],
    ids=["chunk-name", "chunk-path", "block-name"],
)
def test_value_is_frozen_and_hashable(value: ChunkName | ChunkPath | BlockName) -> None:
    assert hash(value) == hash(dataclasses.replace(value))
    for field in dataclasses.fields(value):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field.name, None)
