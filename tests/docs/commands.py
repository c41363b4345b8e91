"""What the commands in the documentation, other than downhaul's own, refer to."""

from __future__ import annotations

import os
import re
import tomllib
from typing import TYPE_CHECKING, Final

from tests.docs.pages import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

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

_REQUIREMENT: Final = re.compile(r"([\w./-]+)(?:\[([\w,]+)\])?")
_DEPENDENCY: Final = re.compile(r"(downhaul[\w-]*)(?:\[([\w,]+)\])?")


def known_command(words: Sequence[str]) -> str:
    """Return what is wrong with a command line, or "" where all that it names exists."""
    match words:
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
