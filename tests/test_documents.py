"""Annotation files as bytes: a change of one annotation leaves every byte of the others.

Files are made up in as many spellings of JSON as there are: white space, escapes, ways to write a
number, keys in any order. A plain list of the annotations' bytes is the model to compare with.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurotrale.annotations.documents.bodies import checked_annotation
from neurotrale.annotations.documents.document import Document, Hunk
from neurotrale.annotations.documents.index import Index
from neurotrale.annotations.documents.pieces import NotAnArrayError
from neurotrale.annotations.journals.changes import apply
from neurotrale.errors import BadInputError, ConflictError, RuleBrokenError
from tests.examples import examples
from tests.viewers import items_of


def with_annotation(document: Document, id_: str, annotation: bytes) -> bytes:
    """The content after an annotation was put in; the index that comes with it is the true one."""
    return after(document, *document.upsert(id_, annotation))


def without_annotation(document: Document, id_: str) -> bytes:
    """The content after an annotation was taken out, with the index checked like above."""
    return after(document, *document.remove(id_))


def after(document: Document, hunk: Hunk, index: Index) -> bytes:
    content = apply(document.content, [hunk])
    true = Index.of(content)
    assert index.starts.tolist() == true.starts.tolist()
    assert index.stops.tolist() == true.stops.tolist()
    expected, found = Document(content, true), Document(content, index)
    assert found.ids == expected.ids
    assert [found.position(id_) for id_ in expected.ids] == list(expected.ids.values())
    assert index.is_possible(len(content))
    return content


thorough = settings(deadline=None, max_examples=examples(300))

IDS = ("a", "b", "c", "4f2a" * 10, "\N{BRAIN} \u795e", 'quo"te', "back\\slash", "a,b", " ", "")

NUMBERS = (
    "0", "-0", "-0.0", "7", "1e3", "1000.0", "1E+3", "1.50", "0.1e-7", "5e-324", "1e-999",
    "1.7976931348623157e308", "9007199254740993", "123456789012345678901234567890",
    "-98765432109876543210", "3.141592653589793238462643383279", "1e999",
)  # fmt: skip
GAPS = ("", "", "", " ", "\n", "\t", "\r\n", "\n      ", " \t ")
KEYS = ("type", "points", "point", "anntype", "length", "new", "Id", "ID", "id ", "", "\N{BRAIN}")
ALPHABET = "aZ0 '/\\\"[]{},:\n\t\x00\x7f\u00e9\u2028\u795e\ufeff\N{BRAIN}"


class Speller:
    """Writes JSON in all its spellings, by a dice that hypothesis threw."""

    def __init__(self, dice: int) -> None:
        self.dice = Random(dice)

    def gap(self) -> str:
        return self.dice.choice(GAPS)

    def text(self, text: str) -> str:
        return f'"{"".join(map(self._character, text))}"'

    def _character(self, character: str) -> str:
        short = json.dumps(character, ensure_ascii=False)[1:-1]
        digits = character.encode("utf-16-be").hex()
        digits = self.dice.choice((digits, digits.upper()))
        escaped = "".join(f"\\u{digits[i : i + 4]}" for i in range(0, len(digits), 4))
        return self.dice.choice((short, short, escaped, "\\/" if character == "/" else short))

    def value(self, levels: int = 3) -> str:
        kind = self.dice.randrange(5 if levels else 3)
        if kind == 0:
            return self.dice.choice((*NUMBERS, "true", "false", "null"))
        if kind in (1, 2):
            return self.text("".join(self.dice.choices(ALPHABET, k=self.dice.randrange(8))))
        values = [self.value(levels - 1) for _ in range(self.dice.randrange(4))]
        if kind == 3:
            return self.array(values)
        return self.object([(self.dice.choice(ALPHABET), value) for value in values])

    def array(self, items: list[str]) -> str:
        between = ",".join(f"{self.gap()}{item}{self.gap()}" for item in items)
        return f"[{between or self.gap()}]"

    def object(self, members: list[tuple[str, str]]) -> str:
        spelled = [f"{self.text(key)}{self.gap()}:{self.gap()}{value}" for key, value in members]
        return f"{{{self.array(spelled)[1:-1]}}}"

    def annotation(self, id_: str) -> bytes:
        """Write an annotation: its id somewhere among keys that mean anything or nothing."""
        members = [(self.dice.choice(KEYS), self.value()) for _ in range(self.dice.randrange(5))]
        members.insert(self.dice.randint(0, len(members)), ("id", self.text(id_)))
        return self.object(members).encode()

    def foreign(self) -> bytes:
        """Write something that is no annotation of ours: a list, an object without an id, ..."""
        return self.value().encode()


dice = st.integers(0, 2**32)

# --- the model ---


@dataclass
class Plain:
    """A file as a list of annotations' bytes (with their ids), and one way to write it."""

    items: list[tuple[str | None, bytes]]
    dice: int = 0

    @property
    def content(self) -> bytes:
        speller = Speller(self.dice)
        return f"{speller.gap()}{speller.array([p.decode() for p in self.parts])}".encode()

    @property
    def parts(self) -> list[bytes]:
        return [item for _, item in self.items]

    @property
    def ids(self) -> list[str]:
        return [id_ for id_, _ in self.items if id_ is not None]

    def put(self, id_: str, item: bytes) -> None:
        for index, (other, _) in enumerate(self.items):
            if other == id_:
                self.items[index] = (id_, item)
                return
        self.items.append((id_, item))

    def remove(self, id_: str) -> None:
        self.items = [(other, item) for other, item in self.items if other != id_]


@st.composite
def files(draw: st.DrawFn, *, min_size: int = 0, foreign: bool = True) -> Plain:
    """Make up a file, with foreign items between the annotations or without."""
    ids = draw(st.lists(st.sampled_from(IDS), unique=True, min_size=min_size, max_size=5))
    items: list[tuple[str | None, bytes]] = [
        (id_, Speller(draw(dice)).annotation(id_)) for id_ in ids
    ]
    if foreign:
        for throw in draw(st.lists(dice, max_size=2)):
            items.insert(throw % (len(items) + 1), (None, Speller(throw).foreign()))
    return Plain(items, draw(dice))


@given(files())
@thorough
def test_plain_model_reads_what_it_writes(plain: Plain) -> None:
    assert items_of(plain.content) == plain.parts


# --- one change ---


@given(files())
@thorough
def test_file_in_any_spelling_gives_back_the_bytes_of_every_annotation(plain: Plain) -> None:
    document = Document.parse(plain.content)
    assert list(document.items()) == plain.parts
    assert sorted(document.ids) == sorted(plain.ids)
    for id_, item in plain.items:
        if id_ is not None:
            assert document.find(id_) == item


@given(st.data(), files(min_size=1), dice)
@thorough
def test_replacing_an_annotation_leaves_all_else_byte_for_byte(
    data: st.DataObject, plain: Plain, throw: int
) -> None:
    id_ = data.draw(st.sampled_from(plain.ids))
    before, old = plain.content, dict(plain.items)[id_]
    new = Speller(throw).annotation(id_)
    content = with_annotation(Document.parse(before), id_, new)
    plain.put(id_, new)
    assert items_of(content) == plain.parts
    assert with_annotation(Document.parse(content), id_, old) == before


@given(files(), dice)
@thorough
def test_adding_an_annotation_puts_it_last_and_leaves_all_others_byte_for_byte(
    plain: Plain, throw: int
) -> None:
    new = Speller(throw).annotation("new")
    content = with_annotation(Document.parse(plain.content), "new", new)
    plain.put("new", new)
    assert items_of(content) == plain.parts


@given(st.data(), files(min_size=1))
@thorough
def test_removing_an_annotation_leaves_all_others_byte_for_byte(
    data: st.DataObject, plain: Plain
) -> None:
    id_ = data.draw(st.sampled_from(plain.ids))
    content = without_annotation(Document.parse(plain.content), id_)
    plain.remove(id_)
    assert items_of(content) == plain.parts


# --- many changes, one after the other ---

changes = st.lists(
    st.tuples(st.sampled_from(("patch", "delete")), st.sampled_from(IDS[:6]), dice), max_size=10
)


@given(files(), changes)
@thorough
def test_file_after_many_changes_holds_what_the_plain_model_holds(
    plain: Plain, changes: list[tuple[str, str, int]]
) -> None:
    content = plain.content
    for operation, id_, throw in changes:
        document = Document.parse(content)
        if operation == "patch":
            new = Speller(throw).annotation(id_)
            content = with_annotation(document, id_, new)
            plain.put(id_, new)
        elif id_ in plain.ids:
            content = without_annotation(document, id_)
            plain.remove(id_)
        assert items_of(content) == plain.parts


@given(files(foreign=False))
@thorough
def test_file_emptied_one_by_one_is_an_empty_array_that_can_be_filled_again(plain: Plain) -> None:
    content = plain.content
    for id_ in plain.ids:
        content = without_annotation(Document.parse(content), id_)
    assert json.loads(content) == []
    for id_, item in zip(plain.ids, plain.parts, strict=True):
        content = with_annotation(Document.parse(content), id_, item)
    assert items_of(content) == plain.parts


# --- spellings that once were, or could be, taken for something else ---


def array(*items: bytes) -> bytes:
    return b"[" + b",".join(items) + b"]"


A, B = b'{"id":"a"}', b'{"id":"b"}'


@pytest.mark.parametrize(
    "item",
    [
        pytest.param(b'{"id":"x","n":123456789012345678901234567890}', id="big-integer"),
        pytest.param(b'{"id":"x","n":[1e3,1000.0,1.50,-0]}', id="spelling-of-numbers"),
        pytest.param(b'{"id":"x","n":1e999}', id="number-beyond-the-range"),
        pytest.param(b'{"id":"x","n":' + b"1" * 5000 + b"}", id="thousands-of-digits"),
        pytest.param(b'{"id":"x","t":"],[{}"}', id="brackets-in-text"),
        pytest.param(rb'{"id":"x","t":"\"],\\"}', id="quotes-in-text"),
        pytest.param(b'{"id":"x","a":{"id":"a"}}', id="another-id-further-in"),
        pytest.param(b'{"a":[{"id":"a"}],"id":"x"}', id="another-id-before"),
        pytest.param(b'{"id":"a","id":"x"}', id="id-twice"),
        pytest.param(rb'{"\u0069d":"\u0078"}', id="escaped-id"),
        pytest.param(b'{"id":"x","":"","\xc3\xa9":"\xf0\x9f\xa7\xa0"}', id="unicode"),
        pytest.param(b'{"id":"x","k":1,"k":2}', id="another-key-twice"),
        pytest.param(b'{ }', id="no-keys"),
        pytest.param(b'{"id":5}', id="id-is-a-number"),
        pytest.param(b'{"id":null}', id="id-is-null"),
        pytest.param(b"[]", id="list"),
        pytest.param(b'"a"', id="text"),
        pytest.param(b"null", id="null"),
        pytest.param(b"-0.0", id="number"),
    ],
)  # fmt: skip
def test_annotation_in_an_odd_spelling_survives_changes_of_its_neighbours(item: bytes) -> None:
    document = Document.parse(array(A, item, B))
    assert with_annotation(document, "a", b"{}") == array(b"{}", item, B)
    assert with_annotation(document, "b", b"{}") == array(A, item, b"{}")
    assert with_annotation(document, "c", b"{}") == array(A, item, B, b"{}")
    assert without_annotation(document, "a") == array(item, B)
    assert without_annotation(document, "b") == array(A, item)


@pytest.mark.parametrize(
    "item", [b'{"id":"a","id":"x"}', rb'{"\u0069d":"\u0078"}'], ids=["id-twice", "escaped-id"]
)
def test_annotation_with_an_odd_spelling_of_its_id_is_found(item: bytes) -> None:
    assert Document.parse(array(A, item)).find("x") == item


@pytest.mark.parametrize("id_", ["5", "null", "None", ""])
def test_annotation_whose_id_is_no_text_is_not_found(id_: str) -> None:
    assert Document.parse(array(b'{"id":5}', b'{"id":null}', b"{}")).find(id_) is None


def test_adding_to_an_indented_file_indents_as_the_annotation_before() -> None:
    content = b'[\n {"id":"a"},\n {"id":"b"}\n]\n'
    changed = with_annotation(Document.parse(content), "c", b'{"id":"c"}')
    assert changed == b'[\n {"id":"a"},\n {"id":"b"},\n {"id":"c"}\n]\n'


# --- an id that stands in the file more than once, as other programs may leave it ---


def test_changing_an_id_that_repeats_is_a_conflict_that_names_the_places() -> None:
    document = Document.parse(array(A, B, A))
    with pytest.raises(ConflictError, match=r"2 times in the file, at \[0\], \[2\]"):
        with_annotation(document, "a", A)
    with pytest.raises(ConflictError, match=r"2 times in the file, at \[0\], \[2\]"):
        without_annotation(document, "a")


def test_changing_another_id_than_the_one_that_repeats_works() -> None:
    document = Document.parse(array(A, B, A))
    assert with_annotation(document, "b", b"{}") == array(A, b"{}", A)
    assert without_annotation(document, "b") == array(A, A)


# --- files that are broken ---


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b" \n", id="blank"),
        pytest.param(b"{}", id="object"),
        pytest.param(b'{"annotations":[]}', id="object-around-the-array"),
        pytest.param(b"null", id="null"),
        pytest.param(b'"[]"', id="text"),
        pytest.param(b"[", id="cut-short"),
        pytest.param(b'[{"id":"a"},', id="cut-short-behind-a-comma"),
        pytest.param(b'[{"id":"a"}', id="cut-short-before-the-end"),
        pytest.param(b'[{"id":"a"},]', id="comma-at-the-end"),
        pytest.param(b'[{"id":"a"}{"id":"b"}]', id="no-comma"),
        pytest.param(b'[{"id":"a"}][]', id="two-arrays"),
        pytest.param(b'[{"id":"a","n":NaN}]', id="nan"),
        pytest.param(b'[{"id":"a","n":Infinity}]', id="infinity"),
        pytest.param(b'[{"id":"a","n":01}]', id="leading-zero"),
        pytest.param(b'[{"id":"a",}]', id="comma-in-an-object"),
        pytest.param(b"\x00" * 100, id="zeros"),
        pytest.param(b"<html></html>", id="html"),
        pytest.param(b"\xef\xbb\xbf[]", id="byte-order-mark"),
        pytest.param(b"[" * 100_000 + b"]" * 100_000, id="a-hundred-thousand-levels"),
    ],
)
def test_file_that_is_no_json_array_is_told_apart_with_what_was_expected(content: bytes) -> None:
    with pytest.raises(NotAnArrayError, match="expected a JSON array of annotations"):
        Document.parse(content)


def test_file_cut_short_at_any_byte_is_told_apart() -> None:
    content = b'[{"id":"a","points":[[1,2,3]]},\n{"id":"b","t":"\\u00e9\xc3\xa9"}]'
    Document.parse(content)
    for length in range(len(content)):
        with pytest.raises(NotAnArrayError):
            Document.parse(content[:length])


@pytest.mark.parametrize("levels", [10, 100, 101, 900, 950, 970, *range(980, 1000), 1100, 10_000])
def test_annotation_that_is_accepted_can_always_be_read_again(levels: int) -> None:
    body = b'{"id":"a","new":' + b"[" * levels + b"]" * levels + b"}"
    try:
        annotation, _ = checked_annotation(body, "a")
    except (BadInputError, RuleBrokenError):
        return
    content = with_annotation(Document.parse(array(B)), "a", annotation)
    assert _further_down(50, content).find("a") == body


def _further_down(frames: int, content: bytes) -> Document:
    """Parse with less room on the stack than the check had."""
    return _further_down(frames - 1, content) if frames else Document.parse(content)


def test_document_of_many_annotations_is_cut_right() -> None:
    values: list[dict[str, Any]] = [{"id": str(i), "points": [[i, 2, 3]] * 5} for i in range(5000)]
    content = json.dumps(values, indent=3).encode()
    changed = without_annotation(Document.parse(content), "2500")
    assert json.loads(changed) == values[:2500] + values[2501:]
    changed = with_annotation(Document.parse(changed), "7", b'{"id":"7"}')
    assert json.loads(changed)[7] == {"id": "7"}
    assert len(changed.splitlines()) < len(content.splitlines())
