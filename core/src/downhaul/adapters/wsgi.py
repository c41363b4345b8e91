"""Downloads as answers of a WSGI server (PEP 3333): gunicorn, waitress, wsgiref, and what runs there, such as Flask.

WSGI cannot tell a client that an answer broke off, nor an application that the client has hung up. Both is done at the
server's socket, where that can be reached: under gunicorn, wsgiref, Werkzeug's server and Django's runserver.
"""

from __future__ import annotations

import weakref
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Self
from wsgiref.util import is_hop_by_hop

from downhaul import DownloadError

from ._answers import answering
from ._held import Held, client_left
from ._sockets import reach

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Unpack
    from wsgiref.types import StartResponse, WSGIEnvironment

    from downhaul import Download, Stream

    from ._answers import Answer, RelayOptions
    from ._sockets import Connection

_CHUNKING: Final = ("gunicorn", "waitress")
"""Servers that end an answer of unknown length by a last chunk (RFC 9112, section 7.1), unless its iterator raises."""


def relay(
    environ: WSGIEnvironment, start_response: StartResponse, download: Download, **options: Unpack[RelayOptions]
) -> Iterable[bytes]:
    """Answer the request of *environ* with what *download* delivers; return the blocks, for the server to send.

    An answer that breaks off raises its `DownloadError` in the server, after the connection was reset, where that can
    be done. Where it cannot, and neither size nor chunks would show the client what it lacks, a file is refused with a
    502. When the client hangs up, the download is cancelled, and the server gets a ConnectionResetError. *options* are
    `RelayOptions`; raises TypeError and ValueError for what they cannot mean.
    """
    asked = {name[5:].replace("_", "-"): value for name, value in environ.items() if name.startswith("HTTP_")}
    answer, blocks = answer_in_thread(environ, environ["REQUEST_METHOD"], asked, download, options)
    fields = [(name, value) for name, value in answer.fields if not is_hop_by_hop(name)]
    start_response(f"{answer.status} {HTTPStatus(answer.status).phrase}", fields)
    return blocks


def answer_in_thread(
    environ: Mapping[str, Any], method: str, asked: Mapping[str, str], download: Download, options: RelayOptions
) -> tuple[Answer, Iterator[bytes]]:
    """Return the answer to the request that *environ* came with, and its blocks, which are to be closed.

    Raises ConnectionResetError if the client has hung up before.
    """
    connection = reach(environ)
    marks_end = connection is not None or _chunks(environ)
    held = Held(answering(download, method, asked, marks_end=marks_end, **options), connection)
    answer = held.begin_in_thread()
    if answer.stream is None:
        # No sequence: of that, wsgiref would tell the length, also in the answer to a HEAD, where it is another one.
        return answer, iter((answer.content,))
    return answer, Blocks(held, answer.stream, connection)


def _chunks(environ: Mapping[str, Any]) -> bool:
    software = environ.get("SERVER_SOFTWARE", "").lower()
    return environ.get("SERVER_PROTOCOL") == "HTTP/1.1" and software.startswith(_CHUNKING)


class Blocks:
    """The blocks of an answer, as a WSGI server takes them: an iterator that it closes at the end.

    What was begun and does not come to its end, because the stream breaks, somebody closes it early, or the server is
    killed, ends with a reset.
    """

    def __init__(self, held: Held, stream: Stream, connection: Connection | None) -> None:
        self._held, self._stream, self._connection = held, stream, connection
        self._begun = self._ended = False
        self._dropped = weakref.finalize(self, held.leave)  # some middleware forgets to close what it replaces
        self._dropped.atexit = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        if self._ended:
            raise StopIteration
        if self._connection is not None and not self._begun:
            self._connection.arm()
        self._begun = True
        try:
            return next(self._stream)
        except StopIteration:
            if self._connection is not None:
                self._connection.disarm()
            self._leave()
            raise
        except DownloadError as error:
            self._break_off(error.copy())  # that one is raised where the answer is left, which is in another thread
            raise
        except BaseException:
            self._break_off()
            if self._held.hung_up:
                raise client_left() from None
            raise

    def close(self) -> None:
        """Leave the answer, whether all of it was sent or not."""
        if self._begun and not self._ended:
            self._break_off()
        elif not self._ended:
            self._leave()

    def _break_off(self, error: DownloadError | None = None) -> None:
        if self._connection is not None:
            self._connection.reset()
        self._leave(error)

    def _leave(self, error: DownloadError | None = None) -> None:
        self._ended = True
        self._dropped.detach()
        self._held.leave(error)
        self._held.left.result()
