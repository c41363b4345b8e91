"""From `downhaul.TLS` to an SSL context."""

from __future__ import annotations

import os
import re
import ssl
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from downhaul import TLSError

if TYPE_CHECKING:
    from downhaul import TLS

_BLOCK: Final = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_MARK: Final = "-----BEGIN "
Stamps: TypeAlias = tuple[tuple[int, ...], ...]


class _Encrypted(Exception):
    pass


def ssl_context(tls: TLS, *, identity: bool = True) -> ssl.SSLContext:
    """Return a new context that trusts and, with *identity*, shows what *tls* says.

    Reads files, and where nothing else is given the authorities of the system (some 20 ms). Raises TLSError that
    names the field, and the file unless it might be a key.
    """
    context = ssl.create_default_context() if _trusts_system(tls) else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif tls.ca_certificate is not None:
        _trust(context, tls.ca_certificate)
    if identity and tls.client_certificate is not None:
        _show_identity(context, tls.client_certificate, tls.client_key)
    return context


def _trusts_system(tls: TLS) -> bool:
    return tls.verify and tls.ca_certificate is None


def _trust(context: ssl.SSLContext, authority: str | Path) -> None:
    failure = None
    try:
        if _is_text(authority):
            # Only the blocks: comments between them need not be ASCII, which `cadata` must be.
            context.load_verify_locations(cadata="\n".join(match[0] for match in _BLOCK.finditer(str(authority))))
        elif Path(authority).is_dir():
            context.load_verify_locations(capath=authority)
        else:
            context.load_verify_locations(cafile=authority)
    except (OSError, ValueError) as reason:  # ssl.SSLError is an OSError
        failure = TLSError(f"TLS({_shown('ca_certificate', authority)}): {_text(reason)}")
    if failure is not None:
        raise failure


def stamps(tls: TLS | None) -> Stamps:
    """Return what tells the files that *tls* names from others that stood, or will stand, under the same names."""
    if tls is None:
        return ()
    return tuple(
        _stamp(each) for each in (tls.ca_certificate, tls.client_certificate, tls.client_key) if each is not None
    )


def _stamp(value: str | Path) -> tuple[int, ...]:
    if _is_text(value):
        return ()
    try:
        found = os.stat(value)  # noqa: PTH116 - half the time, and this is done for each request
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _show_identity(context: ssl.SSLContext, certificate: str | Path, key: str | Path | None) -> None:
    failure = None
    names = _shown("client_certificate", certificate)
    if key is not None:
        names = f"{names}, {_shown('client_key', key)}"
    with ExitStack() as files:
        try:
            certificate_file = _file(certificate, files)
            key_file = None if key is None else _file(key, files)
            # Without a callback OpenSSL would ask for the passphrase on the terminal.
            context.load_cert_chain(certificate_file, key_file, password=_no_passphrase)
        except _Encrypted:
            failure = TLSError(f"TLS({names}): the key is encrypted; give one without a passphrase")
        except (OSError, ValueError) as reason:
            told = f"no certificate with its key in PEM format: {_text(reason)}"
            if key is None and isinstance(reason, ssl.SSLError):
                told += "; where the key is not in the same place, give it as client_key"
            failure = TLSError(f"TLS({names}): {told}")
    if failure is not None:
        raise failure


def _file(value: str | Path, files: ExitStack) -> str | Path:
    if not _is_text(value):
        os.stat(value)  # noqa: PTH116 - OpenSSL does not say that a file is missing, but that it is no PEM
        return value
    # OpenSSL takes certificates from files only; this one is 0600 and gone when they are loaded.
    file = files.enter_context(
        tempfile.NamedTemporaryFile("w", prefix="downhaul-", suffix=".pem", encoding="utf-8")  # noqa: SIM115 - it is one
    )
    file.write(str(value))
    file.flush()
    return file.name


def _no_passphrase() -> str:
    raise _Encrypted


def _is_text(value: str | Path) -> bool:
    return isinstance(value, str) and _MARK in value


def _shown(field: str, value: str | Path) -> str:
    if _is_text(value):
        return f"{field}=PEM text"
    # A string that names no file may be a key that was pasted without its first line.
    if isinstance(value, Path) or (len(value) < 1024 and "\n" not in value and os.path.exists(value)):  # noqa: PTH110
        return f"{field}={str(value)!r}"
    return f"{field}=a path" if field == "client_key" or "\n" in value else f"{field}={value[:200]!r}"


def _text(reason: Exception) -> str:
    if isinstance(reason, ssl.SSLError):
        return reason.reason or "not PEM"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return "not PEM"
