"""The client's connection below a WSGI server: found, watched for a hang-up, and reset.

WSGI (PEP 3333) has no words for any of that, but most servers let their socket be reached.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import stat
import struct
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

# struct linger: whether closing waits, and for how many seconds; not at all means that it resets
_AT_ONCE: Final = struct.pack("ii", 1, 0)
_AS_USUAL: Final = struct.pack("ii", 0, 0)


@dataclass(frozen=True, slots=True)
class Connection:
    """A client's TCP connection, by the descriptor of the server that serves it.

    The inode tells it from a later one with the same number.
    """

    descriptor: int
    inode: int

    @contextmanager
    def watched(self, hung_up: Callable[[], object]) -> Iterator[None]:
        """Call *hung_up* on the running loop once the client is gone, or says that it will send no more."""
        loop = asyncio.get_running_loop()
        with select.epoll() as events:  # a reader of the loop would be told of everything that the client sends

            def tell() -> None:
                loop.remove_reader(events.fileno())
                hung_up()

            events.register(self.descriptor, select.EPOLLRDHUP)  # and, unasked, of EPOLLHUP and EPOLLERR
            loop.add_reader(events.fileno(), tell)
            try:
                yield
            finally:
                loop.remove_reader(events.fileno())

    def arm(self) -> None:
        """Let the connection be reset however it is closed from now on, be it that the process is killed."""
        self._linger(_AT_ONCE)

    def disarm(self) -> None:
        """Let the connection be closed as usual again."""
        self._linger(_AS_USUAL)

    def reset(self) -> None:
        """Reset the connection (RST): no client takes that for the end of an answer.

        The server's own descriptor leads nowhere from then on, so whatever it still does to end an answer well is lost.
        """
        if self._linger(_AT_ONCE):
            stand_in, nobody = socket.socketpair()
            with stand_in, nobody:
                os.dup2(stand_in.fileno(), self.descriptor, inheritable=False)

    def _linger(self, how: bytes) -> bool:
        """Set how the connection is closed; tell whether it is there still."""
        try:
            with _tcp(self.descriptor) as own:
                if _inode(own.fileno()) == self.inode:
                    own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, how)
                    return True
        except OSError:  # the server has closed it
            pass
        return False


def reach(environ: Mapping[str, Any]) -> Connection | None:
    """Return the connection that a WSGI request came by, or None where it cannot be reached."""
    for found in _candidates(environ):
        try:
            descriptor = found.fileno()
            with _tcp(descriptor) as own:
                return Connection(descriptor, _inode(own.fileno()))
        except (AttributeError, OSError, TypeError, ValueError):  # has no descriptor, or none of a TCP socket
            continue
    return None


def _candidates(environ: Mapping[str, Any]) -> Iterator[Any]:
    yield environ.get("gunicorn.socket")
    yield environ.get("werkzeug.socket")
    content = environ.get("wsgi.input")
    yield content  # of wsgiref, a file made of the socket
    yield getattr(getattr(content, "_read", None), "__self__", None)  # of Django's runserver, a part of such a file


def _tcp(descriptor: int) -> socket.socket:
    """Return a socket of our own for the connection that *descriptor* is for; raise OSError if it is no TCP."""
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        raise OSError("no socket")
    blocking, copy = os.get_blocking(descriptor), os.dup(descriptor)
    try:
        own = socket.socket(fileno=copy)
    except BaseException:
        os.close(copy)
        raise
    os.set_blocking(copy, blocking)  # socket.setdefaulttimeout() would change it, for the server too
    if own.family not in {socket.AF_INET, socket.AF_INET6} or own.type != socket.SOCK_STREAM:
        own.close()
        raise OSError("no TCP")
    return own


def _inode(descriptor: int) -> int:
    return os.fstat(descriptor).st_ino
