"""Connections of ranks under TLS, end to end over real sockets."""

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pitcrew_runtime.errors import InvalidOption
from pitcrew_runtime.ranks import wire
from pitcrew_runtime.ranks.sealed import Sealed, context, seal
from pitcrew_runtime.ranks.stream import receive_value, send_value, swap
from tests.certificates import Authority

SECONDS = 30.0
Ends = tuple[Sealed, Sealed]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Authority("group").write(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as found:
        yield found


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        caller = socket.create_connection(listener.getsockname())
        called, _ = listener.accept()
    with caller, called:
        for end in (caller, called):
            end.settimeout(SECONDS)
        yield caller, called


def both(pool: ThreadPoolExecutor, *works: Callable[[], Any]) -> list[Any]:
    """What each returns, or the error that it raises."""
    futures = [pool.submit(work) for work in works]
    return [future.exception(SECONDS) or future.result(SECONDS) for future in futures]


def sealed(
    pool: ThreadPoolExecutor,
    sockets: tuple[socket.socket, socket.socket],
    folders: tuple[Path, Path],
    purposes: tuple[str, str] = ("pair 0-1", "pair 0-1"),
) -> list[Any]:
    return both(
        pool,
        lambda: seal(sockets[0], folders[0], purposes[0], answers=False),
        lambda: seal(sockets[1], folders[1], purposes[1], answers=True),
    )


@pytest.fixture
def ends(
    pool: ThreadPoolExecutor, sockets: tuple[socket.socket, socket.socket], folder: Path
) -> Ends:
    caller, called = sealed(pool, sockets, (folder, folder))
    for end in sockets:
        end.settimeout(None)
    assert isinstance(caller, Sealed)
    assert isinstance(called, Sealed)
    return caller, called


@pytest.mark.parametrize("shape", [(1,), (3, 5), (0, 4), (700, 1000)])
def test_values(ends: Ends, pool: ThreadPoolExecutor, shape: tuple[int, ...]) -> None:
    caller, called = ends
    value = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    _, found = both(pool, lambda: send_value(caller, value), lambda: receive_value(called))
    np.testing.assert_array_equal(found, value)
    one, other = both(pool, lambda: swap({1: caller}, value), lambda: swap({0: called}, value * 2))
    np.testing.assert_array_equal(one[1], value * 2)
    np.testing.assert_array_equal(other[0], value)


def test_messages(ends: Ends, pool: ThreadPoolExecutor) -> None:
    caller, called = ends
    arrays = {"a": np.arange(100_000), "none": np.empty((0, 3), np.float32)}
    message = wire.Message("step", arrays, "words")
    _, found = both(pool, lambda: wire.send(caller, message), lambda: wire.receive(called))
    assert (found.kind, found.text) == ("step", "words")
    for name, array in arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)


def test_nothing_stands_in_the_open(ends: Ends) -> None:
    """What goes over the wire is neither readable nor accepted when it was changed."""
    caller, called = ends
    secret = b"the words of a prompt" * 8
    wired = bytearray(caller.encipher([secret]))
    assert secret[:10] not in wired
    wired[-1] ^= 1
    caller.outside.sendall(wired)
    with pytest.raises(OSError, match=r"bad record mac|decryption failed"):
        called.recv(len(secret))


def test_the_end_is_noticed(ends: Ends) -> None:
    caller, called = ends
    caller.close()
    assert called.recv(1) == b""
    with pytest.raises(EOFError):
        wire.receive(called)


def test_strangers_are_not_trusted(
    pool: ThreadPoolExecutor,
    sockets: tuple[socket.socket, socket.socket],
    folder: Path,
    tmp_path: Path,
) -> None:
    """Their authority has the same name, and is another."""
    stranger = Authority("group").write(tmp_path / "stranger")
    results = sealed(pool, sockets, (stranger, folder))
    assert all(isinstance(one, OSError | EOFError) for one in results), results


def test_connections_that_were_led_elsewhere(
    pool: ThreadPoolExecutor, sockets: tuple[socket.socket, socket.socket], folder: Path
) -> None:
    results = sealed(pool, sockets, (folder, folder), ("pair 0-1", "pair 0-2"))
    assert all("leads to one for" in str(one) for one in results), results


def test_one_who_speaks_in_the_open(
    sockets: tuple[socket.socket, socket.socket], folder: Path
) -> None:
    plain, called = sockets
    plain.sendall(b"\0" * 64)
    with pytest.raises(OSError, match=r"(?i)ssl|wrong version"):
        seal(called, folder, "rank 1", answers=True)


@pytest.mark.parametrize("missing", ["tls.crt", "tls.key", "ca.crt"])
def test_certificates_that_are_missing(tmp_path: Path, missing: str) -> None:
    folder = Authority("group").write(tmp_path)
    (folder / missing).unlink()
    with pytest.raises(InvalidOption, match=r"--rank-tls-dir .*: No such file.*tls\.crt"):
        context(folder, answers=False)
    (folder / missing).write_text("nothing")
    with pytest.raises(InvalidOption, match="--rank-tls-dir"):
        context(folder, answers=True)
