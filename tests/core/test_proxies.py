"""Which proxy is used: what no_proxy means, and what the environment says."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downhaul import Download, Settings

PROXY = "http://gateway:3128"
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ftp_proxy")


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, *map(str.upper, VARIABLES), "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)


def is_direct(url: str, *entries: str) -> bool:
    """Tell whether *url* is reached without the proxy."""
    return not Settings(proxy=PROXY, no_proxy=entries).proxy_for(url)


@pytest.mark.parametrize(
    ("entry", "direct", "proxied"),
    [
        ("example.org", ["example.org", "a.example.org", "a.b.example.org"], ["anexample.org", "example.org.a", "org"]),
        (".example.org", ["a.example.org", "a.b.example.org"], ["example.org", "aexample.org"]),
        ("*.example.org", ["a.example.org"], ["example.org"]),
        ("Example.ORG.", ["example.org", "EXAMPLE.org.", "a.example.org."], ["example.net"]),
        ("localhost", ["localhost", "localhost:8080", "a.localhost"], ["127.0.0.1", "[::1]"]),
        ("host:8080", ["host:8080", "a.host:8080"], ["host", "host:80", "host:8081"]),
        ("host:80", ["host", "host:80"], ["host:8080"]),
        ("my_host", ["my_host"], ["myhost"]),
        ("*", ["example.org", "1.2.3.4", "[::1]:80"], []),
        ("10.0.0.0/8", ["10.0.0.1", "10.255.1.2:99", "[::ffff:10.1.2.3]"], ["11.0.0.1", "10.0.0.1.example.org", "ten"]),
        ("10.1.2.3/8", ["10.200.0.1"], ["11.0.0.1"]),
        ("0.0.0.0/0", ["1.2.3.4"], ["[::1]", "example.org"]),
        ("1.2.3.4", ["1.2.3.4", "1.2.3.4:99"], ["1.2.3.5", "a.1.2.3.4.example.org"]),
        ("1.2.3.4:99", ["1.2.3.4:99"], ["1.2.3.4", "1.2.3.5:99"]),
        ("::1", ["[::1]", "[0:0:0:0:0:0:0:1]:99"], ["[::2]", "localhost"]),
        ("[::1]", ["[::1]", "[::1]:99"], ["[::2]"]),
        ("[::1]:99", ["[::1]:99"], ["[::1]", "[::1]:98"]),
        ("fd00::/8", ["[fd12:3456::1]"], ["[fe80::1]", "1.2.3.4"]),
        ("fe80::/10", ["[fe80::1%25eth0]"], ["[fec0::1%25eth0]"]),
        ("::ffff:10.0.0.0/104", ["10.9.8.7", "[::ffff:10.1.1.1]"], ["11.0.0.1"]),
        ("bücher.de", ["bücher.de", "xn--bcher-kva.de", "BÜCHER.de", "a.bücher.de"], ["bucher.de"]),
        ("xn--strae-oqa.example", ["straße.example", "straße。example"], ["strasse.example"]),
    ],
)  # fmt: skip
def test_what_an_entry_means(entry: str, direct: list[str], proxied: list[str]) -> None:
    """A name means it and all below, a dot only what is below, networks and addresses what is written as an address."""
    for host in direct:
        assert is_direct(f"http://{host}/x", entry), host
    for host in proxied:
        assert not is_direct(f"http://{host}/x", entry), host


def test_the_port_of_the_scheme_counts() -> None:
    """Where a URL names no port, that of its scheme is compared."""
    assert is_direct("https://host/", "host:443")
    assert is_direct("ftp://host/", "host:21")
    assert not is_direct("http://host/", "host:443")


@pytest.mark.parametrize(
    "entry",
    ["", " ", ".", "..", "*.", "a..b", "*:80", "a*b", "*b", "http://host", "host/path", "user@host", "host:", "host:0",
     "host:65536", "host:http", "host:80:80", "[host]", "[1.2.3.4]", "[::1", "[::1]80", "[fd00::]/8", "10.0.0.0/33",
     "10.0.0.0/8:80", "fe80::1%eth0", "fe80::%eth0/64", "a,b", "a b", "a\tb", "a\n", "a?b", "a#b", "a%62", "\x00",
     "10/8"],
)  # fmt: skip
def test_what_is_no_entry(entry: str) -> None:
    """What cannot be an entry is refused where it is written, with a sentence; in one str of many too."""
    with pytest.raises(ValueError, match=r"no_proxy=… takes names, \.suffixes, addresses and networks"):
        Settings(no_proxy=[entry])


def test_entries_are_normal() -> None:
    """One str with commas and blanks is several; order, case and spelling make no difference to equality."""
    one = Settings(no_proxy=" .Corp, LOCALHOST 10.1.1.1/8,,[0::1]:80,*.corp ")
    assert one == Settings(no_proxy=["[::1]:80", "localhost.", ".corp", "10.0.0.0/8"])
    assert one.no_proxy == (".corp", "10.0.0.0/8", "[::1]:80", "localhost")
    assert Settings(no_proxy="").no_proxy == ()
    assert Settings(no_proxy=(each for each in ("a", "b"))).no_proxy == ("a", "b")


def test_it_is_filled_as_a_whole() -> None:
    """A download's own no_proxy stands in place of the context's; an empty one takes every exception back."""
    remote = Settings(proxy=PROXY, no_proxy="a")
    assert Settings().filled(remote).proxy_for("http://a/") == ""
    assert Settings(no_proxy="b").filled(remote).proxy_for("http://a/") == PROXY
    assert Download("http://a/", no_proxy=()).settings.filled(remote).proxy_for("http://a/") == PROXY


def test_the_environment_counts_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables are read with environment=True only, by scheme, then for all; without a scheme they mean http."""
    monkeypatch.setenv("HTTPS_PROXY", "http://secure:1")
    monkeypatch.setenv("all_proxy", "any:2")
    asked = Settings(environment=True).complete()
    assert Settings().complete().proxy_for("https://host/") == ""
    assert asked.proxy_for("https://host/") == "http://secure:1"
    assert asked.proxy_for("http://host/") == "http://any:2"
    assert asked.proxy_for("ftp://host/") == "http://any:2"


def test_settings_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that is set is used, "" is none; no_proxy that is set stands in place of the variable."""
    monkeypatch.setenv("http_proxy", "http://other:1")
    monkeypatch.setenv("no_proxy", "direct")
    settings = Settings(environment=True)
    assert settings.proxy_for("http://direct/") == ""
    assert Settings(no_proxy="mine").filled(settings).proxy_for("http://direct/") == "http://other:1"
    assert Settings(no_proxy="mine").filled(settings).proxy_for("http://mine/") == ""
    assert Settings(proxy=PROXY).filled(settings).proxy_for("http://direct/") == PROXY
    assert Settings(proxy="").filled(settings).complete().proxy_for("http://host/") == ""


def test_the_variable_is_read_as_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable knows networks and ports too; what nobody can read in it is passed over."""
    monkeypatch.setenv("http_proxy", PROXY)
    monkeypatch.setenv("no_proxy", "http://odd, 10.0.0.0/8 .corp,host:81,")
    settings = Settings(environment=True)
    for url, proxy in {
        "http://10.1.2.3/": "", "http://a.corp/": "", "http://host:81/": "", "http://host/": PROXY,
        "http://odd/": PROXY,
    }.items():  # fmt: skip
        assert settings.proxy_for(url) == proxy, url
    monkeypatch.setenv("no_proxy", "*")
    assert settings.proxy_for("http://host/") == ""


def test_a_request_cannot_set_the_proxy_of_a_cgi(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a CGI program HTTP_PROXY is what a visitor sent as the header Proxy, so it does not count."""
    monkeypatch.setenv("HTTP_PROXY", "http://evil:1")
    monkeypatch.setenv("REQUEST_METHOD", "GET")
    assert Settings(environment=True).proxy_for("http://host/") == ""


LABELS = st.text("abcxyz019-üΩ中", max_size=5).map("b{}".format)
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)


@given(name=NAMES, below=LABELS, port=st.integers(1, 65535))
def test_any_name(name: str, below: str, port: int) -> None:
    """Whatever the name: it covers itself and what is below, the dot only the latter, the port only itself."""
    for host in (name, name.upper(), f"{name}."):
        assert is_direct(f"http://{host}:{port}/", name)
        assert not is_direct(f"http://{host}:{port}/", f".{name}")
        assert not is_direct(f"http://{host}:{port}/", f"{name}:{port % 65535 + 1}")
    assert is_direct(f"http://{below}.{name}:{port}/", f".{name}", "nothing.else")
    assert not is_direct(f"http://a{name}/", name)


@given(address=st.ip_addresses(v=4), prefix=st.integers(0, 32), other=st.ip_addresses(v=4))
def test_any_network(address: IPv4Address, prefix: int, other: IPv4Address) -> None:
    """A network covers exactly the addresses in it, those wrapped in IPv6 too."""
    network = IPv4Network((address, prefix), strict=False)
    for each in (address, other):
        assert is_direct(f"http://{each}/", str(network)) is (each in network)
        assert is_direct(f"http://[::ffff:{each}]/", str(network)) is (each in network)


@given(address=st.ip_addresses(v=6), other=st.ip_addresses(v=6))
def test_any_address_of_six(address: IPv6Address, other: IPv6Address) -> None:
    """An address of IPv6 covers itself, however it is written."""
    assert is_direct(f"http://[{address.exploded}]/", str(address))
    assert is_direct(f"http://[{other}]/", f"[{address}]:80") is (address == other)


@given(text=st.text(max_size=12) | st.text("a.*:[]/0189-, %@f", max_size=20))
def test_any_text(text: str) -> None:
    """Any text is refused by the one error, or has one normal form."""
    try:
        entries = Settings(no_proxy=[text]).no_proxy
    except ValueError:
        return
    assert Settings(no_proxy=entries).no_proxy == entries
    assert Settings(no_proxy=",".join(entries or ())).no_proxy == entries
    Settings(proxy=PROXY, no_proxy=entries).proxy_for("http://host/")
