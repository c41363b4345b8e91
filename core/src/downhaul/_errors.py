"""The errors of downhaul: one tree, and nothing else ever comes out.

DownloadError
├── UnsupportedScheme            no installed driver announces the scheme
├── PolicyError                  refused: downgrade, forbidden scheme, size limit
├── FetchError                   the attempt failed
│   ├── ConnectError
│   ├── NameResolutionError
│   ├── TLSError
│   ├── ProxyError
│   ├── TimeoutExceeded          phase: connect, head, idle, total
│   ├── Truncated
│   ├── ProtocolError
│   ├── RedirectError
│   ├── RangeRefused
│   └── StatusError              code, reason, retry_after
│       ├── NotFound
│       ├── AccessDenied
│       ├── TooManyRequests
│       └── ServerError
├── ValidationError
│   ├── SizeMismatch
│   └── DigestMismatch
├── SourcesExhausted             several sources failed for different reasons
├── PreparationError             a nested download (mirror list, token) failed
├── StreamBroken                 a consumer has bytes and there is no byte-exact continuation
├── WriteError                   disk full, permission, name too long, target is no file
└── PluginError                  a hook failed; names it

Every error can be built from one message. URLs in messages are shown without userinfo and query values, and
control characters as escapes, whoever wrote the message. Exceptions of client libraries hold their requests,
credentials included: what they said is kept as text, they themselves are not chained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

from ._urls import show, show_text, split_userinfo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ._models import Attempt

_TRANSIENT_STATUS: Final = frozenset({408, 421, 425, 429})


class DownloadError(Exception):
    """A download failed.

    `url` is that of the download and `source` the one that was asked, both without userinfo; `history` holds the
    failed attempts in order; `attachment` is the download's own. The engine sets all four.
    """

    transient: bool = False
    """Whether the same thing, asked again later, may succeed."""

    retry_after: float | None = None
    """Seconds that the server asked to wait (RFC 9110, section 10.2.3)."""

    def __init__(self, message: str = "") -> None:
        super().__init__(show_text(message))
        self.url: str = ""
        self.source: str = ""
        self.history: tuple[Attempt, ...] = ()
        self.attachment: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        import pickle  # whoever asks has it already, and everybody else would pay for it

        state = {**self.__dict__, "url": show(self.url), "source": show(self.source)}
        try:
            pickle.dumps(self.attachment)
        except Exception:  # whatever a foreign object raises, the error must travel
            state["attachment"] = None
            left = f"its attachment, a {type(self.attachment).__name__}, cannot be pickled and was left behind"
            state["__notes__"] = [*state.get("__notes__", ()), left]
        return _rebuild, (type(self), self.args), state  # apart: the history holds the error itself

    def belongs_to(self, url: str, source: str, history: tuple[Attempt, ...], attachment: object) -> None:
        """Add what the engine knows; URLs lose their userinfo."""
        self.url, self.source = split_userinfo(url)[0], self.source or split_userinfo(source)[0]
        self.history, self.attachment = history, attachment
        by_way_of = "" if self.source == self.url else f", from {show(self.source)}"
        self.add_note(f"of {show(self.url)}{by_way_of}")  # for the traceback of whoever does not catch it

    def copy(self) -> Self:
        """Return an equal error, for another who waited for the same thing."""
        other = type(self).__new__(type(self), *self.args)
        other.__dict__.update(self.__dict__)
        if notes := getattr(self, "__notes__", None):
            other.__notes__ = list(notes)
        return other

    __copy__ = copy


def _rebuild(kind: type[DownloadError], args: tuple[object, ...]) -> DownloadError:
    return kind.__new__(kind, *args)


class UnsupportedScheme(DownloadError):
    """No installed driver announces the scheme of the URL."""


class PolicyError(DownloadError):
    """Refused before asking anybody: a downgrade, a forbidden scheme, a size over the limit."""


class FetchError(DownloadError):
    """The attempt failed between asking and the last byte."""


class ConnectError(FetchError):
    """No connection, or it was lost before an answer began."""

    transient = True


class NameResolutionError(FetchError):
    """The host has no address; transient where the resolver says so."""


class TLSError(FetchError):
    """The TLS handshake failed, or a certificate is not trusted."""


class ProxyError(FetchError):
    """The proxy refused or failed (407 included); the origin was not asked."""


class TimeoutExceeded(FetchError):
    """A time limit of `Timeout` ran out; `phase` names it: connect, head, idle, low speed or total."""

    transient = True

    def __init__(self, message: str = "", phase: str = "") -> None:
        super().__init__(message)
        self.phase = phase
        self.transient = phase != "total"  # there is no time left to do it again in


class Truncated(FetchError):
    """The bytes ended, or the connection was lost, before they were complete."""

    transient = True


class ProtocolError(FetchError):
    """The server broke its protocol."""


class RedirectError(FetchError):
    """A redirect that leads nowhere: too many of them, no Location, a final 3xx."""


class RangeRefused(FetchError):
    """The answer is of another version, or does not continue the bytes that are there; nothing was appended."""


class StatusError(FetchError):
    """The server refused with `code` (HTTP status or FTP reply) and `reason`, its own words.

    `headers` are the header fields of the refusal, such as WWW-Authenticate; secrets that it repeats are hidden.
    """

    def __init__(
        self,
        message: str = "",
        code: int = 0,
        reason: str = "",
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = show_text(reason)
        self.retry_after = retry_after
        self.headers: Mapping[str, str] = {} if headers is None else headers
        self.transient = self.transient or code in _TRANSIENT_STATUS


class NotFound(StatusError):
    """The server has no such file: HTTP 404 and 410, FTP 550."""


class AccessDenied(StatusError):
    """The server wants other credentials, or none will do: HTTP 401 and 403, FTP 530 and 532."""


class TooManyRequests(StatusError):
    """The server asks for fewer requests: HTTP 429."""

    transient = True


class ServerError(StatusError):
    """The server failed: HTTP 5xx, FTP 4xx."""

    transient = True


class ValidationError(DownloadError):
    """The bytes that arrived are not the ones that were meant."""

    transient = True


class SizeMismatch(ValidationError):
    """The number of bytes is wrong."""


class DigestMismatch(ValidationError):
    """A digest is wrong."""


class SourcesExhausted(DownloadError):
    """Several sources failed for different reasons; `errors` holds the last one of each source."""

    def __init__(self, message: str = "", errors: Sequence[DownloadError] = ()) -> None:
        super().__init__(message)
        self.errors = tuple(errors)
        self.transient = any(error.transient for error in self.errors)
        self.retry_after = max((error.retry_after or 0 for error in self.errors), default=0) or None


class PreparationError(DownloadError):
    """A download that this one needs first (a mirror list, a token) failed; `cause` is its error."""

    def __init__(self, message: str = "", cause: DownloadError | None = None) -> None:
        super().__init__(message)
        self.cause = cause


class StreamBroken(DownloadError):
    """The consumer of a stream has bytes already, and no source continues them byte for byte."""


class WriteError(DownloadError):
    """The bytes could not be written; `errno` is the system's number, such as ``errno.ENOSPC``."""

    def __init__(self, message: str = "", errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno


class PluginError(DownloadError):
    """A plugin, a driver, or another object of yours failed or broke its contract; the message names it."""


TERMINAL: Final[tuple[type[DownloadError], ...]] = (WriteError, PluginError, StreamBroken)
"""Errors about which the `error` hooks are not asked."""
