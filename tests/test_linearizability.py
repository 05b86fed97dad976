"""The checker of recorded histories, and what it says about real services and real locks."""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import chain, combinations, count, permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurotrale.errors import BusyError, MissingError
from neurotrale.locking.filesystems import file_system_of, mounts
from neurotrale.locking.linearizability import (
    Action,
    Operation,
    UndecidedError,
    Unknown,
    Violation,
    violation_of,
    violations,
)
from neurotrale.locking.participants import EditVerdict, ParticipantHistory, Row, verdict_of
from neurotrale.locking.probe import break_stale_lock, lock_claims, prove_lock
from tests.conftest import Service, StartService
from tests.examples import examples
from tests.processes import children, eventually, neurotrale, run, state, writer_of
from tests.stores import IN_MEMORY

# --- the checker ---


pytestmark = pytest.mark.proof


def read(value: str | None, call: float, returned: float) -> Operation:
    return Operation("read", value, call, returned)


def write(
    value: str,
    call: float,
    returned: float | None,
    before: str | Unknown | None = Unknown.ANYTHING,
) -> Operation:
    return Operation("write", value, call, returned, before)


def delete(
    call: float, returned: float | None, before: str | Unknown | None = Unknown.ANYTHING
) -> Operation:
    return Operation("delete", None, call, returned, before)


@pytest.mark.parametrize(
    "history",
    [
        pytest.param([], id="nothing"),
        pytest.param([read(None, 0, 1)], id="absent-at-first"),
        pytest.param([write("a", 0, 1), read("a", 2, 3)], id="written-then-read"),
        pytest.param([write("a", 0, 1), delete(2, 3), read(None, 4, 5)], id="deleted-then-read"),
        pytest.param([write("a", 0, 9), read("a", 1, 2)], id="read-while-it-is-written"),
        pytest.param([write("a", 0, 9), read(None, 1, 2)], id="not-yet-read-while-it-is-written"),
        pytest.param([write("a", 0, 1), read(None, 1, 2)], id="at-one-instant-is-at-once"),
        pytest.param(
            [write("a", 0, 9), write("b", 0, 9), read("b", 1, 2), read("a", 3, 4)],
            id="order-of-writes-told-by-reads",
        ),
        pytest.param([write("a", 0, None), read(None, 5, 6)], id="lost-and-never-made"),
        pytest.param([write("a", 0, None), read(None, 5, 6), read("a", 7, 8)], id="lost-made-late"),
        pytest.param(
            [write("a", 0, 1), delete(2, None), read("a", 3, 4), read(None, 5, 6)],
            id="lost-delete-made-late",
        ),
        pytest.param([write("a", 0, 9), write("b", 0, 9, "a")], id="condition-that-held"),
        pytest.param([write("a", 0, 1), delete(2, 3, Unknown.PRESENT)], id="deleted-as-present"),
        pytest.param([write("a", 0, 1, None)], id="created-as-absent"),
        pytest.param([write("a", 0, 1), write("b", 2, None, "x")], id="lost-and-impossible"),
    ],
)
def test_history_that_an_order_explains_is_accepted(history: list[Operation]) -> None:
    assert violation_of(history) is None
    assert violation_of(history[::-1]) is None


@pytest.mark.parametrize(
    "history",
    [
        pytest.param([read("a", 0, 1)], id="never-written"),
        pytest.param([write("a", 0, 1), read(None, 2, 3)], id="lost-update"),
        pytest.param([write("a", 0, 1), write("b", 2, 3), read("a", 4, 5)], id="stale-read"),
        pytest.param([write("a", 0, 1), delete(2, 3), read("a", 4, 5)], id="deleted-came-back"),
        pytest.param([read("a", 0, 1), write("a", 2, 3)], id="read-before-it-was-written"),
        pytest.param([read("a", 0, 1), write("a", 2, None)], id="read-before-it-was-written-lost"),
        pytest.param(
            [write("a", 0, 9), write("b", 0, 9), read("b", 1, 2), read("a", 3, 4), read("b", 5, 6)],
            id="back-and-forth",
        ),
        pytest.param(
            [write("a", 0, None), read("a", 1, 2), read(None, 3, 4)], id="lost-made-and-unmade"
        ),
        pytest.param(
            [write("a", 0, 1), write("b", 2, 9, "a"), write("c", 2, 9, "a")], id="both-conditions"
        ),
        pytest.param([delete(2, 3, Unknown.PRESENT)], id="deleted-though-absent"),
        pytest.param([write("a", 0, 1), write("b", 2, 3, None)], id="created-though-present"),
    ],
)
def test_history_that_no_order_explains_is_rejected(history: list[Operation]) -> None:
    assert violation_of(history) is not None
    assert violation_of(history[::-1]) is not None


def test_violation_shows_the_value_that_is_left_and_what_does_not_fit_it() -> None:
    never_written = read("c", 4, 5)
    violation = violation_of([write("a", 0, 1), write("b", 2, 3), never_written])
    assert violation == Violation("b", (never_written,))


def test_violation_shows_a_value_and_what_its_time_has_no_place_for() -> None:
    one, other, stale = write("a", 0, 1), write("b", 2, 3), read("a", 4, 5)
    assert violation_of([one, other, stale]) == Violation("a", (one, stale, other))


def test_keys_are_checked_each_alone() -> None:
    history = [("x", write("a", 0, 1)), ("y", read(None, 2, 3)), ("z", read("a", 2, 3))]
    assert set(violations(history)) == {"z"}


def test_search_with_too_many_orders_is_given_up() -> None:
    # Twenty writes at once, and a value that none of them left.
    hard = [("x", write(str(number), 0, 9)) for number in range(20)]
    hard.append(("x", read("other", 10, 11)))
    with pytest.raises(UndecidedError):
        violations(hard, most_states=1000)


def simulated(
    seed: int, clients: int, steps: int, values: int = 10**9, lost: float = 0.03
) -> list[Operation]:
    """The history of an atomic register: each operation takes effect between call and return.

    Args:
        clients: Each has one operation at a time.
        steps: Operations of each client.
        values: So many different ones are written.
        lost: The part of answers that are lost; half of those operations take effect, perhaps
            long after.
    """
    chance = random.Random(seed)
    planned: list[tuple[float, float, float | None, str, str]] = []
    for _ in range(clients):
        now = chance.random()
        for _ in range(steps):
            call = now
            effect = call + chance.expovariate(1)
            now = effect + chance.expovariate(1)
            action = chance.choices(("read", "write", "delete", "swap"), (4, 4, 1, 2))[0]
            value = str(chance.randrange(values))
            if chance.random() < lost:
                effect += chance.expovariate(0.2)
                planned.append((effect, call, None, action, value))
            else:
                planned.append((effect, call, now, action, value))
            now += chance.expovariate(2)
    history = []
    register: str | None = None
    for _, call, returned, action, value in sorted(planned):
        before: str | Unknown | None = Unknown.ANYTHING
        if action == "swap":
            before = register
        if returned is None and chance.random() < 0.5:
            pass  # it never takes effect
        elif action == "delete":
            if returned is not None:  # a lost answer does not tell
                before = Unknown.PRESENT if register is not None else None
            register = None
        elif action != "read":
            register = value
        if action == "read":
            history.append(Operation("read", register, call, returned))
        elif action == "delete":
            history.append(Operation("delete", None, call, returned, before))
        else:
            history.append(Operation("write", value, call, returned, before))
    chance.shuffle(history)
    return history


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 60))
@settings(max_examples=examples(200))
def test_history_of_an_atomic_register_is_accepted(seed: int, clients: int, steps: int) -> None:
    assert violation_of(simulated(seed, clients, steps)) is None


def linearizable_by_trial(history: Iterable[Operation]) -> bool:
    """Try every order of every set of operations that may have taken effect."""
    completed = [one for one in history if one.returned is not None]
    lost = [one for one in history if one.returned is None and one.action != "read"]
    sets = chain.from_iterable(combinations(lost, count) for count in range(len(lost) + 1))
    return any(
        is_explanation(order) for made in sets for order in permutations([*completed, *made])
    )


def is_explanation(order: tuple[Operation, ...]) -> bool:
    value: str | None = None
    for number, operation in enumerate(order):
        if not operation.fits(value):
            return False
        value = operation.result()
        if any(
            later.returned is not None and later.returned < operation.call
            for later in order[number + 1 :]
        ):
            return False
    return True


@given(st.integers(0, 2**32), st.integers(1, 4), st.data())
@settings(max_examples=examples(400))
def test_checker_and_trial_of_every_order_agree_on_small_histories(
    seed: int, clients: int, data: st.DataObject
) -> None:
    history = simulated(seed, clients, max(1, 6 // clients), values=3, lost=0.3)
    assert linearizable_by_trial(history)
    assert violation_of(history) is None
    number = data.draw(st.integers(0, len(history) - 1))
    value = data.draw(st.sampled_from([None, "0", "1", "2", "other"]))
    mutated = [*history]
    mutated[number] = replace(mutated[number], action="read", value=value)
    assert (violation_of(mutated) is None) == linearizable_by_trial(mutated)


@given(st.integers(0, 2**32), st.integers(1, 4))
@settings(max_examples=examples(100))
def test_long_history_with_a_value_that_nobody_wrote_is_rejected(seed: int, clients: int) -> None:
    history = simulated(seed, clients, 60)
    number = random.Random(seed).randrange(len(history))
    returned = history[number].returned or history[number].call
    history[number] = Operation("read", "other", history[number].call, returned)
    assert violation_of(history) is not None


def test_history_of_many_operations_is_checked_in_seconds() -> None:
    assert violation_of(simulated(7, 4, 2500, lost=0.001)) is None


# --- real services ---

IDS = ("a", "b", "c")
CLIENTS = 8
SECONDS = 1.5
ANSWER_TIMEOUT_S = 60.0
# Answers after which nothing was changed.
REFUSED = (409, 412, 503)


class Recorder:
    """One client of both services, which records what it does to the annotations of one file.

    Args:
        services: It asks either of them at random.
        path: Of the annotation file, on each service.
        name: Its name, which makes its values unlike those of others.
        seed: What it does follows from this.
    """

    def __init__(self, services: Sequence[Service], path: str, name: str, seed: int) -> None:
        self.path = path
        self.name = name
        self.history: list[tuple[str, Operation]] = []
        self.statuses: Counter[str] = Counter()
        self._random = random.Random(f"{seed} {name}")
        self._connections = [
            http.client.HTTPConnection("127.0.0.1", service.port, timeout=ANSWER_TIMEOUT_S)
            for service in services
        ]
        self._values = count()

    def run(self, until: float) -> None:
        """Work until this moment of the monotonic clock."""
        steps = (self.patch, self.delete, self.get, self.put)
        while time.monotonic() < until:
            (step,) = self._random.choices(steps, (3, 1, 3, 3))
            step(self._random.choice(IDS))
        for connection in self._connections:
            connection.close()

    def patch(self, id_: str) -> None:
        value = self._new_value()
        answer = self._ask("PATCH", id_, point(id_, value))
        before = {200: Unknown.PRESENT, 201: None}.get(answer.status, Unknown.ANYTHING)
        self._record_change(answer, id_, value, before)

    def delete(self, id_: str) -> None:
        answer = self._ask("DELETE", id_)
        if answer.status == 404:
            self._record_read(answer, id_, None)
        else:
            is_known = answer.status == 200
            before = Unknown.PRESENT if is_known else Unknown.ANYTHING
            self._record_change(answer, id_, None, before)

    def get(self, id_: str) -> None:
        answer = self._ask("GET", id_)
        if answer.status == 200:
            self._record_read(answer, id_, value_of(json.loads(answer.body)))
        elif answer.status == 404:
            self._record_read(answer, id_, None)

    def put(self, id_: str) -> None:
        """GET the whole file, change one annotation or leave it out, and PUT that over it."""
        read = self._ask("GET")
        if read.status != 200:
            return
        before = {found["id"]: value_of(found) for found in json.loads(read.body)}
        for one in IDS:
            self._record_read(read, one, before.get(one))
        after = {**before, id_: self._new_value()}
        if id_ in before and self._random.random() < 0.3:
            del after[id_]
        body = [point(one, value) for one, value in after.items()]
        answer = self._ask("PUT", body=body, if_match=read.etag)
        for one in IDS:
            self._record_change(answer, one, after.get(one), before.get(one))

    def _new_value(self) -> str:
        return f"{self.name}-{next(self._values)}"

    def _ask(self, method: str, id_: str = "", body: object = None, if_match: str = "") -> Answer:
        url = self.path + (f"?id={id_}" if id_ else "")
        sent = None if body is None else json.dumps(body).encode()
        connection = self._random.choice(self._connections)
        call = time.monotonic()
        try:
            connection.request(method, url, sent, {"If-Match": if_match} if if_match else {})
            response = connection.getresponse()
            etag, received = response.headers.get("ETag", ""), response.read()
        except TimeoutError:
            pytest.fail(f"{method} {url} was not answered within {ANSWER_TIMEOUT_S:g} s")
        except (OSError, http.client.HTTPException):  # its worker was killed
            connection.close()
            self.statuses[f"{method} lost"] += 1
            return Answer(0, "", b"", call, time.monotonic())
        self.statuses[f"{method} {response.status}"] += 1
        return Answer(response.status, etag, received, call, time.monotonic())

    def _record_read(self, answer: Answer, id_: str, value: str | None) -> None:
        self.history.append((id_, Operation("read", value, answer.call, answer.returned)))

    def _record_change(
        self, answer: Answer, id_: str, value: str | None, before: str | Unknown | None
    ) -> None:
        if answer.status in REFUSED:
            return
        action: Action = "delete" if value is None else "write"
        returned = answer.returned if answer.status in (200, 201) else None
        self.history.append((id_, Operation(action, value, answer.call, returned, before)))


@dataclass(frozen=True)
class Answer:
    """A whole answer.

    Attributes:
        status: 0 when the connection was cut.
        call, returned: When it was asked for and received, by the monotonic clock.
    """

    status: int
    etag: str
    body: bytes
    call: float
    returned: float


def point(id_: str, value: str) -> dict[str, Any]:
    return {"id": id_, "type": "point", "point": [1, 2, 3], "description": value}


def value_of(found: dict[str, Any]) -> str:
    assert found == point(found["id"], found["description"])
    value: str = found["description"]
    return value


def kill_processes(services: Sequence[Service], block: Path, until: float, seed: int) -> int:
    """Kill a worker or the writer of a service now and then; return how many."""
    chance = random.Random(seed)
    killed = 0
    while (pause_s := chance.uniform(0.05, 0.5)) < until - time.monotonic():
        time.sleep(pause_s)
        supervisor = chance.choice(services).process.pid
        processes = [*children(supervisor), writer_of(supervisor)]
        living = [pid for pid in processes if pid and state(pid) not in ("", "Z")]
        if not living:
            continue
        pid = chance.choice(living)
        with suppress(ProcessLookupError):  # killed before, and only now gone
            os.kill(pid, signal.SIGKILL)
            killed += 1
        break_claims_of(pid, block)
    return killed


def break_claims_of(pid: int, block: Path) -> None:
    """Break the claims of strict locks that a killed process left, as an administrator does."""
    eventually(lambda: state(pid) in ("", "Z"), "its death")
    for _, claim in list(lock_claims(block)):
        if claim.pid == pid:
            with suppress(MissingError):  # both claims of a holder go at once
                break_stale_lock(block, claim.name)


@dataclass
class Recording:
    """What the clients of one seed recorded."""

    history: list[tuple[str, Operation]]
    statuses: Counter[str]
    killed: int


def record(services: Sequence[Service], seed: int) -> Recording:
    """Let clients change and read one file through two services whose workers are killed."""
    path = f"/brain/annotations/x{seed}y0z0/fibers.json"
    block = services[0].root / f"brain/annotations/x{seed}y0z0"
    block.mkdir(parents=True)
    (block / "fibers.json").write_text("[]")
    recorders = [Recorder(services, path, f"c{number}", seed) for number in range(CLIENTS)]
    until = time.monotonic() + SECONDS
    with ThreadPoolExecutor(CLIENTS + 1) as pool:
        killer = pool.submit(kill_processes, services, block, until, seed)
        for job in [pool.submit(recorder.run, until) for recorder in recorders]:
            job.result()
    statuses = sum((recorder.statuses for recorder in recorders), Counter[str]())
    history = [entry for recorder in recorders for entry in recorder.history]
    return Recording(history, statuses, killer.result())


def told(history: list[tuple[str, Operation]], found: Mapping[str, Violation]) -> str:
    """What was recorded of each key that has a violation, up to the operations that do not fit."""
    lines = []
    for key, violation in found.items():
        lines.append(f"{key} is {violation.value!r}, and none of {violation.stuck} fits, after")
        end = max(one.call for one in violation.stuck)
        of_key = [one for name, one in history if name == key and one.call <= end]
        lines += [f"  {one}" for one in sorted(of_key, key=lambda one: one.call)[-60:]]
    return "\n".join(lines)


def has_violation(history: list[tuple[str, Operation]]) -> bool:
    """Whether a violation is found in a history that is likely to have many.

    Where much was lost the search for an order may take for ever, so it is given up early: what
    some key does not show another one does.
    """
    by_key: dict[str, list[Operation]] = {}
    for key, operation in history:
        by_key.setdefault(key, []).append(operation)
    for operations in by_key.values():
        with suppress(UndecidedError):
            if violation_of(operations, most_states=5000) is not None:
                return True
    return False


# Two services without a lock refuse to write in one directory; these do not notice each other.
UNNOTICED = """
from neurotrale.locking.writers import WriterClaims

WriterClaims._refusal = lambda *_: None
"""


@pytest.fixture
def services(
    pytestconfig: pytest.Config,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    start_service: StartService,
    kind: str,
) -> Iterator[list[Service]]:
    """Two services on one data root."""
    workers = "10" if pytestconfig.option.long else "2"
    if kind == "none":
        (tmp_path / "sitecustomize.py").write_text(UNNOTICED)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with tempfile.TemporaryDirectory(prefix="neurotrale-", dir=IN_MEMORY) as root:
        options = ("--lock", kind, "--workers", workers, "--no-access-log")
        running = [start_service(Path(root), *options) for _ in range(2)]
        yield running
        for service in running:
            service.stop()


@pytest.mark.quick(1)
@pytest.mark.thorough
@pytest.mark.timeout(0)
@pytest.mark.parametrize("kind", ["flock", "strict"])
def test_annotations_are_linearizable_through_two_services_whose_workers_are_killed(
    services: list[Service], histories: int, seed: int
) -> None:
    total: Counter[str] = Counter()
    for number in range(seed, seed + histories):
        recording = record(services, number)
        total += recording.statuses
        total["killed"] += recording.killed
        found = violations(recording.history)
        assert found == {}, f"seed {number}: {told(recording.history, found)}"
    print(dict(sorted(total.items())))
    # They were no idle runs.
    assert total["killed"] >= histories
    for some in (
        "PATCH 200",
        "PATCH 201",
        "PUT 200",
        "PUT 412",
        "DELETE 200",
        "GET 200",
        "GET 404",
    ):
        assert total[some] > 0, some
    allowed = {"200", "201", "404", "412", "503", "lost"}
    assert {name for name in total if name.rpartition(" ")[2] not in allowed} == {"killed"}


@pytest.mark.long
@pytest.mark.thorough
@pytest.mark.timeout(0)
@pytest.mark.parametrize("kind", ["none"])
def test_checker_finds_what_two_services_without_a_lock_lose(
    services: list[Service], histories: int, seed: int
) -> None:
    histories = max(1, histories // 4)
    found = [
        has_violation(record(services, number).history) for number in range(seed, seed + histories)
    ]
    print(f"violations in {sum(found)} of {histories}")
    # All or all but one on an idle machine; a busy one makes fewer writes, that overlap less.
    assert sum(found) >= histories // 2


# --- files that count their changes ---


def taken(*rows: Row, node: str = "n") -> ParticipantHistory:
    return ParticipantHistory(node, rows, 0)


FIRST: Row = ("a", "write", "1", None, 0.5, 1)
OTHERS = taken(("b", "write", "2", None, 0.5, 2), ("a", "read", "1", "1", 2.5, 2.5))


@pytest.mark.parametrize(
    ("histories", "expected"),
    [
        pytest.param(
            [taken(FIRST, ("a", "delete", None, "1", 1.5, 3)), OTHERS],
            EditVerdict(0, 0, [], 2, True),
            id="excludes",
        ),
        pytest.param(
            [taken(FIRST), taken(("b", "write", "2", None, 0.5, 1))],
            EditVerdict(1, 0, [], 1, True),
            id="one-version-made-twice",
        ),
        pytest.param(
            [taken(FIRST, ("b", "read", None, None, 1.5, 0.5)), OTHERS],
            EditVerdict(0, 1, [], 1, True),
            id="older-version-read",
        ),
        pytest.param(
            [taken(FIRST), OTHERS, taken(("a", "read", None, None, 2.5, 2.5))],
            EditVerdict(0, 0, ["a"], 1, True),
            id="change-undone",
        ),
        pytest.param(
            [taken(FIRST), taken(("a", "write", "2", None, 0.5, 2))],
            EditVerdict(0, 0, ["a"], 1, True),
            id="changed-without-having-seen-the-last-change",
        ),
        pytest.param([taken(FIRST), taken()], EditVerdict(0, 0, [], 0, True), id="alone"),
    ],
)
def test_verdict_counts_what_cannot_be_where_the_lock_excludes(
    histories: list[ParticipantHistory], expected: EditVerdict
) -> None:
    assert verdict_of(histories) == expected
    wrong = expected.lost or expected.backwards or expected.unexplained
    assert expected.excludes is (not wrong and expected.handovers > 0)


def test_verdict_that_could_not_be_reached_does_not_say_that_the_lock_excludes() -> None:
    assert not EditVerdict(0, 0, [], 10, decided=False).excludes


# --- the command ---

PARTICIPANT = re.compile(r"participant (\d) on (\S+): (\d+) changes, (\d+) reads, 0 times no lock")


def prove(directory: Path, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    evidence = directory.parent / "proof.json"
    command = neurotrale("locks", "--prove", "--seconds", "2", "--evidence", evidence, directory)
    return run([*command, *options], env)


@pytest.mark.parametrize("kind", ["flock", "strict"])
def test_prove_records_what_two_processes_did_and_saw(tmp_path: Path, kind: str) -> None:
    data_root = tmp_path / "data"
    (data_root / "brain").mkdir(parents=True)
    done = prove(data_root, "--lock", kind)
    assert done.returncode == 0, done.stderr
    *_, first, second, counts, conclusion, last = done.stdout.splitlines()
    matches = [PARTICIPANT.fullmatch(line) for line in (first, second)]
    assert [match.group(1, 2) for match in matches if match] == [
        ("0", os.uname().nodename),
        ("1", os.uname().nodename),
    ]
    assert "0 changes lost, 0 older versions read, 0 values that no order" in counts
    assert conclusion == f"{kind} excludes other writers"
    assert last == f"evidence: {tmp_path / 'proof.json'}"
    assert [path.name for path in data_root.iterdir()] == ["brain"]

    evidence = json.loads((tmp_path / "proof.json").read_text())
    system = file_system_of(data_root, mounts())
    assert evidence["file_system"] == {"type": system.kind, "mounted_at": str(system.mounted_at)}
    assert (evidence["lock"], evidence["nodes"]) == (kind, [os.uname().nodename])
    assert evidence["started"] < evidence["ended"]
    assert evidence["excludes"] is True
    assert evidence["verdict"] == conclusion
    histories = [ParticipantHistory(**one) for one in evidence["participants"]]
    verdict = verdict_of(histories)
    assert asdict(verdict).items() <= evidence.items()
    changes = sorted(version for one in histories for version in one.changed)
    assert changes == list(range(1, len(changes) + 1))
    assert [len(one.changed) for one in histories] == [int(m.group(3)) for m in matches if m]
    assert all(len(row) == len(evidence["columns"]) for one in histories for row in one.rows)


def test_prove_without_a_lock_finds_lost_changes(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    done = prove(tmp_path / "data", "--lock", "none")
    assert done.returncode == 1
    assert "none does NOT exclude other writers" in done.stdout
    evidence = json.loads((tmp_path / "proof.json").read_text())
    assert evidence["excludes"] is False
    assert evidence["lost"] > 0
    assert list((tmp_path / "data").iterdir()) == []


def test_prove_under_srun_prints_on_every_node_and_leaves_evidence_once(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    slurm = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "3", "SLURM_STEP_NUM_TASKS": "3"}
    with ThreadPoolExecutor(3) as pool:
        jobs = [
            pool.submit(prove, tmp_path / "data", **slurm, SLURM_PROCID=str(rank))
            for rank in range(3)
        ]
        outputs = [job.result() for job in jobs]
    assert [done.returncode for done in outputs] == [0, 0, 0]
    *told, last = outputs[0].stdout.splitlines()[2:]  # the file system is printed once
    assert last == f"evidence: {tmp_path / 'proof.json'}"
    assert [done.stdout.splitlines() for done in outputs[1:]] == [told, told]
    assert len(told) == 5
    node = f"{os.uname().nodename}: "
    assert all(line.startswith(node) for line in told)
    assert len(json.loads((tmp_path / "proof.json").read_text())["participants"]) == 3
    assert list((tmp_path / "data").iterdir()) == []


def test_prove_leaves_its_evidence_in_the_current_directory(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    done = run(neurotrale("locks", "--prove", "--seconds", "1", "data"), cwd=tmp_path)
    path = Path(done.stdout.splitlines()[-1].removeprefix("evidence: "))
    assert path.parent == tmp_path
    assert re.fullmatch(r"lock-proof-\d{8}T\d{6}Z\.json", path.name)
    assert json.loads(path.read_text())["directory"] == str(tmp_path / "data")


def test_prove_that_cannot_leave_evidence_does_not_begin(tmp_path: Path) -> None:
    done = run(neurotrale("locks", "--prove", tmp_path, "--evidence", tmp_path / "gone/proof.json"))
    assert done.returncode == 1
    assert f"Error: {tmp_path / 'gone'} is not a directory in which you may write" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_prove_whose_other_participant_never_comes_says_so(tmp_path: Path) -> None:
    with pytest.raises(BusyError, match="here-1"):
        prove_lock(tmp_path / "probe", "flock", 0, 2, 1.0, 6.2)
