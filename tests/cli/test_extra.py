"""The command without its extra, and the library without the command."""

from __future__ import annotations

import pytest

BLOCKED = """
import sys
sys.modules[{missing!r}] = None
sys.argv = ["downhaul", "get", "https://host/a"]
from downhaul.__main__ import main
main()
"""


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_one_line_says_what_to_install(downhaul, missing: str) -> None:
    """Exit code 2, and no traceback."""
    ended = downhaul(python=("-c", BLOCKED.format(missing=missing)))
    assert (ended.code, ended.raw) == (2, b"")
    assert ended.said == f"downhaul: the command needs {missing}: pip install 'downhaul[cli]'"


def test_the_library_imports_nothing_of_the_command(downhaul) -> None:
    """`import downhaul` imports neither click nor rich, nor httpx, nor aioftp."""
    code = "import downhaul, downhaul.plugins, sys; print({'click', 'rich', 'httpx', 'aioftp'} & set(sys.modules))"
    assert downhaul(python=("-c", code)).out == "set()\n"


def test_the_script_and_the_module_are_the_same(downhaul) -> None:
    """`downhaul` and `python -m downhaul` behave alike, their names in messages included."""
    script = ("-c", "from importlib.metadata import entry_points as e; e(name='downhaul')['downhaul'].load()()")
    for arguments in (["--version"], ["get"], ["get", "-h"], []):
        one, other = downhaul(*arguments), downhaul(*arguments, python=script)
        assert (one.code, one.raw, one.err) == (other.code, other.raw, other.err)


def test_version_and_help(downhaul) -> None:
    """The version is the distribution's; the help of get explains the exit codes and fits into 80 columns."""
    assert downhaul("--version").out == "downhaul 0.1.0\n"
    ended = downhaul("get", "--help")
    assert ended.code == 0
    assert " 130  Ctrl-C" in ended.out
    assert max(map(len, ended.out.splitlines())) <= 80


def test_without_arguments_help_is_shown(downhaul) -> None:
    """As wrong usage: exit code 2."""
    ended = downhaul()
    assert ended.code == 2
    assert "Usage: downhaul" in ended.out + ended.err
