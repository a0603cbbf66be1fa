"""A pod of a group opens its port when its leader is ready, and not before."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from pitcrew_runtime.ranks.following import open_with_leader

DEADLINE = 30.0


class Leader(ThreadingHTTPServer):
    """Answers as it is told to, and knows how often it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.status = 503
        self.asked = threading.Semaphore(0)


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Leader)
        assert self.path == "/health/ready"
        self.send_response(self.server.status)
        self.end_headers()
        self.server.asked.release()

    def log_message(self, *words: object) -> None:
        pass


@contextmanager
def leader() -> Iterator[Leader]:
    with Leader() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Door:
    """A port that somebody opens in time."""

    def __init__(self) -> None:
        self._opened, self._port = threading.Event(), 0

    def listen(self) -> socket.socket:
        door = socket.create_server(("127.0.0.1", 0))
        self._port = door.getsockname()[1]
        self._opened.set()
        return door

    @property
    def is_open(self) -> bool:
        return self._opened.is_set()

    def knock(self) -> bytes:
        assert self._opened.wait(DEADLINE)
        with socket.create_connection(("127.0.0.1", self._port), DEADLINE) as end:
            return end.recv(1)


def test_a_port_opens_once_the_leader_is_ready() -> None:
    door = Door()
    with leader() as server:
        open_with_leader(("127.0.0.1", server.server_address[1]), door.listen)
        for _ in range(2):
            assert server.asked.acquire(timeout=DEADLINE)
            assert not door.is_open
        server.status = 200
        assert door.knock() == b""
        assert door.knock() == b"", "one after the other"


def test_a_leader_that_cannot_be_reached_keeps_no_pod_from_being_counted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    door = Door()
    open_with_leader(("127.0.0.1", port), door.listen)
    assert door.knock() == b""
