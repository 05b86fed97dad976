"""What was learnt of files, kept by version."""

from __future__ import annotations

import pytest

from neurotrale.storage.cache import BoundedCache, VersionedCache


def learner(value: int, asked: list[int]) -> int:
    asked.append(value)
    return value


def test_kept_of_the_same_version_is_learnt_once() -> None:
    kept: VersionedCache[int] = VersionedCache(3)
    asked: list[int] = []
    assert [kept.get("a", 1, lambda: learner(7, asked)) for _ in range(3)] == [7, 7, 7]
    assert asked == [7]


def test_kept_of_another_version_is_learnt_again() -> None:
    kept: VersionedCache[int] = VersionedCache(3)
    kept.put("a", 1, 7)
    assert kept.get("a", 2, lambda: 8) == 8
    assert kept.get("a", 2, lambda: 9) == 8
    assert len(kept) == 1


def test_kept_beyond_the_most_drops_what_was_used_least_recently() -> None:
    kept: VersionedCache[int] = VersionedCache(2)
    kept.put("a", 1, 0)
    kept.put("b", 1, 1)
    assert kept.find("a", 1) == 0
    kept.put("c", 1, 2)
    assert len(kept) == 2
    assert [kept.find_latest(file) for file in ("a", "b", "c")] == [0, None, 2]


def test_cache_is_bounded_in_number_and_in_size() -> None:
    cache: BoundedCache[str, bytes] = BoundedCache(3, 10, len)
    for name in "abcd":
        cache[name] = b"12"
    assert list(cache) == ["b", "c", "d"]
    cache["e"] = b"1234567"
    assert list(cache) == ["d", "e"]
    assert cache.currsize == 9


def test_cache_keeps_a_value_larger_than_its_bound_alone() -> None:
    cache: BoundedCache[str, bytes] = BoundedCache(3, 10, len)
    cache["a"] = b"12"
    cache["b"] = bytes(1000)
    assert list(cache) == ["b"]
    cache["c"] = b"12"
    assert list(cache) == ["c"]


def test_kept_settled_gives_only_what_cannot_be_out_of_date() -> None:
    kept: VersionedCache[int] = VersionedCache(2)
    kept.put("a", 1, 7, is_settled=False)
    kept.put("b", 1, 8)
    assert [kept.find_settled(file, 1) for file in ("a", "b", "c")] == [None, 8, None]
    assert kept.find_settled("b", 2) is None


def test_kept_nothing_is_kept_when_learning_fails() -> None:
    kept: VersionedCache[int] = VersionedCache(2)
    with pytest.raises(ValueError, match="no number"):
        kept.get("a", 1, lambda: int("no number"))
    assert len(kept) == 0


def test_kept_find_gives_only_the_version_that_is_asked_for() -> None:
    kept: VersionedCache[int] = VersionedCache(2)
    kept.put("a", 1, 7)
    assert (kept.find("a", 1), kept.find("a", 2), kept.find("b", 1)) == (7, None, None)


def test_kept_of_a_version_that_was_not_settled_is_learnt_again_until_it_is() -> None:
    kept: VersionedCache[int] = VersionedCache(2)
    assert kept.get("a", 1, lambda: 7, is_settled=False) == 7
    assert kept.find("a", 1) == 7
    assert kept.get("a", 1, lambda: 8) == 8
    assert kept.get("a", 1, lambda: 9) == 8
