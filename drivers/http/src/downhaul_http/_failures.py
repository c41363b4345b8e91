"""From the exceptions of client libraries to the errors of downhaul.

What they said is kept as text; they themselves are not chained, neither as a cause nor as a context: they hold the
request with its credentials. So whoever translates raises outside of its ``except`` block.
"""

from __future__ import annotations

import socket
import ssl
from typing import Final

import httpx

from downhaul import (
    ConnectError,
    FetchError,
    NameResolutionError,
    ProtocolError,
    ProxyError,
    RedirectError,
    TimeoutExceeded,
    TLSError,
    Truncated,
)

_LIBRARIES: Final = frozenset({"httpx", "httpcore", "h11", "h2", "hpack", "hyperframe", "anyio", "socksio"})
_LONGEST: Final = 300
_DEEPEST: Final = 50
_PASSING: Final = frozenset({"408", "425", "429", "500", "502", "503", "504"})


def is_foreign(reason: Exception) -> bool:
    """Tell whether *reason* is the network's or a client library's, and no mistake in somebody's program."""
    return isinstance(reason, OSError) or _library(reason) in _LIBRARIES


def chain(reason: BaseException, outside: BaseException | None) -> list[BaseException]:
    """Return *reason* and everything behind it, up to *outside*: what was being handled when the driver was called."""
    # Contexts count too: httpcore raises its errors anew "from None", which wipes their causes.
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [reason]
    while waiting and len(found) < _DEEPEST:
        each = waiting.pop(0)
        if each is None or each is outside or any(each is known for known in found):
            continue
        found.append(each)
        waiting += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions
    return found


def before_answer(reasons: list[BaseException], *, phase: str, http2: bool, proxied: bool) -> FetchError:
    """Return the error for *reasons* (see `chain`), which came before the head of an answer was complete.

    *phase* is "connect" or "head"; *proxied* says that what was connected to was a proxy, not yet the origin.
    """
    reason = reasons[0]
    if isinstance(reason, httpx.TimeoutException | TimeoutError):
        return TimeoutExceeded(_SILENT.get(phase, _SILENT["head"]), phase)
    error = _unanswered(reasons, http2=http2)
    if not proxied or phase != "connect" or isinstance(error, ProxyError):
        return error
    # Nobody but the proxy has been spoken to. An error of TLS stays one: what to do about it is in the settings of TLS.
    failed = TLSError if isinstance(error, TLSError) else ProxyError
    named = failed(f"{'the proxy' if failed is TLSError else 'the proxy cannot be reached'}: {error}")
    named.transient = error.transient
    return named


def wants_credentials(said: str) -> ProxyError:
    """Return the error for a 407, which is a proxy's; *said* is its code and reason."""
    return ProxyError(f"the proxy wants credentials, or others ({said}): Settings(proxy='http://user:password@…')")


def in_body(reasons: list[BaseException], *, http2: bool) -> FetchError:
    """Return the error for *reasons* (see `chain`), which came while the body was read."""
    reason = reasons[0]
    if isinstance(reason, httpx.TimeoutException | TimeoutError):
        return TimeoutExceeded("the server fell silent in the middle of the file", "idle")
    if isinstance(reason, httpx.RemoteProtocolError) and not http2 and not _ends_early(reasons):
        return ProtocolError(f"the body of the answer is malformed: {_text(reason)}")
    if _library(reason) in {"h2", "hpack", "hyperframe"}:
        return ProtocolError(f"the server broke HTTP/2: {_text(reason)}")
    return Truncated(f"the connection was lost in the middle of the file: {_text(_root(reasons))}")


def is_stale(reasons: list[BaseException], *, http2: bool) -> bool:
    """Tell whether *reasons* are those of a connection that was kept, and that the server had closed meanwhile."""
    reason = reasons[0]
    if isinstance(reason, httpx.RemoteProtocolError):
        return http2 or not _is_malformed(reasons)
    return isinstance(reason, httpx.NetworkError) and not isinstance(reason, httpx.ConnectError)


_SILENT: Final = {
    "connect": "no connection within the time for it",
    "head": "the server did not begin to answer in time",
}


_OTHER_AUTHORITY: Final = "TLS(ca_certificate=…) names the authorities to trust, as PEM text or a path"
_REMEDIES: Final = {
    # OpenSSL's X509_V_ERR_*: an unknown issuer, self-signed certificates, no way to check the first certificate
    **dict.fromkeys((2, 18, 19, 20, 21), _OTHER_AUTHORITY),
    9: "is the clock right?",
    10: "the server needs a new one, unless the clock is wrong",
    **dict.fromkeys((62, 64), "ask for the server by a name that its certificate has"),
}


def _unanswered(reasons: list[BaseException], *, http2: bool) -> FetchError:
    reason, root = reasons[0], _root(reasons)
    if isinstance(reason, httpx.ProxyError):
        # Of what it says, the code alone is told: its phrase may repeat what it was sent.
        code = str(reason)[:3]
        if code == "407":
            return wants_credentials(code)
        error = ProxyError(f"the proxy refused: {code if code.isdigit() else _text(reason)}")
        error.transient = str(reason)[:3] in _PASSING
        return error
    if isinstance(root, socket.gaierror):
        unresolved = NameResolutionError(f"the name of the host cannot be resolved: {_text(root)}")
        unresolved.transient = root.errno == socket.EAI_AGAIN
        return unresolved
    if isinstance(root, ssl.SSLEOFError):
        return ConnectError("the connection was closed in the middle of the TLS handshake")
    if isinstance(root, ssl.SSLError):
        return TLSError(_tls_text(root))
    if isinstance(reason, httpx.InvalidURL) or str(reason).startswith("Invalid URL in location header"):
        # A client of one's own reads the Location though it is told not to follow it.
        return RedirectError("the redirect leads to what is no URL")
    if isinstance(reason, httpx.LocalProtocolError) and not http2:
        return ProtocolError("the request cannot be sent: the client library refuses it")  # its words quote it
    if isinstance(reason, httpx.RemoteProtocolError) and not http2 and _is_malformed(reasons):
        return ProtocolError(f"the answer is malformed: {_text(reason)}")
    if isinstance(reason, httpx.UnsupportedProtocol):
        return FetchError(_text(reason))
    return ConnectError(_text(root))


def _tls_text(reason: ssl.SSLError) -> str:
    if isinstance(reason, ssl.SSLCertVerificationError):
        found = _text(getattr(reason, "verify_message", None) or reason)
        remedy = _REMEDIES.get(reason.verify_code, "TLS(verify=False) would trust everybody")
        return f"the certificate is not trusted: {found}; {remedy}"
    return f"the TLS handshake failed: {_text(getattr(reason, 'reason', None) or reason)}"


def _is_malformed(reasons: list[BaseException]) -> bool:
    # What the parser of HTTP/1.1 finds has its exception behind it; an end of the connection has none.
    return any(_library(each) == "h11" for each in reasons)


def _ends_early(reasons: list[BaseException]) -> bool:
    # h11 has one class for both; it says "peer closed connection …" of a connection that ended.
    return str(reasons[0]).startswith("peer ") or not _is_malformed(reasons)


def _root(reasons: list[BaseException]) -> BaseException:
    """Return the error of the operating system or of TLS that is behind it all, or else the first."""
    found = reasons[0]
    for each in reasons:
        if isinstance(each, OSError) and (each.errno is not None or isinstance(each, ssl.SSLError)):
            found = each
    return found


def _library(reason: BaseException) -> str:
    return type(reason).__module__.partition(".")[0]


def _text(reason: object) -> str:
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return str(reason)[:_LONGEST] or type(reason).__name__
