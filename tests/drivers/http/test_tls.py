from __future__ import annotations

import asyncio
import ssl
import tempfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from tests.servers.http import http_server

from downhaul import TLS, ConnectError, Request, Settings, TLSError


@pytest.fixture(scope="module")
def leaf(ca):
    """The certificate of the server."""
    return ca.issue_cert("localhost")


@pytest.fixture(scope="module")
def client(ca):
    """The certificate of a client, with its key."""
    return ca.issue_cert("client@example.org")


@pytest.fixture(scope="module")
def certificate(client):
    """The certificate of the client as text."""
    return b"".join(blob.bytes() for blob in client.cert_chain_pems).decode()


@pytest.fixture(scope="module")
def key(client):
    """The key of the client as text."""
    return client.private_key_pem.bytes().decode()


def context(leaf, ca=None):
    """The TLS of a server; with *ca* it wants a certificate of the client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    if ca is not None:
        ca.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


async def answer(exchange):
    """Answer with the name in the client's certificate."""
    peer = exchange.writer.get_extra_info("ssl_object").getpeercert()
    await exchange.respond(body=str(peer and peer.get("subjectAltName")).encode())


def using(**tls):
    """Settings with this TLS."""
    return Settings(tls=TLS(**tls)).complete()


@pytest.mark.parametrize("form", ["text", "path", "str", "directory", "text with remarks"])
async def test_authorities(form, ca, leaf, fetch, tmp_path):
    """An authority is PEM text, a file or a directory; remarks in the text may be in any language."""
    file = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(file))
    text = file.read_text()
    if form == "directory":
        rehash = await asyncio.create_subprocess_exec("openssl", "rehash", str(tmp_path))
        assert await rehash.wait() == 0
    given = {
        "text": text, "path": file, "str": str(file), "directory": tmp_path, "text with remarks": f"# Főtan\n{text}",
    }[form]  # fmt: skip
    with http_server(answer, tls=context(leaf)) as server:
        assert (await fetch(Request(server.url()), using(ca_certificate=given)))[1] == b"None"


async def test_unknown_authorities(leaf, fetch, settings):
    """A certificate of an unknown authority is a TLSError, and no reason to try again."""
    with http_server(answer, tls=context(leaf)) as server, pytest.raises(TLSError, match="not trusted") as caught:
        await fetch(Request(server.url()), settings)
    assert not caught.value.transient
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


async def test_names_are_checked(ca, fetch, tmp_path):
    """A certificate for another name is a TLSError."""
    with http_server(answer, tls=context(ca.issue_cert("other.example"))) as server, pytest.raises(TLSError):
        await fetch(Request(server.url()), using(ca_certificate=ca.cert_pem.bytes().decode()))


async def test_verify_off(ca, fetch):
    """With verify=False any certificate will do, for those settings only."""
    with http_server(answer, tls=context(ca.issue_cert("other.example"))) as server:
        await fetch(Request(server.url()), using(verify=False))
        with pytest.raises(TLSError):
            await fetch(Request(server.url()), using())


@pytest.mark.parametrize("form", ["text", "path", "one text", "one file", "mixed"])
async def test_client_certificates(form, ca, leaf, certificate, key, fetch, tmp_path, monkeypatch):
    """A client certificate is PEM text or a file, its key apart or along with it; nothing is left on the disk."""
    (tmp_path / "temporary").mkdir()
    (tmp_path / "cert.pem").write_text(certificate)
    (tmp_path / "key.pem").write_text(key)
    (tmp_path / "both.pem").write_text(certificate + key)
    given = {
        "text": (certificate, key),
        "path": (tmp_path / "cert.pem", tmp_path / "key.pem"),
        "one text": (key + certificate, None),
        "one file": (str(tmp_path / "both.pem"), None),
        "mixed": (certificate, str(tmp_path / "key.pem")),
    }[form]
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    settings = using(ca_certificate=ca.cert_pem.bytes().decode(), client_certificate=given[0], client_key=given[1])
    with http_server(answer, tls=context(leaf, ca)) as server:
        assert b"client@example.org" in (await fetch(Request(server.url()), settings))[1]
    (tmp_path / "temporary").rmdir()  # fails unless it is empty


async def test_a_client_certificate_is_due(ca, leaf, fetch):
    """A server that wants a certificate and gets none refuses, and that is an error of TLS or of the connection."""
    with http_server(answer, tls=context(leaf, ca)) as server, pytest.raises((TLSError, ConnectError)):
        await fetch(Request(server.url()), using(ca_certificate=ca.cert_pem.bytes().decode()))


def encrypted(client):
    """The key of the client, encrypted."""
    key = serialization.load_pem_private_key(client.private_key_pem.bytes(), None)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"canary"),
    ).decode()


@pytest.mark.parametrize(
    ("tls", "named"),
    [
        ({"ca_certificate": "/nowhere/ca.pem"}, "/nowhere/ca.pem"),
        ({"ca_certificate": Path("/nowhere/ca.pem")}, "/nowhere/ca.pem"),
        ({"ca_certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"}, "ca_certificate"),
        ({"ca_certificate": "-----BEGIN nothing"}, "ca_certificate"),
        ({"client_certificate": "/nowhere/c.pem"}, "/nowhere/c.pem"),
        ({"client_certificate": "CERTIFICATE", "client_key": "/nowhere/k.pem"}, "client_key"),
        ({"client_certificate": "CERTIFICATE", "client_key": Path("/nowhere/k.pem")}, "/nowhere/k.pem"),
        ({"client_certificate": "CERTIFICATE", "client_key": "MIIcanaryCANARYcanary"}, "client_key"),
        ({"client_certificate": "CERTIFICATE", "client_key": "OTHER"}, "client_key"),
        ({"client_certificate": "CERTIFICATE", "client_key": "ENCRYPTED"}, "encrypted"),
        ({"client_certificate": "CERTIFICATE"}, "client_certificate"),
    ],
)
async def test_what_cannot_be_loaded(tls, named, certificate, client, ca, fetch):
    """What cannot be loaded is a TLSError that names the field or the file, and shows nothing of a key."""
    texts = {
        "CERTIFICATE": certificate,
        "OTHER": ca.issue_cert("x@example.org").private_key_pem.bytes().decode(),
        "ENCRYPTED": encrypted(client),
    }
    tls = {field: texts.get(value, value) if isinstance(value, str) else value for field, value in tls.items()}
    with pytest.raises(TLSError) as caught:
        await fetch(Request("https://127.0.0.1:1/"), using(**tls))
    error = caught.value
    assert named in str(error)
    assert "canary" not in str(error).lower()
    assert "BEGIN" not in str(error)
    assert not error.transient
    assert error.__cause__ is None
    assert error.__context__ is None


async def test_http_on_the_port_of_https(fetch):
    """A server that does not speak TLS is a TLSError; the reverse is a broken protocol or no answer."""

    async def plain(reader, writer):
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    with http_server(raw=plain) as server, pytest.raises(TLSError):
        await fetch(Request(f"https://127.0.0.1:{server.port}/"))


async def test_a_handshake_that_is_cut(fetch):
    """A connection that ends in the middle of the handshake is worth another try."""

    async def cut(reader, writer):
        await reader.read(1)

    with http_server(raw=cut) as server, pytest.raises(ConnectError) as caught:
        await fetch(Request(f"https://127.0.0.1:{server.port}/"))
    assert caught.value.transient
