"""Connections between ranks of different pods under TLS 1.3, where both ends show a certificate.

A connection is made by one process and inherited by another, and no TLS session can be. So it is
made and greeted in the open (see `handshake`), and sealed by the processes that go on to use it,
before anything is computed. Inside, each end says what the connection is for, so one that was led
elsewhere on its way is noticed. Records are read one by one: what has come is never more than was
asked for, and a poll tells of all that is there.
"""

import socket
import ssl
from collections.abc import Iterable
from pathlib import Path

from pitcrew_runtime.errors import InvalidOption

CERTIFICATE, KEY, AUTHORITY = "tls.crt", "tls.key", "ca.crt"
"""The files of a Secret of type kubernetes.io/tls, as cert-manager writes it."""
_HEADER = 5
"""Bytes before each record; the last two tell its length."""


class Sealed:
    """A connection's inside, for whatever takes a socket here."""

    def __init__(self, end: socket.socket, tls: ssl.SSLContext, purpose: str) -> None:
        """Shake hands. Raises `OSError` where the other end cannot be trusted, `EOFError`."""
        self.outside = end
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        is_server = tls.protocol is ssl.PROTOCOL_TLS_SERVER
        self._tls = tls.wrap_bio(self._incoming, self._outgoing, server_side=is_server)
        self._record = bytearray()
        self._shake_hands()
        self.sendall(purpose.encode())
        told = bytearray(len(purpose.encode()))
        into = memoryview(told)
        while len(into):
            if not (got := self.recv_into(into)):
                raise EOFError("the other end left while it was greeted")
            into = into[got:]
        if told != purpose.encode():
            raise ConnectionError(
                f"the connection for {purpose!r} leads to one for {bytes(told)!r}"
            )

    @property
    def family(self) -> int:
        """Of the socket."""
        return self.outside.family

    def fileno(self) -> int:
        """What can be polled."""
        return self.outside.fileno()

    def settimeout(self, seconds: float | None) -> None:
        """See `socket.socket`."""
        self.outside.settimeout(seconds)

    def shutdown(self, how: int) -> None:
        """See `socket.socket`."""
        self.outside.shutdown(how)

    def close(self) -> None:
        """See `socket.socket`."""
        self.outside.close()

    def sendall(self, data: bytes | bytearray | memoryview) -> None:
        """Raises `OSError`."""
        self.outside.sendall(self.encipher([data]))

    def encipher(self, parts: Iterable[bytes | bytearray | memoryview]) -> bytes:
        """What has to be sent outside, in this order and before anything else."""
        for part in parts:
            if len(part):
                self._tls.write(part)
        return self._outgoing.read()

    def recv(self, size: int) -> bytes:
        """Some bytes; none at the end. Raises `OSError`."""
        into = bytearray(size)
        return bytes(into[: self.recv_into(memoryview(into))])

    def recv_into(self, into: memoryview, size: int = 0, flags: int = 0) -> int:
        """Some bytes, and how many; 0 at the end. Raises `OSError`."""
        while True:
            try:
                return self._tls.read(size or len(into), into)  # type: ignore[return-value]
            except ssl.SSLWantReadError:
                if not self._take_record(flags):
                    return 0
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return 0

    def _shake_hands(self) -> None:
        done = False
        while not done:
            try:
                self._tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            finally:
                self._flush()  # an alert, too, which tells the other end why not
            if not done and not self._take_record(0):
                raise EOFError("the other end left without TLS")

    def _flush(self) -> None:
        if self._outgoing.pending:
            self.outside.sendall(self._outgoing.read())

    def _take_record(self, flags: int) -> bool:
        """The next record, whole; False at the end of the connection. Raises `OSError`."""
        while (missing := self._missing()) > 0:
            piece = self.outside.recv(missing, flags)
            if not piece:
                return False
            self._record += piece
        self._incoming.write(self._record)
        self._record = bytearray()
        return True

    def _missing(self) -> int:
        if len(self._record) < _HEADER:
            return _HEADER - len(self._record)
        return _HEADER + int.from_bytes(self._record[3:5]) - len(self._record)


Connection = socket.socket | Sealed


def seal(end: socket.socket, folder: Path | None, purpose: str, *, answers: bool) -> Connection:
    """The connection as it is without a folder of certificates. `answers`: the other end calls.

    Raises `OSError`, `EOFError` or `InvalidOption`.
    """
    if folder is None:
        return end
    return Sealed(end, context(folder, answers=answers), purpose)


def context(folder: Path, *, answers: bool) -> ssl.SSLContext:
    """Trusts whoever has a certificate of the folder's authority. Raises `InvalidOption`."""
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if answers else ssl.PROTOCOL_TLS_CLIENT)
    found.minimum_version = ssl.TLSVersion.TLSv1_3
    found.check_hostname = False  # pods have no lasting names; the authority is the group's own
    found.verify_mode = ssl.CERT_REQUIRED
    if answers:
        found.num_tickets = 0
    try:
        found.load_cert_chain(folder / CERTIFICATE, folder / KEY)
        found.load_verify_locations(folder / AUTHORITY)
    except OSError as error:
        raise InvalidOption(
            f"--rank-tls-dir {folder}: {error.strerror or error}; it has to hold {CERTIFICATE}, "
            f"{KEY} and {AUTHORITY} in PEM"
        ) from error
    return found
