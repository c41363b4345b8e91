"""The commands in the documentation: which of them are run, and what those refer to that are not."""

from __future__ import annotations

import os
import re
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.docs.pages import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

_DISTRIBUTIONS: Final = {
    "downhaul": "core",
    "downhaul-http": "drivers/http",
    "downhaul-ftp": "drivers/ftp",
    "downhaul-data": "docs/examples/downhaul-data",
    "downhaul-fallback": "docs/examples/downhaul-fallback",
    "django-importer": "docs/examples/django-importer",
    "sqlalchemy-importer": "docs/examples/sqlalchemy-importer",
    "downhaul-streamer": "docs/examples/streamer",
}
EXAMPLES: Final = {path.parent.name for path in ROOT.glob("docs/examples/*/src/*/__main__.py")}
"""The modules of examples that are run as commands."""

_ENVIRONMENT: Final = Path("env")
"""Where a page installs what it has written itself; relative to the directory that it is executed in."""

_REQUIREMENT: Final = re.compile(r"([\w./-]+)(?:\[([\w,]+)\])?")
_DEPENDENCY: Final = re.compile(r"(downhaul[\w-]*)(?:\[([\w,]+)\])?")


def runnable(words: Sequence[str]) -> list[str] | None:
    """Return how a command line is run here, or None where it is not."""
    match words:
        case ["downhaul", *rest] if rest[:1] != ["demo"]:
            return [_python(), "-W", "error", "-m", "downhaul", *rest]
        case ["python", "-m", module, *rest] if module in EXAMPLES:
            return [_python(), "-W", "error", "-m", module, *rest]
        case ["pip", "install", "-e", folder] if _is_written(folder):
            _make_environment()
            # Without an index: what is needed is there already, or the page is wrong.
            offline = ["--no-index", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
            return [sys.executable, "-m", "pip", "--python", _python(), "install", *offline, "-e", folder]
        case ["pytest", folder] if _is_written(folder):
            return [_python(), "-W", "error", "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:asyncio", folder]
    return None


def site_packages() -> Path:
    """Return where a page's own distributions are installed."""
    return Path(sysconfig.get_path("purelib", vars={"base": str(_ENVIRONMENT.absolute())}))


def _is_written(folder: str) -> bool:
    """Tell whether *folder* is a distribution that the page has written."""
    place = Path(folder)
    return not place.is_absolute() and ".." not in place.parts and (place / "pyproject.toml").is_file()


def _make_environment() -> None:
    """Make an environment that has all that this one has, unless it is there; nothing is installed into this one."""
    if not _ENVIRONMENT.exists():
        venv.create(_ENVIRONMENT, symlinks=True)
        above = sysconfig.get_path("purelib")
        (site_packages() / "above.pth").write_text(f"import site; site.addsitedir({above!r})\n", "utf-8")


def _python() -> str:
    python = _ENVIRONMENT / "bin" / "python"
    return str(python.absolute()) if python.exists() else sys.executable


def known_command(words: Sequence[str]) -> str:
    """Return what is wrong with a command line, or "" where all that it names exists."""
    match words:
        case ["pytest", folder] if "/" in folder:
            return f"there is no distribution {folder!r}"  # or it would be run
        case ["downhaul", "demo"] | ["pytest", *_] | ["python", "-m", "asyncio"]:
            return ""
        case ["pip", "install", *rest]:
            wanted = [word for word in rest if word != "-e"]
            return next(filter(None, map(_requirement, wanted)), "") or _left_to_the_index(wanted)
        case ["uv", "sync", "--all-extras"]:
            return "" if "workspace" in _project(ROOT)["tool"]["uv"] else "there is no uv workspace"
        case [script, *rest] if script.startswith("scripts/"):
            if absent := [word for word in rest if "/" in word and not (ROOT / word).exists()]:
                return f"there is no {absent[0]}"
            return "" if os.access(ROOT / script, os.X_OK) else "there is no such script"
        case ["python", script] if script.startswith("docs/examples/") and (ROOT / script).is_file():
            return ""  # its own tests run it
        case ["python", "-m", module, *_] if any(ROOT.glob(f"docs/examples/*/src/{module}.py")):
            return ""  # its own tests run it
    return "an unknown command"


def _requirement(requirement: str) -> str:
    match = _REQUIREMENT.fullmatch(requirement)
    if match is None:
        return f"{requirement!r} is no requirement"
    if match[1] in _DISTRIBUTIONS or (ROOT / match[1] / "pyproject.toml").is_file():
        place = ROOT / _DISTRIBUTIONS.get(match[1], match[1])
    else:
        return f"there is no distribution {match[1]!r}"
    extras = set(filter(None, (match[2] or "").split(",")))
    if not extras <= _project(place)["project"].get("optional-dependencies", {}).keys():
        return f"there is no extra {', '.join(sorted(extras))}"
    return ""


def _left_to_the_index(wanted: Sequence[str]) -> str:
    """Return what pip would look for elsewhere: what folders of the checkout need of it must be installed with them."""
    projects = [_project(ROOT / word.partition("[")[0])["project"] for word in wanted if "/" in word]
    given = {project["name"] for project in projects}
    for match in (_DEPENDENCY.match(each) for project in projects for each in project["dependencies"]):
        if match is not None:
            extras = {f"downhaul-{extra}" for extra in (match[2] or "").split(",")}
            if absent := {match[1], *(extras & _DISTRIBUTIONS.keys())} - given:  # other extras bring none of ours
                return f"it lacks {', '.join(sorted(absent))}"
    return ""


def _project(folder: Path) -> dict[str, dict[str, dict[str, object]]]:
    return tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
