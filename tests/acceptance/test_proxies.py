"""Through the real squid: credentials, what goes without it, and who hears what."""

from __future__ import annotations

import pytest
from tests.acceptance.remotes import BODY, Authority, fetch, forms, site
from tests.servers.http import http_server
from tests.servers.squid import squid

from downhaul import TLS, AccessDenied, ProtocolError, ProxyError, TLSError, User
from downhaul.plugins import MirrorList

GATE = ("gate", "gatepass")
ELMER = User("elmer", "secret")


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Who vouches for the site and for the proxy."""
    return Authority()


@pytest.fixture
def sites(authority, tmp_path):
    """A site by http and one by https."""
    with (
        site(tmp_path / "plain") as plain,
        site(tmp_path / "secure", tls=authority.ca.issue_cert("localhost")) as secure,
    ):
        yield {"http": plain, "https": secure}


@pytest.fixture(params=["http", "https"])
def proxy(request, authority):
    """A proxy that wants credentials, reached by http or by TLS."""
    tls = authority.ca.issue_cert("localhost") if request.param == "https" else None
    with squid(user=GATE, tls=tls) as proxy:
        yield proxy


@forms(1)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_with_credentials(form, scheme, proxy, sites, authority) -> None:
    """The proxy is told its own credentials; the origin never hears of them, nor of https the proxy of the origin's."""
    content = fetch(
        form, sites[scheme].url("/user/pkg.rpm"), proxy=proxy.url("gate:gatepass@"), user=ELMER,
        tls=TLS(ca_certificate=authority.pem),
    )  # fmt: skip
    assert content == BODY
    [line], [visit] = proxy.lines(1), sites[scheme].visits(1)
    assert (line.status, line.user) == (200, "gate")
    assert line.method == ("GET" if scheme == "http" else "CONNECT")
    assert (line.authorization != "-") is (scheme == "http")
    assert (visit.user, visit.proxy_authorization) == ("elmer", "")


@forms(1)
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("userinfo", ["gate:wrongpass@", ""])
def test_407_is_the_proxys(form, scheme, userinfo, proxy, sites, authority) -> None:
    """Wrong or no credentials are an error that names the proxy and no password; nobody tries again or goes around."""
    with pytest.raises(ProxyError, match=r"the proxy wants credentials, or others \(407") as caught:
        fetch(
            form, sites[scheme].url("/pkg.rpm"), proxy=proxy.url(userinfo), retries=3,
            tls=TLS(ca_certificate=authority.pem),
        )  # fmt: skip
    told = f"{caught.value} {caught.value.history}"
    assert "wrongpass" not in told
    assert not caught.value.transient
    assert [line.status for line in proxy.lines(1)] == [407]
    assert sites[scheme].visits() == []


@forms(1)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_401_is_the_origins(form, scheme, sites, authority) -> None:
    """What the origin refuses behind a proxy is not taken for the proxy's."""
    with squid() as proxy, pytest.raises(AccessDenied, match="401"):
        fetch(form, sites[scheme].url("/user/pkg.rpm"), proxy=proxy.url(), tls=TLS(ca_certificate=authority.pem))


@forms(1)
@pytest.mark.parametrize("entry", ["localhost", "127.0.0.0/8", "127.0.0.1:{port}", ".corp, LOCALHOST:{port}."])
def test_no_proxy_goes_straight(form, entry, sites) -> None:
    """What no_proxy names is asked without the proxy, the rest by it: told by the proxy's log and the origin's."""
    origin = sites["http"]
    entry = entry.format(port=origin.port).replace(f":{origin.port}.", f".:{origin.port}")
    named, other = ("localhost", "127.0.0.1") if "local" in entry.lower() else ("127.0.0.1", "localhost")
    with squid() as proxy:
        for host in (named, other):
            url = f"http://{host}:{origin.port}/pkg.rpm"
            assert fetch(form, url, proxy=proxy.url(), no_proxy=entry) == BODY
        assert [line.target for line in proxy.lines(1)] == [f"http://{other}:{origin.port}/pkg.rpm"]
        assert len(origin.visits(2)) == 2


@forms(1)
def test_none_for_one_download(form, sites, monkeypatch) -> None:
    """An empty proxy is none, whatever the context, and the environment that it reads, say."""
    url = sites["http"].url("/pkg.rpm")
    with squid() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url())
        for settings in ({"proxy": proxy.url()}, {"environment": True}):
            assert fetch(form, url, own={"proxy": ""}, **settings) == BODY
        assert fetch(form, url, proxy=proxy.url()) == BODY
        assert len(proxy.lines(1)) == 1
    assert len(sites["http"].visits(3)) == 3


@forms(1)
def test_the_environment_only_when_asked(form, sites, monkeypatch) -> None:
    """Variables count with environment=True only; no_proxy among them is read as the setting is, networks too."""
    url = sites["http"].url("/pkg.rpm")
    monkeypatch.delenv("no_proxy", raising=False)
    with squid() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url())
        assert fetch(form, url) == BODY
        assert fetch(form, url, environment=True) == BODY
        assert len(proxy.lines(1)) == 1
        monkeypatch.setenv("no_proxy", "example.org,127.0.0.0/8")
        assert fetch(form, url, environment=True) == BODY
        assert fetch(form, url, environment=True, no_proxy="example.org") == BODY
        assert len(proxy.lines(2)) == 2


@forms(1)
def test_mirrors_and_redirects_too(form, sites, authority, tmp_path) -> None:
    """Where a mirror list or a redirect leads is asked by the proxy as well, and hears nothing of the origin's user."""
    mirror = sites["http"]
    moved = (
        f"location /moved/ {{ return 302 {mirror.url('/pkg.rpm')}; }} location /list {{ return 200 '{mirror.url()}'; }}"
    )
    with site(tmp_path / "third", server=moved) as origin, squid(user=GATE) as proxy:
        settings = {"proxy": proxy.url("gate:gatepass@"), "user": ELMER}
        assert fetch(form, origin.url("/moved/pkg.rpm"), **settings) == BODY
        mirrors = MirrorList(origin.url("/list"), replaces=origin.url("/pub/"))
        assert fetch(form, origin.url("/pub/pkg.rpm"), plugins=(mirrors,), **settings) == BODY
        asked = [(line.target, line.authorization != "-") for line in proxy.lines(4)]
    there = (mirror.url("/pkg.rpm"), False)
    assert asked == [(origin.url("/moved/pkg.rpm"), True), there, (origin.url("/list"), True), there]
    assert {visit.proxy_authorization for each in (origin, mirror) for visit in each.visits()} == {""}


@forms(1)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_down(form, scheme, sites, authority) -> None:
    """A proxy that does not answer is an error of the proxy, worth another try; nobody goes around it."""
    with squid() as proxy:
        url = proxy.url("gate:gatepass@")
    with pytest.raises(ProxyError, match="the proxy cannot be reached") as caught:
        fetch(form, sites[scheme].url("/pkg.rpm"), proxy=url, tls=TLS(ca_certificate=authority.pem))
    assert caught.value.transient
    assert "gatepass" not in str(caught.value)
    assert sites[scheme].visits() == []


@forms(1)
@pytest.mark.parametrize(("scheme", "error"), [("http", ProtocolError), ("https", ProxyError)])
def test_a_proxy_that_speaks_rubbish(form, scheme, error, sites, authority) -> None:
    """Rubbish is an error, and the proxy's where it can be told: before a tunnel stands nobody else has spoken."""

    async def rubbish(reader, writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 What are you talking about?\r\n\r\n")
        await writer.drain()

    with http_server(raw=rubbish) as proxy, pytest.raises(error) as caught:
        fetch(form, sites[scheme].url("/pkg.rpm"), proxy=proxy.url(), tls=TLS(ca_certificate=authority.pem))
    assert "proxy" in str(caught.value) or scheme == "http"
    assert sites[scheme].visits() == []


@forms(1)
def test_a_proxy_that_is_not_trusted(form, sites) -> None:
    """The certificate of a proxy that is reached by TLS is checked, and the error says whose it is."""
    other = Authority()
    with squid(tls=other.ca.issue_cert("localhost")) as proxy, pytest.raises(TLSError, match="proxy"):
        fetch(form, sites["http"].url("/pkg.rpm"), proxy=proxy.url())
