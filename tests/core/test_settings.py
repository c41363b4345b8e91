"""Settings: what is refused, how they are filled, and what they show."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.forms import FORMS, run
from tests.mem import MemDriver, Reply

from downhaul import TLS, BufferWriter, Context, Download, Settings, Timeout, User

SECRET = "S3cr3tW0rd"
NUMBERS = ["connect", "read", "head", "total"]


@dataclass(frozen=True)
class Speed:
    """Typed options of a driver."""

    fast: bool = False


@dataclass(frozen=True)
class Depth:
    """Other typed options."""

    deep: int = 1


@dataclass
class Mutable:
    """Options that are not frozen, and so not hashable."""


class SpeedDriver(MemDriver):
    """A driver that reads `Speed`."""

    options = (Speed,)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), -0.5, True, "10", [], 1j])
def test_time_limits(name: str, value: Any) -> None:
    """A time limit is a positive number of seconds or None; anything else is refused by the name of the field."""
    with pytest.raises(ValueError, match=rf"Timeout\({name}=…\) is a positive number of seconds or None"):
        Timeout(**{name: value})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [0.001, 1, 10.5, 1e9, None])
def test_good_time_limits(name: str, value: float | None) -> None:
    """Whole and fractional numbers of seconds will do, and None for no limit."""
    assert getattr(Timeout(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"timeout": 10}, "timeout=… takes Timeout, not int"),
        ({"timeout": (1, 2)}, "timeout=… takes Timeout, not tuple"),
        ({"tls": True}, "tls=… takes TLS, not bool"),
        ({"tls": "ca.pem"}, "tls=… takes TLS, not str"),
        ({"user": "elmer"}, "user=… takes User, not str"),
        ({"user": ("elmer", SECRET)}, "user=… takes User, not tuple"),
        ({"proxy": b"http://gateway"}, "proxy=… takes str, not bytes"),
        ({"proxy": False}, "proxy=… takes str, not bool"),
        ({"no_proxy": 7}, "no_proxy=… takes several names"),
        ({"no_proxy": b"host"}, "no_proxy=… takes several names"),
        ({"no_proxy": ("host", 7)}, "no_proxy=… takes names as str, not int"),
        ({"environment": 1}, "environment=… takes bool, not int"),
        ({"headers": [("A", "b")]}, "headers=… takes Mapping, not list"),
        ({"headers": {"A": 1}}, "headers=… maps str to str"),
        ({"headers": {1: "a"}}, "headers=… maps str to str"),
        ({"headers": {"A": b"b"}}, "headers=… maps str to str"),
        ({"retries": True}, "retries=… takes int, not bool"),
        ({"retries": 1.0}, "retries=… takes int, not float"),
        ({"retries": "3"}, "retries=… takes int, not str"),
        ({"require_proof": "yes"}, "require_proof=… takes bool, not str"),
        ({"max_size": 1.5}, "max_size=… takes int, not float"),
        ({"max_size": True}, "max_size=… takes int, not bool"),
        ({"schemes": "https"}, "schemes=… takes several names"),
        ({"schemes": 7}, "schemes=… takes several names"),
        ({"schemes": (7,)}, "schemes=… takes names"),
        ({"options": Speed()}, r"options=… takes several, such as \(HttpOptions\(http2=True\),\)"),
        ({"options": "http2"}, "options=… takes several"),
        ({"options": [Mutable()]}, "Mutable among options is not hashable: make it frozen"),
    ],
)
def test_wrong_types(fields: dict[str, Any], message: str) -> None:
    """A value of a wrong type is a TypeError that names the field and what it takes, and shows no value."""
    with pytest.raises(TypeError, match=message) as raised:
        Settings(**fields)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"retries": -1}, "retries=… counts rounds after the first, from 0; not -1"),
        ({"max_size": -1}, "max_size=… is a number of bytes, from 0; not -1"),
        ({"proxy": "gateway"}, "no scheme"),
        ({"proxy": "gateway:3128"}, "proxy=… is a URL, such as http://gateway:3128"),
        ({"proxy": f"http://user:{SECRET}@gateway:port"}, "malformed URL"),
        ({"proxy": f"http://user:{SECRET}@gateway\n"}, "malformed URL"),
        ({"no_proxy": [""]}, "no_proxy=… takes names, .suffixes, addresses and networks"),
        ({"no_proxy": f"http://user:{SECRET}@gateway/"}, "no_proxy=… takes names"),
        ({"options": [Speed(), Speed(fast=True)]}, "options=… holds two of one type"),
        ({"headers": {"": "a"}}, "is no header field name"),
        ({"headers": {"A B": "a"}}, "is no header field name"),
        ({"headers": {"A:": "a"}}, "is no header field name"),
        ({"headers": {"Ä": "a"}}, "is no header field name"),
        ({"headers": {"A\r\nB": "a"}}, "is no header field name"),
        ({"headers": {"A": f"{SECRET}\r\nX-Injected: yes"}}, "the value of header A holds a line break, NUL or blanks"),
        ({"headers": {"A": f"{SECRET}\n"}}, "the value of header A"),
        ({"headers": {"A": f"{SECRET}\x00"}}, "the value of header A"),
        ({"headers": {"A": f" {SECRET}"}}, "the value of header A"),
    ],
)
def test_wrong_values(fields: dict[str, Any], message: str) -> None:
    """A value that cannot be meant is a ValueError that names the field, and shows nothing secret."""
    with pytest.raises(ValueError, match=message) as raised:
        Settings(**fields)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("maker", [Settings, Context, lambda **fields: Download("mem://home/", **fields)])
def test_unknown_keyword(maker: Any) -> None:
    """An unknown keyword, a misspelt one say, is a TypeError that names it."""
    with pytest.raises(TypeError, match="'timout'"):
        maker(timout=Timeout())


def test_settings_takes_settings() -> None:
    """`settings=` takes Settings and nothing that looks like it."""
    for maker in (Context, lambda **fields: Download("mem://home/", **fields)):
        with pytest.raises(TypeError, match="settings=… takes Settings, not dict"):
            maker(settings={"retries": 1})


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"client_key": "k.pem"}, ValueError, r"TLS\(client_key=…\) needs client_certificate=… too"),
        ({"ca_certificate": b"ca.pem"}, TypeError, r"TLS\(ca_certificate=…\) is PEM text or a path, not bytes"),
        (
            {"client_certificate": ("c", "k")},
            TypeError,
            r"TLS\(client_certificate=…\) is PEM text or a path, not tuple",
        ),
        ({"verify": "ca.pem"}, TypeError, r"TLS\(verify=…\) is True or False, not str; see ca_certificate"),
        ({"verify": None}, TypeError, r"TLS\(verify=…\) is True or False, not NoneType"),
    ],
)
def test_tls_is_checked(fields: dict[str, Any], error: type[Exception], message: str) -> None:
    """TLS refuses what cannot be meant; a falsy `verify` by accident does not switch the checks off."""
    with pytest.raises(error, match=message):
        TLS(**fields)


@pytest.mark.parametrize(
    "fields", [{"name": None}, {"name": "elmer", "password": None}, {"name": "elmer", "password": 7}]
)
def test_user_is_checked(fields: dict[str, Any]) -> None:
    """A user has a name and a password that are str."""
    with pytest.raises(TypeError, match=r"User\(name, password\) takes two str"):
        User(**fields)


ALL = Settings(
    timeout=Timeout(1, 2, 3, 4), tls=TLS("ca.pem"), user=User("elmer", SECRET), proxy="http://gateway",
    no_proxy=("a", ".b"), environment=True, headers={"A": "b"}, retries=7, require_proof=True, max_size=8,
    schemes=("http",), options=(Speed(fast=True),),
)  # fmt: skip
FALSY = Settings(
    timeout=Timeout(None, None), tls=TLS(verify=False), user=User(""), proxy="", no_proxy=(), environment=False,
    headers={}, retries=0, require_proof=False, max_size=0, schemes=(), options=(),
)  # fmt: skip
NAMES = [name for name in Settings.__dataclass_fields__ if name != "options"]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_unset_is_filled(name: str) -> None:
    """A field left unset is taken from the other settings."""
    assert getattr(Settings().filled(ALL), name) == getattr(ALL, name)
    assert getattr(replace(FALSY, **{name: None}).filled(ALL), name) == getattr(ALL, name)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_set_is_kept(name: str) -> None:
    """A field that is set is kept, also where it is 0, False, empty or no limit: only None is unset."""
    assert getattr(FALSY.filled(ALL), name) == getattr(FALSY, name)
    assert getattr(ALL.filled(FALSY), name) == getattr(ALL, name)


def test_options_are_joined_by_their_type() -> None:
    """Of options of one type the download's count, those of other types are added."""
    mine, other = Settings(options=[Speed(fast=True)]), Settings(options=[Speed(), Depth(3)])
    assert mine.filled(other).options == (Speed(fast=True), Depth(3))
    assert other.filled(mine).options == (Speed(), Depth(3))


def test_of() -> None:
    """`of` finds the options of a type, or makes the default ones."""
    settings = Settings(options=[Depth(3)])
    assert settings.of(Depth) == Depth(3)
    assert settings.of(Speed) == Speed()


def test_single_fields_win_over_settings() -> None:
    """Keywords win over `settings=`, which fills the rest."""
    download = Download("mem://home/", settings=Settings(retries=1, max_size=5), retries=2)
    assert (download.settings.retries, download.settings.max_size) == (2, 5)


@given(
    a=st.fixed_dictionaries({}, optional={"retries": st.integers(0, 9), "proxy": st.just(""), "max_size": st.just(0)}),
    b=st.fixed_dictionaries({}, optional={"retries": st.integers(0, 9), "environment": st.booleans()}),
    c=st.fixed_dictionaries({}, optional={"max_size": st.integers(0, 9), "headers": st.just({"A": "b"})}),
)
def test_filling_is_associative(a: Any, b: Any, c: Any) -> None:
    """It makes no difference whether a download is filled from its remote first, or the remote from the context."""
    a, b, c = Settings(**a), Settings(**b), Settings(**c)
    assert a.filled(b).filled(c) == a.filled(b.filled(c))
    assert a.filled(a) == a
    assert a.filled(Settings()) == a


def test_defaults() -> None:
    """What nobody says is: three rounds after the first, 10 and 30 seconds, TLS verified, no proxy, no environment."""
    settings = Settings().complete()
    assert settings.retries == 3
    assert settings.timeout == Timeout(connect=10, read=30, head=None, total=None)
    assert settings.tls == TLS(verify=True)
    assert (settings.environment, settings.require_proof) == (False, False)
    assert (settings.proxy, settings.no_proxy, settings.max_size, settings.user) == (None, None, None, None)
    assert settings.options == ()
    assert settings.schemes == frozenset({"http", "https", "ftp", "ftps"})


def test_settings_are_values() -> None:
    """Equal settings are equal and have one hash, whatever the order of headers, schemes and options' types."""
    one = Settings(headers={"A": "1", "B": "2"}, schemes=["http", "FTP"], options=[Speed()])
    other = Settings(headers={"B": "2", "A": "1"}, schemes=("ftp", "http"), options=(Speed(),))
    assert one == other
    assert hash(one) == hash(other)
    assert len({one, other, Settings(headers={"A": "1", "B": "3"})}) == 2
    assert Settings(user=User("a", "b")) != Settings(user=User("a", "c"))


def test_settings_are_frozen() -> None:
    """Nothing in settings can be changed, nor from outside through a mapping or list that was given."""
    headers, options = {"A": "1"}, [Speed()]
    settings = Settings(headers=headers, options=options)
    before = hash(settings)
    headers["A"] = "2"
    options.clear()
    assert (settings.headers, settings.options) == (Settings(headers={"A": "1"}).headers, (Speed(),))
    with pytest.raises(FrozenInstanceError):
        settings.retries = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        settings.headers["A"] = "2"  # type: ignore[index]
    assert hash(settings) == before


def test_settings_travel() -> None:
    """Settings come out of a pickle equal, and with the hash of the process that they are in."""
    settings = replace(ALL, options=())
    hash(settings), settings.connection, settings.elsewhere
    assert pickle.loads(pickle.dumps(settings)) == settings
    program = (
        "import pickle, sys; settings = pickle.load(sys.stdin.buffer);"
        "from downhaul import Settings; import dataclasses;"
        "assert hash(dataclasses.replace(settings)) == hash(settings)"
    )
    subprocess.run([sys.executable, "-c", program], input=pickle.dumps(settings), check=True)


def test_connection_is_what_connections_depend_on() -> None:
    """The key of pools holds TLS, proxies, environment and options, and never time limits, users or headers."""
    assert ALL.connection == Settings(
        tls=ALL.tls, proxy=ALL.proxy, no_proxy=ALL.no_proxy, environment=ALL.environment, options=ALL.options
    )
    other = replace(ALL, timeout=Timeout(9), user=User("x"), headers={}, retries=0, max_size=1, schemes=())
    assert other.connection == ALL.connection
    assert hash(other.connection) == hash(ALL.connection)
    for change in ({"tls": TLS()}, {"proxy": ""}, {"no_proxy": ()}, {"environment": False}, {"options": (Speed(),)}):
        assert replace(ALL, **change).connection != ALL.connection  # type: ignore[arg-type]


def test_elsewhere_leaves_the_secrets_out() -> None:
    """What another origin's driver gets has no user, no client certificate, and of the headers the harmless ones."""
    settings = Settings(
        user=User("elmer", SECRET), tls=TLS("ca.pem", "c.pem", "k.pem"), proxy="http://gateway",
        headers={"X-Api-Key": SECRET, "ACCEPT": "a", "Accept-Language": "b", "User-Agent": "c", "Cookie": SECRET},
    )  # fmt: skip
    assert settings.elsewhere == Settings(
        tls=TLS("ca.pem"), proxy="http://gateway", headers={"ACCEPT": "a", "Accept-Language": "b", "User-Agent": "c"}
    )


@pytest.mark.parametrize(
    "value",
    [
        Settings(user=User("elmer", SECRET)),
        Settings(user=User(SECRET)),
        Settings(headers={"X-Api-Key": SECRET, "Authorization": f"Bearer {SECRET}"}),
        Settings(proxy=f"http://user:{SECRET}@gateway"),
        Settings(tls=TLS(client_certificate=f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----")),
        Settings(tls=TLS(client_certificate="c.pem", client_key=f"-----BEGIN PRIVATE KEY-----\n{SECRET}")),
        Settings(tls=TLS(ca_certificate=f"-----BEGIN CERTIFICATE-----\n{SECRET}")),
    ],
)
def test_repr_shows_nothing_secret(value: Settings) -> None:
    """User, password, header values, PEM text and a proxy's userinfo are in no repr; what is set can be seen."""
    for shown in (repr(value), repr(value.complete()), repr(value.user), repr(value.tls), repr(value.headers)):
        assert SECRET not in shown
    assert repr(value) != repr(Settings())


def test_repr_shows_the_rest() -> None:
    """What is no secret can be read in the repr, unset fields are left out."""
    assert repr(Settings()) == "Settings()"
    assert repr(Settings(retries=0, proxy="")) == "Settings(proxy='', retries=0)"
    assert repr(Settings(no_proxy="b,A")) == "Settings(no_proxy=('a', 'b'))"
    assert repr(Settings(no_proxy=())) == "Settings(no_proxy=())"
    assert repr(Settings(tls=TLS(Path("ca.pem")))).startswith("Settings(tls=TLS(ca_certificate=PosixPath('ca.pem')")
    assert "X-Api-Key: ***" in repr(Settings(headers={"X-Api-Key": SECRET}))


def test_headers_ignore_case() -> None:
    """The names of header fields ignore case when they are looked up, and keep how they were written."""
    headers = Settings(headers={"X-Api-Key": "a"}).headers
    assert headers is not None
    assert (headers["x-api-KEY"], list(headers), len(headers)) == ("a", ["X-Api-Key"], 1)


@pytest.mark.parametrize("form", FORMS)
def test_options_that_no_driver_reads(form: str) -> None:
    """Options of a type that no driver knows are refused by name, before anybody is asked."""
    driver = SpeedDriver()
    driver.site("mem://home/file", Reply(b"x"))
    with Context(drivers={"mem": driver}) as context:
        download = Download("mem://home/file", BufferWriter(), context=context, options=[Depth()])
        with pytest.raises(TypeError, match="no installed driver reads options of type Depth"):
            run(form, download)
        assert driver.log == []
        run(form, download.clone(settings=Settings(options=[Speed(fast=True)])))
        assert driver.log[0].settings.of(Speed) == Speed(fast=True)


@pytest.mark.parametrize("field", ["ca_certificate", "client_certificate", "client_key"])
def test_an_empty_certificate_is_refused(field: str) -> None:
    """An empty str, from an empty column say, is neither PEM text nor a path, and must not mean nothing."""
    with pytest.raises(ValueError, match=rf"TLS\({field}=…\) is PEM text or a path, or None"):
        TLS(**{"client_certificate": "c.pem", field: ""})
