"""What is imported when: the core is light, and its modules stand in layers."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import downhaul

HOME = Path(downhaul.__path__[0])
CONTRACTS = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["tool"]["importlinter"][
    "contracts"
]
LAYERS = [
    name
    for contract in CONTRACTS
    for name in reversed(contract.get("layers", []))
    if (name.startswith("_") and not name.startswith("__")) or name == "hookspecs"
]
ROOMS = ["plugins", "adapters", "testing", "cli"]


def run_time_imports(path: Path) -> set[str]:
    """Return the names of the modules that *path* imports when it runs, those for type checkers left out."""
    found = set()
    nodes: list[ast.AST] = [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            nodes += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            if node.module:
                found.add("." * node.level + node.module)
            else:
                found |= {"." * node.level + alias.name for alias in node.names}
        nodes += ast.iter_child_nodes(node)
    return found


def test_every_module_has_its_layer() -> None:
    """No module of the core stands outside of the layers."""
    modules = {path.stem for path in HOME.glob("*.py")} - {"__init__", "__main__"}
    assert modules == set(LAYERS)


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    """Each module imports only those before it; `__init__` alone ties everything together."""
    before = LAYERS[: LAYERS.index(name)]
    for imported in run_time_imports(HOME / f"{name}.py"):
        if imported.startswith("."):
            assert imported[1:] in before, f"{name} imports {imported}"
        assert imported.split(".")[0] != "downhaul", f"{name} imports {imported} by its full name"


def test_the_core_imports_one_library() -> None:
    """Besides the standard library the core needs pluggy and nothing else."""
    outside = {
        imported.split(".")[0]
        for name in (*LAYERS, "__init__")
        for imported in run_time_imports(HOME / f"{name}.py")
        if not imported.startswith(".")
    }
    assert outside - sys.stdlib_module_names == {"pluggy"}


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_use_public_names_only(room: str) -> None:
    """Plugins, the contract suite and the command use what everybody can use, and nothing in the core imports them.

    What a room has of its own is its own business.
    """
    for path in (HOME / room).glob("**/*.py"):
        for imported in run_time_imports(path):
            parts = imported.split(".")
            if parts[0] == "downhaul" and parts[1:2] != [room]:
                assert not any(part.startswith("_") for part in parts), f"{path} imports {imported}"
            assert not imported.startswith(".."), f"{path} imports {imported}"
    for name in (*LAYERS, "__init__"):
        assert f".{room}" not in run_time_imports(HOME / f"{name}.py")


def loaded_by(program: str) -> set[str]:
    """Return the modules that are there after *program* has run in an interpreter of its own."""
    program += "\nimport sys; print('\\n'.join(sys.modules))"
    run = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


FRAMEWORKS = {"starlette", "uvicorn", "aiohttp", "twisted", "zope", "django", "asgiref"}
HEAVY = FRAMEWORKS | {
    "httpx", "httpcore", "h11", "h2", "aioftp", "rich", "click", "downhaul_http", "downhaul_ftp", "pytest",
}  # fmt: skip


def test_importing_the_core_imports_no_driver() -> None:
    """Importing downhaul and its plugins imports no driver, no client library, and nothing of the command."""
    assert loaded_by("import downhaul, downhaul.plugins").isdisjoint(HEAVY)


@pytest.mark.parametrize(
    ("adapter", "framework"),
    [("asgi", {"starlette"}), ("aiohttp", {"aiohttp"}), ("twisted", {"twisted", "zope"}), ("wsgi", set()),
     ("django", {"django", "asgiref"})],
)  # fmt: skip
def test_an_adapter_imports_its_framework_alone(adapter: str, framework: set[str]) -> None:
    """Each adapter needs what it is for, and nothing of the others."""
    for needed in framework:
        pytest.importorskip(needed, reason=f"{needed} is not installed")
    loaded = loaded_by(f"import downhaul.adapters.{adapter}")
    assert loaded & FRAMEWORKS == framework
    assert loaded.isdisjoint({"httpx", "aioftp", "downhaul_http", "downhaul_ftp"})


def test_describing_a_download_imports_no_driver() -> None:
    """`Context.download` looks at the names of entry points only: the scheme is known, the driver not imported."""
    program = "import downhaul; downhaul.Context().download('https://host/file', downhaul.FileWriter('x'))"
    assert loaded_by(program).isdisjoint(HEAVY)


def test_importing_the_core_starts_nothing() -> None:
    """Importing starts no thread and makes no event loop."""
    program = (
        "import threading, asyncio\n"
        "asyncio.new_event_loop = None\n"
        "import downhaul, downhaul.plugins\n"
        "assert threading.active_count() == 1"
    )
    assert "downhaul" in loaded_by(program)
