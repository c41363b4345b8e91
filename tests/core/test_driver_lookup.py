"""How the driver for a scheme is found: given, or announced by an installed distribution, and loaded when needed."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from downhaul import Driver, Info, Payload, PluginError, Request, Settings, UnsupportedScheme
from downhaul._drivers import DriverBook

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractAsyncContextManager

DRIVER = """
from contextlib import nullcontext
from dataclasses import dataclass
from downhaul import Driver, Info, Payload

@dataclass(frozen=True)
class Options:
    deep: bool = False

class FakeDriver(Driver):
    options = (Options,)
    closed = 0

    def open(self, request, settings):
        async def body():
            yield b"x"
        return nullcontext(Payload(Info(request.url), body()))

    async def aclose(self):
        self.closed += 1
"""


class Install(Protocol):
    """Put a distribution where `importlib.metadata` finds it: its name, entry points, and its module's source."""

    def __call__(self, name: str, points: dict[str, str], source: str = DRIVER, /) -> str: ...


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Give a function that installs a fake distribution; none of the really installed ones are seen."""
    bare = [path for path in sys.path if not any(Path(path).glob("*-info"))]
    monkeypatch.setattr(sys, "path", bare)
    modules: list[str] = []

    def put(name: str, points: dict[str, str], source: str = DRIVER, /) -> str:
        place = tmp_path / f"place-{name}"
        module = name.lower().replace("-", "_").replace(".", "_")
        info = place / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"{scheme} = {value.format(module=module)}" for scheme, value in points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[downhaul.drivers]", *lines, ""]))
        (place / f"{module}.py").write_text(source)
        sys.path.insert(0, str(place))
        modules.append(module)
        return module

    yield put
    for module in modules:
        sys.modules.pop(module, None)


class GivenDriver(Driver):
    """A driver that is given to a context."""

    def __init__(self) -> None:
        self.closed = 0

    def open(self, request: Request, settings: Settings) -> AbstractAsyncContextManager[Payload]:
        async def body():
            yield b""

        return nullcontext(Payload(Info(request.url), body()))

    async def aclose(self) -> None:
        self.closed += 1


@dataclass(frozen=True)
class UnknownOptions:
    """Options that no driver reads."""


def test_driver_is_found_by_its_entry_point(install: Install) -> None:
    """The name of an entry point is the scheme, its value the class of the driver."""
    module = install("acme-gopher", {"gopher": "{module}:FakeDriver"})
    driver = DriverBook().driver("gopher", "gopher://host/")
    assert isinstance(driver, sys.modules[module].FakeDriver)


def test_nothing_is_imported_until_used(install: Install) -> None:
    """Listing the schemes and checking one of them imports no driver; asking for the driver does."""
    module = install("acme-gopher", {"gopher": "{module}:FakeDriver"})
    book = DriverBook()
    assert book.schemes() == ["gopher"]
    book.check("gopher", "gopher://host/")
    assert module not in sys.modules
    book.driver("gopher", "gopher://host/")
    assert module in sys.modules


def test_only_the_driver_that_is_used_is_imported(install: Install) -> None:
    """A driver of another scheme stays unloaded."""
    used = install("acme-gopher", {"gopher": "{module}:FakeDriver"})
    unused = install("acme-finger", {"finger": "{module}:FakeDriver"})
    DriverBook().driver("gopher", "gopher://host/")
    assert used in sys.modules
    assert unused not in sys.modules


def test_schemes_of_one_class_share_an_instance(install: Install) -> None:
    """Http and https are served by one instance, so they share pools; another book has its own."""
    install("acme-http", {"http": "{module}:FakeDriver", "https": "{module}:FakeDriver"})
    book = DriverBook()
    assert book.driver("http", "http://host/") is book.driver("https", "https://host/")
    assert book.driver("http", "http://host/") is not DriverBook().driver("http", "http://host/")


def test_scheme_of_an_entry_point_ignores_case(install: Install) -> None:
    """URL schemes ignore case (RFC 3986, section 3.1), and so do the names of entry points."""
    install("acme-gopher", {"Gopher": "{module}:FakeDriver"})
    assert DriverBook().schemes() == ["gopher"]
    assert DriverBook().driver("gopher", "gopher://host/")


@pytest.mark.parametrize("ask", ["check", "driver"])
def test_unknown_scheme_names_the_installed_ones(install: Install, ask: str) -> None:
    """Without a driver for a scheme the error lists those that there are, and says what to install."""
    install("acme-http", {"http": "{module}:FakeDriver", "https": "{module}:FakeDriver"})
    install("downhaul-data", {"data": "{module}:FakeDriver"})
    with pytest.raises(UnsupportedScheme) as raised:
        getattr(DriverBook(), ask)("ftp", "ftp://host/file")
    assert str(raised.value) == "no driver for 'ftp' (installed: data, http, https); pip install 'downhaul[ftp]'"
    assert raised.value.url == "ftp://host/file"


def test_unknown_scheme_with_nothing_installed(install: Install) -> None:
    """Without any driver the error says that there is none."""
    with pytest.raises(UnsupportedScheme, match=r"no driver for 'ftp' \(installed: none\)"):
        DriverBook().check("ftp", "ftp://host/file")
    with pytest.raises(UnsupportedScheme, match=r"installed: none\); install one, which .* 'downhaul\.drivers'"):
        DriverBook().check("gopher", "gopher://host/file")


def test_unknown_scheme_does_not_show_a_password(install: Install) -> None:
    """The URL in the error has no userinfo and no query values."""
    with pytest.raises(UnsupportedScheme) as raised:
        DriverBook().check("ftp", "ftp://elmer:secret@host/file?token=secret")
    assert "secret" not in f"{raised.value}{raised.value.url}"


def test_two_distributions_for_one_scheme(install: Install) -> None:
    """Two distributions for one scheme are an error that names both and the choice."""
    install("acme-gopher", {"gopher": "{module}:FakeDriver"})
    install("best-gopher", {"gopher": "{module}:FakeDriver"})
    with pytest.raises(PluginError) as raised:
        DriverBook().driver("gopher", "gopher://host/")
    assert "acme-gopher and best-gopher" in str(raised.value)
    assert "drivers={'gopher': 'acme-gopher'}" in str(raised.value)


@pytest.mark.parametrize("name", ["Best.Gopher", "best-gopher", "BEST_gopher"])
def test_choice_by_distribution(install: Install, name: str) -> None:
    """Of two distributions the one that is named serves, however its name is spelt."""
    other = install("acme-gopher", {"gopher": "{module}:FakeDriver"})
    chosen = install("Best.Gopher", {"gopher": "{module}:FakeDriver"})
    driver = DriverBook({"gopher": name}).driver("gopher", "gopher://host/")
    assert type(driver).__module__ == chosen
    assert other not in sys.modules


def test_choice_of_a_distribution_that_is_not_there(install: Install) -> None:
    """Choosing a distribution that is not installed is an error that names it and the scheme."""
    install("acme-gopher", {"gopher": "{module}:FakeDriver"})
    with pytest.raises(PluginError, match=r"'worst-gopher'.*'gopher'"):
        DriverBook({"gopher": "worst-gopher"}).driver("gopher", "gopher://host/")


def test_distribution_that_is_found_twice_counts_once(install: Install, tmp_path: Path) -> None:
    """A distribution that stands on the path twice, as in a checkout and installed, is no conflict."""
    install("acme-gopher", {"gopher": "{module}:FakeDriver"})
    (tmp_path / "copy").mkdir()
    for path in (tmp_path / "place-acme-gopher").iterdir():
        (tmp_path / "copy" / path.name).symlink_to(path)
    sys.path.insert(0, str(tmp_path / "copy"))
    assert DriverBook().driver("gopher", "gopher://host/")


@pytest.mark.parametrize(
    ("value", "source"),
    [
        ("{module}:Missing", DRIVER),
        ("{module}_that_is_not_there:FakeDriver", DRIVER),
        ("{module}:FakeDriver", "raise RuntimeError('broken on import')"),
        ("{module}:Options", DRIVER),
        ("{module}:Driver", DRIVER),
        ("{module}:FakeDriver", DRIVER + "    def __init__(self):\n        raise RuntimeError('broken when made')\n"),
    ],
    ids=["no such name", "no such module", "fails on import", "no driver", "abstract", "fails when made"],
)
def test_broken_entry_point(install: Install, value: str, source: str) -> None:
    """A driver that cannot be loaded or made is a PluginError that names scheme and distribution."""
    install("acme-gopher", {"gopher": value}, source)
    with pytest.raises(PluginError, match=r"'gopher'.*acme-gopher"):
        DriverBook().driver("gopher", "gopher://host/")


def test_broken_driver_hurts_no_other(install: Install) -> None:
    """A broken driver of one scheme leaves those of other schemes alone, even where options are looked up."""
    install("acme-finger", {"finger": "{module}:Missing"})
    module = install("acme-gopher", {"gopher": "{module}:FakeDriver"})
    book = DriverBook()
    driver = book.driver("gopher", "gopher://host/")
    book.check_options((sys.modules[module].Options(),))
    assert type(driver).__module__ == module


def test_options_are_found_before_their_driver_is_used(install: Install) -> None:
    """Options of an installed driver are accepted although nobody has asked for its scheme yet."""
    module = install("acme-gopher", {"gopher": "{module}:FakeDriver"})
    options = __import__(module).Options()
    DriverBook().check_options((options,))


def test_options_survive_a_broken_driver_of_another_scheme(install: Install) -> None:
    """Options of a sound driver are accepted, whether or not that of another scheme can be loaded."""
    install("acme-finger", {"finger": "{module}:Missing"})
    module = install("acme-gopher", {"gopher": "{module}:FakeDriver"})
    options = __import__(module).Options()
    DriverBook().check_options((options,))


def test_unknown_options(install: Install) -> None:
    """Options of a type that no installed driver reads are refused, and the known types are named."""
    install("acme-gopher", {"gopher": "{module}:FakeDriver"})
    with pytest.raises(TypeError, match=r"UnknownOptions \(known: Options\)"):
        DriverBook().check_options((UnknownOptions(),))


def test_given_driver_wins(install: Install) -> None:
    """A driver that is given serves its scheme, and what is installed for it is not even imported."""
    module = install("acme-gopher", {"gopher": "{module}:FakeDriver"})
    given = GivenDriver()
    assert DriverBook({"gopher": given}).driver("gopher", "gopher://host/") is given
    assert module not in sys.modules


def test_given_driver_brings_a_scheme(install: Install) -> None:
    """A driver that is given serves a scheme that nothing installed announces, written in any case."""
    install("acme-gopher", {"gopher": "{module}:FakeDriver"})
    book = DriverBook({"Finger": GivenDriver()})
    assert book.schemes() == ["finger", "gopher"]
    book.check("finger", "finger://host/")
    assert isinstance(book.driver("finger", "finger://host/"), GivenDriver)


def test_given_drivers_are_checked() -> None:
    """What is given as a driver is one, or the name of a distribution; a class is neither."""
    with pytest.raises(TypeError, match=r"'gopher'.*takes a Driver or the name of a distribution"):
        DriverBook({"gopher": GivenDriver})  # type: ignore[dict-item]


async def test_aclose_closes_each_driver_once(install: Install) -> None:
    """Closing closes every driver that was used once, however many schemes it serves."""
    install("acme-http", {"http": "{module}:FakeDriver", "https": "{module}:FakeDriver"})
    given = GivenDriver()
    book = DriverBook({"gopher": given, "gophers": given})
    drivers = [book.driver(scheme, f"{scheme}://host/") for scheme in ("http", "https", "gopher", "gophers")]
    await book.aclose()
    assert [driver.closed for driver in drivers] == [1, 1, 1, 1]  # type: ignore[attr-defined]
    await book.aclose()
    assert [driver.closed for driver in drivers] == [1, 1, 1, 1]  # type: ignore[attr-defined]


async def test_aclose_closes_all_although_one_fails(install: Install) -> None:
    """A driver that fails to close does not keep the others from being closed, and is reported."""
    install(
        "acme-gopher", {"gopher": "{module}:FakeDriver"}, DRIVER + "        raise RuntimeError('cannot be closed')\n"
    )
    install("acme-finger", {"finger": "{module}:FakeDriver"})
    book = DriverBook()
    book.driver("gopher", "gopher://host/")
    sound = book.driver("finger", "finger://host/")
    with pytest.raises(Exception, match="cannot be closed"):
        await book.aclose()
    assert sound.closed == 1  # type: ignore[attr-defined]


def test_importing_downhaul_imports_no_driver() -> None:
    """The core is imported without any driver or client library, the suite for drivers too."""
    program = (
        "import sys, downhaul, downhaul.testing;"
        " bad = {'downhaul_http', 'downhaul_ftp', 'httpx', 'aioftp', 'pytest_asyncio', 'click', 'rich'};"
        " print(sorted(bad & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"
