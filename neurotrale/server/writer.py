"""The one process of a service in which all changes of annotation files meet.

Each worker has a connection to it, over which requests come and answers go. Requests for one file
wait in one queue: whoever works on the file takes all that have come in the meantime, so that many
small changes are one rewrite. No thread of a worker waits for any of this.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from struct import Struct
from threading import Lock, Thread

from neurotrale.server.messages import Outgoing, Piece, receive, send, socket_pair
from neurotrale.server.threads import FileQueues, Job

log = logging.getLogger(__name__)

# Number of the request among those of its connection; whether it was sent before, to a writer that
# died; 0 or 1 in an answer: whether it was taken at all.
HEADER = Struct("<QB")
NOTICE = 0  # the number of a message that nobody answers
MOST_NOTICES = 1000  # beyond that, they are dropped

# While only the last jobs are left, the queues are looked at this often.
LAST_JOBS_S = 0.05


class _WorkerConnection:
    """A worker's connection, as the writer has it."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.is_open = True
        self._outgoing = Outgoing(connection)

    def answer(self, number: int, pieces: Sequence[Piece], *, is_taken: bool = True) -> None:
        """Answer a request; a worker that has gone needs no answer."""
        with suppress(OSError):
            self._outgoing.send([HEADER.pack(number, is_taken), *pieces])

    def close(self) -> None:
        """Close the connection: the worker has gone."""
        self.is_open = False
        self._outgoing.close()


class Writer:
    """Takes the requests of all workers, and has them worked on.

    Args:
        door: Where workers introduce themselves, each with a descriptor of its connection.
        address: Returns which file a message is about, and whether its sender waits however many
            others wait for that file.
        queues: Where jobs go.
        most_waiting: How many jobs of one file may wait; beyond that, a request whose sender does
            not wait is answered at once as not taken.
        note: Takes messages that nobody waits for, before all requests that come later.
    """

    def __init__(
        self,
        door: socket.socket,
        address: Callable[[memoryview], tuple[Hashable, bool]],
        queues: FileQueues,
        most_waiting: int,
        note: Callable[[memoryview], object] = len,
    ) -> None:
        self._door = door
        self._address = address
        self._queues = queues
        self._most_waiting = most_waiting
        self._note = note
        self._connections: dict[int, _WorkerConnection] = {}
        self._poll = select.poll()
        self._poll.register(door, select.POLLIN)
        self._stopping = os.eventfd(0, os.EFD_CLOEXEC)
        self._is_stopping = False
        self._poll.register(self._stopping, select.POLLIN)

    def stop(self) -> None:
        """Have `run` return once every worker has gone; safe in a signal handler."""
        os.eventfd_write(self._stopping, 1)

    def run(self) -> None:
        """Take requests until `stop`, then until every worker has gone and all work is done."""
        while self._connections or not self._is_stopping or not self._queues.is_empty:
            timeout_s = LAST_JOBS_S if self._is_stopping and not self._connections else None
            for descriptor, _ in self._poll.poll(timeout_s and timeout_s * 1000):
                if descriptor == self._door.fileno():
                    self._introduce()
                elif descriptor == self._stopping:
                    os.eventfd_read(self._stopping)
                    self._is_stopping = True
                else:
                    self._take(self._connections[descriptor])

    def _introduce(self) -> None:
        message = receive(self._door)
        for descriptor in message[1] if message is not None else ():
            self._connections[descriptor] = _WorkerConnection(socket.socket(fileno=descriptor))
            self._poll.register(descriptor, select.POLLIN)

    def _take(self, worker: _WorkerConnection) -> None:
        message = receive(worker.socket)
        if message is None:
            self._poll.unregister(worker.socket)
            del self._connections[worker.socket.fileno()]
            worker.close()
            return
        number, is_repeated = HEADER.unpack(message[0][: HEADER.size])
        body = message[0][HEADER.size :]
        if number == NOTICE:
            self._note(body)
            return
        key, waits = self._address(body)
        if not waits and self._queues.waiting(key) >= self._most_waiting:
            worker.answer(number, [], is_taken=False)
            return
        answer = partial(worker.answer, number)
        self._queues.add(
            key, Job(body, bool(is_repeated), answer, partial(getattr, worker, "is_open"))
        )


@dataclass(frozen=True, slots=True)
class _Sent:
    pieces: Sequence[Piece]
    answer: Future[memoryview | None]


class WriterLink:
    """The way to the writer, as a worker has it; each process has a connection of its own.

    A writer that dies is replaced by another one, which gets again what the first has not answered.

    Args:
        door: The other end of the writer's door.
    """

    def __init__(self, door: socket.socket) -> None:
        self._door = door
        self._lock = Lock()
        self._process = 0
        self._connection: socket.socket | None = None
        self._outgoing: Outgoing | None = None
        self._sent: dict[int, _Sent] = {}
        self._numbers = count(1)
        self._is_closed = False

    def open(self) -> None:
        """Connect this process; otherwise the first `submit` does."""
        with self._lock:
            self._open()

    def close(self) -> None:
        """Take no more answers; this process submits nothing any more."""
        with self._lock:
            self._is_closed = True
            if self._connection is not None:
                self._connection.shutdown(socket.SHUT_RDWR)

    def submit(self, pieces: Sequence[Piece]) -> Future[memoryview | None]:
        """Send a request.

        Returns:
            The answer to come; None as the answer means that too many wait for the same file.

        Raises:
            OSError: There is no memory for a large request.
        """
        answer: Future[memoryview | None] = Future()
        with self._lock:
            self._open()
            number = next(self._numbers)
            self._sent[number] = _Sent(pieces, answer)
            try:
                self._send(number, is_repeated=False)
            except BaseException:
                del self._sent[number]
                raise
        return answer

    def notify(self, pieces: Sequence[Piece]) -> None:
        """Send a short message that nobody answers; it is lost if very many wait for the writer."""
        with self._lock:
            self._open()
            assert self._outgoing is not None
            with suppress(OSError):
                self._outgoing.send([HEADER.pack(NOTICE, False), *pieces], MOST_NOTICES)

    @property
    def waiting_bytes(self) -> int:
        """How many bytes of requests are not answered yet."""
        with self._lock:
            return sum(len(piece) for sent in self._sent.values() for piece in sent.pieces)

    def _open(self) -> None:
        if self._process == os.getpid():
            return
        self._process = os.getpid()
        self._sent.clear()
        self._connect()
        # It takes no signals, for the same reason as the threads of the pool.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        Thread(target=self._receive, name="writer-answers", daemon=True).start()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _connect(self) -> None:
        mine, theirs = socket_pair()
        with theirs:
            send(self._door, [b"worker"], [theirs.fileno()])
        self._connection, self._outgoing = mine, Outgoing(mine)

    def _send(self, number: int, *, is_repeated: bool) -> None:
        assert self._outgoing is not None
        # A writer that has just died gets it again when `_receive` has found the next one.
        with suppress(BrokenPipeError, ConnectionResetError):
            self._outgoing.send([HEADER.pack(number, is_repeated), *self._sent[number].pieces])

    def _receive(self) -> None:
        while True:
            connection = self._connection
            assert connection is not None
            message = receive(connection)
            if message is None:
                if not self._reconnect():
                    return
                continue
            number, is_taken = HEADER.unpack(message[0][: HEADER.size])
            with self._lock:
                sent = self._sent.pop(number, None)
            if sent is not None:
                sent.answer.set_result(message[0][HEADER.size :] if is_taken else None)

    def _reconnect(self) -> bool:
        with self._lock:
            assert self._outgoing is not None
            self._outgoing.close()
            if self._is_closed:
                return False
            self._connect()
            for number in list(self._sent):
                try:
                    self._send(number, is_repeated=True)
                except OSError as error:  # no memory; the others are sent all the same
                    self._sent.pop(number).answer.set_exception(error)
        return True
