"""A real S3 server (moto's), on loopback unless told otherwise, with a bucket for each who asks, and credentials for it."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from threading import Lock, Thread
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from botocore.awsrequest import AWSPreparedRequest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from pitcrew_builder.s3.address import S3Address
from pitcrew_builder.s3.objects import Objects

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_MAX_ATTEMPTS": "1",
}
_NUMBERS = count(1)


class CutOff(BaseException):
    """The end of a process, as far as a thread can have one."""


@dataclass(frozen=True)
class S3Server:
    """A running server."""

    endpoint: str

    def bucket(self) -> Objects:
        """An empty bucket of its own, below a prefix."""
        name = f"bucket-{next(_NUMBERS)}"
        objects = Objects(S3Address(name, "some/prefix", self.endpoint))
        objects.client.create_bucket(Bucket=name)
        return objects


@contextmanager
def serve(host: str = "127.0.0.1", port: int = 0) -> Iterator[S3Server]:
    """Run a server, and hold the environment of its clients, until the block ends."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server(host, port, _in_turn(_app()), threaded=True)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield S3Server(f"http://{host}:{server.server_port}")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _app() -> WSGIApplication:
    app: WSGIApplication = DomainDispatcherApplication(create_backend_app)
    return app


def _in_turn(app: WSGIApplication) -> WSGIApplication:
    """One request at a time: this server's objects are not made for two writers at once."""
    lock = Lock()

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with lock:
            return list(app(environ, start_response))

    return answer


@contextmanager
def watching(objects: Objects, see: Callable[[AWSPreparedRequest], None]) -> Iterator[None]:
    """Inside, each request is shown before it is sent."""

    def before_send(request: AWSPreparedRequest, **_: Any) -> None:  # noqa: ANN401
        see(request)

    events = objects.client.meta.events
    events.register("before-send.s3", before_send)
    try:
        yield
    finally:
        events.unregister("before-send.s3", before_send)


@contextmanager
def cut_off_at(objects: Objects, number: int) -> Iterator[None]:
    """Inside, the N-th request, counted from 1, is the end."""
    seen = count(1)

    def see(request: AWSPreparedRequest) -> None:
        if next(seen) == number:
            raise CutOff(request.url)

    with watching(objects, see):
        yield
