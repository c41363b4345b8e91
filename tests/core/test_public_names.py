"""What `downhaul` exports: everything there is to know, nothing else, and all of it described."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import downhaul
from downhaul import _errors

NOUNS = {
    "Batch", "BufferWriter", "Context", "DigestValidation", "Download", "Driver", "FileWriter", "Payload", "Plan",
    "Plugin", "Request", "Result", "Settings", "Sink", "SizeValidation", "Stream", "TLS", "Timeout", "Transfer", "User",
    "Validation", "Version", "Writer", "download", "hookimpl", "hookspec",
}  # fmt: skip
ADAPTERS = [f"downhaul.adapters.{name}" for name in ("asgi", "aiohttp", "twisted", "wsgi", "django")]
PUBLIC_MODULES = [
    "downhaul", "downhaul.hookspecs", "downhaul.plugins", "downhaul.testing", "downhaul.adapters", *ADAPTERS,
]  # fmt: skip


def errors() -> set[str]:
    """Return the names of all errors of the tree."""
    found, kinds = set(), [downhaul.DownloadError]
    while kinds:
        kind = kinds.pop()
        if kind.__module__ == _errors.__name__:
            found.add(kind.__name__)
        kinds += kind.__subclasses__()
    return found


def test_all_is_sorted() -> None:
    """`__all__` is sorted as a linter sorts it (constants, classes, the rest), and names nothing twice."""

    def place(name: str) -> tuple[int, str]:
        return (0 if name.isupper() else 1 if name[0].isupper() else 2), name

    assert downhaul.__all__ == sorted(set(downhaul.__all__), key=place)


def test_all_is_complete() -> None:
    """What is imported into the package for others to use is in `__all__`, and what is there exists."""
    public = {name for name in vars(downhaul) if not name.startswith("_")}
    own = {name for name in public if not isinstance(getattr(downhaul, name), ModuleType)}
    assert own - {"annotations", "BUILT_IN"} == set(downhaul.__all__)


def test_every_noun_is_exported() -> None:
    """The top level exports every noun of the design."""
    assert set(downhaul.__all__) >= NOUNS


def test_every_error_is_exported() -> None:
    """The top level exports every error of the tree."""
    assert set(downhaul.__all__) >= errors()


def test_the_drawn_tree_is_the_tree() -> None:
    """The tree at the top of the module of errors shows each of them, below what it derives from."""
    drawn: dict[str, str | None] = {}
    above: list[str] = []
    assert _errors.__doc__ is not None
    for line in _errors.__doc__.splitlines():
        if "── " not in line and line != "DownloadError":
            continue
        name = line.split("─")[-1].split()[0]
        depth = 0 if line == "DownloadError" else line.index("── ") // 4 + 1
        above[depth:] = [name]
        drawn[name] = above[depth - 1] if depth else None
    assert set(drawn) == errors()
    for name, parent in drawn.items():
        if parent is not None:
            assert getattr(downhaul, name).__bases__ == (getattr(downhaul, parent),)


def test_no_module_is_named_like_an_exported_object() -> None:
    """`downhaul.download` is the function: no import of a module can ever take its place."""
    modules = {module.name for module in pkgutil.iter_modules(downhaul.__path__)}
    assert modules.isdisjoint(downhaul.__all__)
    assert callable(downhaul.download)
    for name in modules:
        if name != "cli":  # needs an extra
            importlib.import_module(f"downhaul.{name}")
    assert inspect.isfunction(downhaul.download)


def test_exported_objects_say_where_they_are_from() -> None:
    """Nothing that is exported belongs to somebody else."""
    for name in set(downhaul.__all__) - {"Block", "hookimpl", "hookspec"}:
        assert getattr(downhaul, name).__module__.startswith("downhaul.")


def described() -> list[Any]:
    """Return each public function, class and method, with its name."""
    found = {}
    for module_name in PUBLIC_MODULES:
        module = importlib.import_module(module_name)
        names = getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])
        for name in names:
            thing = getattr(module, name)
            if not inspect.isclass(thing) and not inspect.isfunction(thing):
                continue
            if not thing.__module__.startswith("downhaul"):
                continue
            found[f"{thing.__module__}.{name}"] = thing
            if inspect.isclass(thing):
                for attribute, value in vars(thing).items():
                    value = value.__func__ if isinstance(value, classmethod | staticmethod) else value
                    if not attribute.startswith("_") and (isinstance(value, property) or inspect.isfunction(value)):
                        found[f"{thing.__module__}.{name}.{attribute}"] = value
    return [pytest.param(thing, id=name) for name, thing in sorted(found.items())]


@pytest.mark.parametrize("thing", described())
def test_everything_public_is_described(thing: Any) -> None:
    """Every public function, class, method and property has a docstring of its own that is a sentence."""
    text = thing.__doc__
    assert text, "no docstring"
    assert not text.startswith(f"{getattr(thing, '__name__', '')}("), "the signature that dataclass writes"
    assert text.strip().partition("\n\n")[0].rstrip().endswith((".", "::", ":")), text


def test_everything_public_is_annotated() -> None:
    """Functions and methods that are exported are annotated, every argument and the result."""
    for parameter in described():
        thing = parameter.values[0]
        if inspect.isfunction(thing):
            signature = inspect.signature(thing)
            missing = [
                name
                for name, each in signature.parameters.items()
                if each.annotation is each.empty and name not in {"self", "cls"}
            ]
            assert not missing, (thing, missing)
            assert signature.return_annotation is not signature.empty, thing


def test_modules_are_described() -> None:
    """Every module of the core begins with a docstring."""
    for path in Path(downhaul.__path__[0]).rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), path
