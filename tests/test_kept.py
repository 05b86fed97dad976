"""What was learnt of files, kept by version."""

from __future__ import annotations

import pytest

from neurotrale.kept import Kept


def learner(value: int, asked: list[int]) -> int:
    asked.append(value)
    return value


def test_kept_of_the_same_version_is_learnt_once() -> None:
    kept: Kept[int] = Kept(3)
    asked: list[int] = []
    assert [kept.get("a", 1, lambda: learner(7, asked)) for _ in range(3)] == [7, 7, 7]
    assert asked == [7]


def test_kept_of_another_version_is_learnt_again() -> None:
    kept: Kept[int] = Kept(3)
    kept.put("a", 1, 7)
    assert kept.get("a", 2, lambda: 8) == 8
    assert kept.get("a", 2, lambda: 9) == 8
    assert len(kept) == 1


def test_kept_beyond_the_most_drops_the_oldest() -> None:
    kept: Kept[int] = Kept(2)
    for number, file in enumerate(("a", "b", "c")):
        kept.put(file, 1, number)
    assert len(kept) == 2
    assert kept.get("c", 1, lambda: -1) == 2
    assert kept.get("a", 1, lambda: -1) == -1


def test_kept_nothing_is_kept_when_learning_fails() -> None:
    kept: Kept[int] = Kept(2)
    with pytest.raises(ValueError, match="no number"):
        kept.get("a", 1, lambda: int("no number"))
    assert len(kept) == 0


def test_kept_find_gives_only_the_version_that_is_asked_for() -> None:
    kept: Kept[int] = Kept(2)
    kept.put("a", 1, 7)
    assert (kept.find("a", 1), kept.find("a", 2), kept.find("b", 1)) == (7, None, None)
