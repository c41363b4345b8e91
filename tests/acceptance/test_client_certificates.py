"""Trust and identity at the real nginx, which wants a client certificate."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from tests.acceptance.remotes import BODY, Authority, fetch, forms, site

from downhaul import TLS, StatusError, TLSError

if TYPE_CHECKING:
    from pathlib import Path

YESTERDAY = datetime.now(UTC) - timedelta(days=1)


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Who vouches for the site and for those that it lets in."""
    return Authority()


@pytest.fixture
def origin(authority, tmp_path):
    """A site for those who show a certificate."""
    with site(tmp_path / "site", tls=authority.ca.issue_cert("localhost"), client_ca=authority.pem) as origin:
        yield origin


@forms(1)
@pytest.mark.parametrize("given", ["text", "path", "name"])
@pytest.mark.parametrize("apart", [False, True], ids=["one file", "key apart"])
def test_a_client_certificate(form, given, apart, authority, origin, tmp_path) -> None:
    """Authorities, certificate and key are PEM text or files, the key apart or along with the certificate."""

    def as_given(name: str, pem: str) -> str | Path:
        if given == "text":
            return pem
        path = tmp_path / name
        path.write_text(pem)
        return path if given == "path" else str(path)

    certificate, key = authority.identity("me@example.org")
    tls = TLS(
        as_given("ca.pem", authority.pem),
        as_given("certificate.pem", certificate if apart else certificate + key),
        as_given("key.pem", key) if apart else None,
    )
    assert fetch(form, origin.url("/pkg.rpm"), tls=tls) == BODY
    assert [(visit.status, bool(visit.serial)) for visit in origin.visits(1)] == [("200", True)]


@forms(1)
def test_none_or_a_wrong_one(form, authority, origin) -> None:
    """Without a certificate, or with one of somebody else's authority, the site refuses: nginx says so by a 400."""
    certificate, key = Authority().identity("me@example.org")
    for tls in (TLS(authority.pem), TLS(authority.pem, certificate, key)):
        with pytest.raises(StatusError, match="400"):
            fetch(form, origin.url("/pkg.rpm"), tls=tls)


@forms(1)
def test_it_stays_with_its_origin(form, authority, origin, tmp_path) -> None:
    """Where a redirect leads the certificate is not shown, though the authority is the same."""
    certificate, key = authority.identity("me@example.org")
    tls = authority.ca.issue_cert("localhost")
    moved = f"location / {{ return 302 {origin.url('/pkg.rpm')}; }}"
    with site(tmp_path / "other", tls=tls, client_ca=authority.pem, server=moved) as other:
        with pytest.raises(StatusError, match="400"):
            fetch(form, other.url("/moved"), tls=TLS(authority.pem, certificate, key))
        assert [bool(visit.serial) for visit in (*other.visits(1), *origin.visits(1))] == [True, False]


@forms(1)
@pytest.mark.parametrize("trust", ["the system's", "another's"])
def test_an_unknown_authority(form, trust, origin) -> None:
    """A site that nobody known vouches for is an error that says what to do, and is not tried again."""
    tls = TLS() if trust == "the system's" else TLS(Authority().pem)
    with pytest.raises(TLSError, match=r"not trusted: unable to get .*; TLS\(ca_certificate=…\) names") as caught:
        fetch(form, origin.url("/pkg.rpm"), tls=tls, retries=3)
    assert len(caught.value.history) == 1
    assert origin.visits() == []


@forms(1)
def test_an_expired_certificate_and_a_wrong_name(form, authority, tmp_path) -> None:
    """Each is told by its own words, and neither matters with verify=False."""
    expired = authority.ca.issue_cert("localhost", not_before=YESTERDAY - timedelta(9), not_after=YESTERDAY)
    renamed = authority.ca.issue_cert("dl.example.org")
    for number, (tls, words) in enumerate(((expired, "has expired; .* clock"), (renamed, "mismatch.*; .*by a name"))):
        with site(tmp_path / str(number), tls=tls) as origin:
            with pytest.raises(TLSError, match=words):
                fetch(form, origin.url("/pkg.rpm"), tls=TLS(authority.pem))
            assert fetch(form, origin.url("/pkg.rpm"), tls=TLS(verify=False)) == BODY
            assert len(origin.visits(1)) == 1
