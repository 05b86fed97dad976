"""Many writers, two independent services on one data root, and workers that are killed meanwhile.

    python -m tests.stress --seconds 60 --seed 1

Six processes of four threads PUT, PATCH, DELETE and GET a few files. Every annotation has one
owner, which numbers its edits; so it is known at every moment which states are possible: the last
acknowledged one, and those of edits since then whose answer was lost with a killed worker. At the
end the files, the journals and the directory are held against that. Exit code 0: all is well.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from neurotrale.annotations.documents.contents import etag_of
from neurotrale.annotations.journals.changes import apply, reversed_hunks
from neurotrale.annotations.journals.journal import Journal
from neurotrale.annotations.journals.journal_records import ContentState, JournalRecord
from neurotrale.locking.locks import Locks
from tests.processes import claims_in, names_in

PROCESSES = 6
SERVICES = 2
BLOCK = "brain/annotations/x0y0z0"
SHARED = ("fibers.json", "centroids.json", "z-0001.json")
START_TIMEOUT_S = 60
ANSWER_TIMEOUT_S = 60
# A change that had reached the writer when its worker was killed is made by then.
LATE_S = 2.0
# A supervisor gives up when ten workers die within half a minute.
MOST_KILLS, KILLS_WINDOW_S = 8, 31

Annotation = dict[str, Any]
Key = tuple[str, str]
"""File and id of an annotation."""


# --- what clients do ---


@dataclass
class Result:
    """What a client saw.

    Attributes:
        counts: Requests by method and outcome.
        possible: The states that each of its annotations may have; None is absent.
        acknowledged: Every edit that was: file, id, number.
        problems: What should never happen.
    """

    counts: Counter[str] = field(default_factory=Counter)
    possible: dict[Key, set[int | None]] = field(default_factory=dict)
    acknowledged: list[tuple[str, str, int]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    etag: str
    body: bytes


def annotation(id_: str, number: int) -> Annotation:
    """Make an annotation whose parts tell whether they belong together."""
    proof = hashlib.sha256(f"{id_} {number}".encode()).hexdigest()
    return {
        "id": id_,
        "type": "point",
        "point": [number, 2, 3],
        "number": number,
        "proof": proof * (1 + number % 5),
    }


def is_whole(found: Annotation) -> bool:
    """Tell whether all parts of an annotation are of one edit."""
    return found == annotation(found["id"], found["number"])


class Client:
    """One thread's connections to the services, and its notes."""

    def __init__(self, ports: list[int], name: str, seed: int) -> None:
        self.ports = ports
        self.name = name
        self.random = random.Random(f"{seed} {name}")
        self.result = Result()
        self.numbers = 0
        self._connections: dict[int, http.client.HTTPConnection] = {}

    def ask(
        self, method: str, file: str, id_: str = "", body: object = None, **headers: str
    ) -> Answer | None:
        """Ask one of the services; None when the answer was lost with its worker."""
        port = self.random.choice(self.ports)
        connection = self._connections.setdefault(
            port, http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_TIMEOUT_S)
        )
        url = f"/{BLOCK}/{file}" + (f"?id={id_}" if id_ else "")
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        sent = None if body is None else json.dumps(body).encode()
        try:
            connection.request(method, url, sent, named)
            response = connection.getresponse()
            answer = Answer(response.status, response.headers.get("ETag", ""), response.read())
        except TimeoutError:
            self.problem(f"{method} {url} was not answered within {ANSWER_TIMEOUT_S} s")
            raise
        except (OSError, http.client.HTTPException):
            connection.close()
            self.result.counts[f"{method} lost"] += 1
            if method != "GET":
                time.sleep(LATE_S)
            return None
        self.result.counts[f"{method} {answer.status}"] += 1
        if answer.status not in (200, 201, 404, 412, 503):
            self.problem(f"{method} {url}: {answer.status} {answer.body[:200]!r}")
        return answer

    def problem(self, text: str) -> None:
        """Note what should never happen."""
        self.result.problems.append(f"{self.name}: {text}")

    def possible(self, key: Key) -> set[int | None]:
        """Give the states that an annotation of this client may have."""
        return self.result.possible.setdefault(key, {None})

    def settle(self, key: Key, state: int | None, what: str) -> None:
        """Note what an annotation certainly is now; that must have been possible."""
        if state not in self.possible(key):
            self.problem(f"{what} {key}: {state} is none of {self.possible(key)}")
        self.result.possible[key] = {state}

    def edited(self, key: Key, answer: Answer | None, number: int | None) -> bool:
        """Note the outcome of an edit; tell whether it was acknowledged."""
        if answer is None:
            self.possible(key).add(number)
            return False
        if answer.status not in (200, 201):
            return False
        self.result.possible[key] = {number}
        if number is not None:
            self.result.acknowledged.append((*key, number))
        return True

    def next_number(self) -> int:
        """Number an edit."""
        self.numbers += 1
        return self.numbers


def edit_single(client: Client, number: int) -> None:
    """PATCH, DELETE or GET an annotation of one's own."""
    key = file, id_ = client.random.choice(SHARED), f"{client.name}-{client.random.randrange(2)}"
    before = set(client.possible(key))
    what = client.random.choices(("PATCH", "DELETE", "GET"), (6, 2, 2))[0]
    if what == "PATCH":
        answer = client.ask("PATCH", file, id_, annotation(id_, number))
        if client.edited(key, answer, number) and answer is not None:
            impossible = None not in before if answer.status == 201 else before == {None}
            if impossible:
                client.problem(f"PATCH {key}: {answer.status} although it was one of {before}")
    elif what == "DELETE":
        answer = client.ask("DELETE", file, id_)
        if answer is not None and answer.status == 404:
            client.settle(key, None, "DELETE, 404")
        elif client.edited(key, answer, None) and before == {None}:
            client.problem(f"DELETE {key}: 200 although it was not there")
    else:
        answer = client.ask("GET", file, id_)
        if answer is not None and answer.status == 404:
            client.settle(key, None, "GET, 404")
        elif answer is not None and answer.status == 200:
            found = json.loads(answer.body)
            if not is_whole(found):
                client.problem(f"GET {key}: torn: {found}")
            client.settle(key, found["number"], "GET")


def edit_whole(client: Client, number: int) -> None:
    """GET a shared file, change an annotation of one's own, PUT it back if nobody was quicker."""
    key = file, id_ = client.random.choice(SHARED), f"{client.name}-whole"
    got = client.ask("GET", file)
    if got is None or got.status != 200:
        return
    annotations = {found["id"]: found for found in json.loads(got.body)}
    there = annotations.get(id_)
    client.settle(key, None if there is None else there["number"], "GET for PUT")
    annotations[id_] = annotation(id_, number)
    body = list(annotations.values())
    client.random.shuffle(body)
    client.edited(key, client.ask("PUT", file, body=body, If_Match=got.etag), number)


class OwnFile:
    """A file that one client alone writes, each time as a whole."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.file = f"own-{client.name}.json"
        self.key = (self.file, "0")
        self.etag: str | None = None
        self.stale = ""

    def put(self, number: int) -> None:
        """PUT the file if it is the version that it should be."""
        client = self.client
        if len(client.possible(self.key)) > 1:
            self._look()
            return
        body = [annotation(str(i), number) for i in range(20)]
        if self.stale and client.random.random() < 0.2:
            answer = client.ask("PUT", self.file, body=body, If_Match=self.stale)
            if answer is not None and answer.status not in (412, 503):
                client.problem(f"PUT {self.file} over a newer version: {answer.status}")
            return
        if self.etag is None:
            answer = client.ask("PUT", self.file, body=body, If_None_Match="*")
        else:
            answer = client.ask("PUT", self.file, body=body, If_Match=self.etag)
        if client.edited(self.key, answer, number) and answer is not None:
            self.stale, self.etag = self.etag or "", answer.etag
        elif answer is not None and answer.status != 503:
            client.problem(f"PUT {self.file}: {answer.status} although nobody else writes it")

    def _look(self) -> None:
        answer = self.client.ask("GET", self.file)
        if answer is not None and answer.status == 404:
            self.client.settle(self.key, None, "GET after a lost PUT")
        elif answer is not None and answer.status == 200:
            numbers = {found["number"] for found in json.loads(answer.body)}
            if len(numbers) != 1:
                self.client.problem(f"GET {self.file}: torn: {numbers}")
            self.client.settle(self.key, numbers.pop(), "GET after a lost PUT")
            self.etag = answer.etag


class Reader:
    """Reads the shared files, and sees that they only ever go forward."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.seen: dict[Key, int] = {}
        self.bodies: dict[tuple[str, str], bytes] = {}

    def read(self, number: int) -> None:
        """GET a file and look at every byte."""
        client = self.client
        file = client.random.choice(SHARED)
        answer = client.ask("GET", file)
        if answer is None or answer.status != 200:
            return
        try:
            annotations = json.loads(answer.body)
            ids = [found["id"] for found in annotations]
            torn = [found["id"] for found in annotations if not is_whole(found)]
        except (ValueError, KeyError, TypeError) as error:
            client.problem(f"GET {file}: invalid ({error}): {answer.body[:200]!r}")
            return
        if torn or len(set(ids)) != len(ids):
            client.problem(f"GET {file}: torn {torn} or repeated: {ids}")
        for found in annotations:
            key = (file, found["id"])
            if found["number"] < self.seen.get(key, 0):
                client.problem(f"GET {key}: {found['number']} after {self.seen[key]}")
            self.seen[key] = found["number"]
        digest = hashlib.sha256(answer.body).digest()
        if self.bodies.setdefault((file, answer.etag), digest) != digest:
            client.problem(f"GET {file}: two contents with the ETag {answer.etag}")


def run_client(ports: list[int], process: int, seconds: float, seed: int) -> list[Result]:
    """Run the threads of one client process."""
    clients = [Client(ports, f"p{process}t{thread}", seed) for thread in range(4)]
    own, reader = OwnFile(clients[2]), Reader(clients[3])
    whole = clients[2]

    def put(number: int) -> None:
        own.put(number) if whole.random.random() < 0.5 else edit_whole(whole, number)

    work: list[Callable[[int], None]] = [
        lambda number: edit_single(clients[0], number),
        lambda number: edit_single(clients[1], number),
        put,
        reader.read,
    ]
    until = time.monotonic() + seconds

    def repeat(client: Client, step: Callable[[int], None]) -> Result:
        while time.monotonic() < until:
            step(client.next_number())
        return client.result

    with ThreadPoolExecutor(len(clients)) as threads:
        return list(threads.map(repeat, clients, work))


# --- the services, and who kills their workers ---


class Service:
    """One supervisor with two workers."""

    def __init__(self, root: Path, place: Path, number: int) -> None:
        ready = place / f"ready-{number}.json"
        self.log = place / f"log-{number}.txt"
        command = [sys.executable, "-m", "neurotrale", "serve", str(root), "--port", "0"]
        command += ["--workers", "2", "--no-access-log", "--ready-file", str(ready)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.kills: deque[float] = deque()
        until = time.monotonic() + START_TIMEOUT_S
        while not ready.exists():
            if self.process.poll() is not None or time.monotonic() > until:
                self.process.kill()
                raise RuntimeError(f"the service did not start:\n{self.log.read_text()}")
            time.sleep(0.02)
        self.port: int = json.loads(ready.read_text())["port"]

    def workers(self) -> list[int]:
        """List the processes whose parent is the supervisor."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue  # gone meanwhile
            if int(fields[1]) == self.process.pid and fields[0] != "Z":
                found.append(int(stat.parent.name))
        return found

    def kill_one(self, choice: random.Random) -> bool:
        """Kill a worker, unless so many died lately that the supervisor would give up."""
        now = time.monotonic()
        while self.kills and now - self.kills[0] > KILLS_WINDOW_S:
            self.kills.popleft()
        workers = self.workers()
        if len(self.kills) >= MOST_KILLS or not workers:
            return False
        os.kill(choice.choice(workers), signal.SIGKILL)
        self.kills.append(now)
        return True

    def stop(self) -> int:
        """Stop it as an administrator does; give its exit code."""
        self.process.terminate()
        return self.process.wait(60)


def kill_workers(services: list[Service], seconds: float, seed: int, done: threading.Event) -> int:
    """Kill workers at random moments; give how many."""
    choice = random.Random(seed)
    killed = 0
    # As many as the supervisors allow, spread over the time.
    mean_s = min(KILLS_WINDOW_S, seconds) / (MOST_KILLS * len(services))
    while not done.wait(choice.uniform(0.2, 1.6) * mean_s):
        killed += choice.choice(services).kill_one(choice)
    return killed


# --- what must be so at the end ---


class Check:
    """Holds what is on disk against what the clients know."""

    def __init__(self, directory: Path, results: list[Result]) -> None:
        self.directory = directory
        self.results = results
        self.problems = [problem for result in results for problem in result.problems]
        self.counts: Counter[str] = Counter()

    def last_writes(self, ports: list[int], seed: int) -> None:
        """Write every file once more, which also clears away what the dead left."""
        client = Client(ports, "last", seed)
        for file in self.files():
            for _ in range(20):
                answer = client.ask("PATCH", file, "last", annotation("last", 1))
                if answer is not None and answer.status in (200, 201):
                    break
            else:
                self.problems.append(f"the last PATCH of {file} never succeeded")

    def files(self) -> list[str]:
        """List the annotation files."""
        return sorted(path.name for path in self.directory.glob("[!.]*.json"))

    def locks(self) -> None:
        """Take every lock at once."""
        locks = Locks("flock", timeout_s=0)
        for file in self.files():
            with locks.hold(self.directory / file, file):
                self.counts["locks free"] += 1

    def directory_is_clean(self) -> None:
        """Find nothing but files, journals, first contents, locks, and the services' claims."""
        expected = set(self.files())
        ends = (".lock", ".journal", ".journal.base")
        expected |= {f".{file}{end}" for file in expected for end in ends}
        others = names_in(self.directory) - expected
        if len(claims_in(self.directory)) > SERVICES:
            self.problems.append(f"too many claims: {claims_in(self.directory)}")
        self.counts["other files left"] += len(others)
        if others:
            self.problems.append(f"left behind: {sorted(others)}")

    def edits(self) -> None:
        """Find every annotation in a state that its owner knows to be possible."""
        final: dict[Key, int] = {}
        for file in self.files():
            for found in json.loads((self.directory / file).read_bytes()):
                final[file, found["id"]] = found["number"]
                if not is_whole(found):
                    self.problems.append(f"{file} {found['id']}: torn")
        for result in self.results:
            for key, possible in result.possible.items():
                self.counts["annotations"] += 1
                self.counts["annotations whose last answer was lost"] += len(possible) > 1
                self.counts["edits lost"] += 0
                if final.get(key) not in possible:
                    self.counts["edits lost"] += 1
                    self.problems.append(f"{key} is {final.get(key)}, none of {possible}")

    def journals(self) -> None:
        """Replay every journal, forwards and backwards, and find every acknowledged edit in it."""
        acknowledged = {edit for result in self.results for edit in result.acknowledged}
        self.counts["edits acknowledged"] = len(acknowledged)
        recorded: set[tuple[str, str, int]] = set()
        for file in self.files():
            try:
                recorded |= self._replay(self.directory / file)
            except ValueError as error:
                self.problems.append(f"{file}: the journal cannot be replayed: {error}")
        missing = acknowledged - recorded
        self.counts["acknowledged edits not in a journal"] = len(missing)
        if missing:
            self.problems.append(f"not in a journal: {sorted(missing)[:20]}")

    def _replay(self, file: Path) -> set[tuple[str, str, int]]:
        journal = Journal(file)
        lines = journal.path.read_bytes().split(b"\n")
        records = list(journal.records_forward())
        self.counts["torn records"] += len([line for line in lines if line]) - len(records)
        self.counts["records"] += len(records)
        voided = {number for record in records for number in record.aborts}
        self.counts["recorded and never made"] += len(voided)
        if [record.n for record in records] != list(range(1, len(records) + 1)):
            self.problems.append(f"{file.name}: records are not numbered one after the other")
        made = [r for r in records if r.op != "void" and r.n not in voided]
        body = journal.base() or b""
        recorded: set[tuple[str, str, int]] = set()
        for record in made:
            if record.op == "outside":
                self.problems.append(f"{file.name}: {record.n} is taken for another program's")
            self._same(file, record, record.old, body)
            body = apply(body, record.bytes_hunks())
            self._same(file, record, record.new, body)
            recorded |= {
                (file.name, found["id"], found["number"])
                for hunk in record.bytes_hunks()
                for found in json.loads(b"[" + hunk.new.strip(b" ,[]\r\n\t") + b"]")
            }
        if body != file.read_bytes():
            self.problems.append(f"{file.name}: the journal leads to another content")
        for record in reversed(made):
            body = apply(body, reversed_hunks(record.bytes_hunks()))
            self._same(file, record, record.old, body)
        self.counts["revisions replayed both ways"] += len(made)
        return recorded

    def _same(
        self, file: Path, record: JournalRecord, state: ContentState | None, body: bytes
    ) -> None:
        if state is not None and state != ContentState(len(body), etag_of(body)):
            self.problems.append(f"{file.name}: the journal does not fit at {record.n}")


def run(seconds: float, seed: int, place: Path) -> tuple[dict[str, int], list[str]]:
    """Stress the services; give the counts, and what should not have happened."""
    directory = place / "data" / BLOCK
    directory.mkdir(parents=True)
    (directory.parent / "block_info.csv").write_text("64,64,64\n")
    for file in SHARED[:2]:  # the others begin with a first PUT
        (directory / file).write_text("[\n]")
    services = [Service(place / "data", place, number) for number in range(SERVICES)]
    ports = [service.port for service in services]
    killed: list[int] = []
    done = threading.Event()
    try:
        first = Client(ports, "first", seed).ask("PUT", SHARED[2], body=[])
        assert first is not None
        assert first.status == 201
        killer = threading.Thread(
            target=lambda: killed.append(kill_workers(services, seconds, seed, done))
        )
        killer.start()
        with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
            futures = [
                pool.submit(run_client, ports, process, seconds, seed)
                for process in range(PROCESSES)
            ]
            results = [result for future in futures for result in future.result()]
        done.set()
        killer.join()
        check = Check(directory, results)
        check.last_writes(ports, seed)
        check.locks()
    finally:
        done.set()
        codes = [service.stop() for service in services]
    if any(codes):
        check.problems.append(f"the services ended with the codes {codes}")
    check.edits()
    check.journals()
    check.directory_is_clean()
    counts: Counter[str] = sum((result.counts for result in results), Counter())
    told = dict(sorted(counts.items())) | {"workers killed": killed[0]} | check.counts
    return told, check.problems


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.stress", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="neurotrale-stress-"))
    print(f"{options.seconds:g} s with the seed {options.seed}", flush=True)
    counts, problems = run(options.seconds, options.seed, place)
    for name, number in counts.items():
        print(f"{number:>8}  {name}")
    for problem in problems[:50]:
        print(f"PROBLEM: {problem}")
    if problems:
        print(f"{len(problems)} problems; everything is kept in {place}")
        return 1
    shutil.rmtree(place)
    print("every acknowledged edit is there or superseded by a later one; nothing else is")
    return 0


if __name__ == "__main__":
    sys.exit(main())
