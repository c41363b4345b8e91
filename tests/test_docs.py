"""The documentation is true: its code runs, its links lead somewhere, and nothing public is missing from it."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import json
import os
import re
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

import pytest
from tests.acceptance.use_cases import IMPORTER
from tests.docs.internet import internet
from tests.docs.pages import PAGES, ROOT, anchor, blocks, localized, sections

import downhaul
from downhaul import BufferWriter, Context, DownloadError, NotFound, Plugin, Retry, TooManyRequests, ValidationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.docs.internet import Internet

HOOKS: Final = ("prepare", "fetch", "validate", "error", "done")
_SOURCES: Final = ("core/src", "drivers/http/src", "drivers/ftp/src", ".")
_FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)
_LINK: Final = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_TEST: Final = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
_LITERAL: Final = re.compile(r"::\n\n((?:    .*\n|\n)+)")

_ACME: Final = """
```toml acme/pyproject.toml
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "acme"
version = "1"
dependencies = ["no-such-library"]
```
```python acme/acme.py
x = 1
```
```python acme/test_acme.py
def test_that_fails():
    assert False
```
"""
"""A distribution that cannot be installed, and whose test fails."""


def text_of(page: str) -> str:
    """Return the text of *page*."""
    return (ROOT / page).read_text("utf-8")


def run_page(page: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Execute *page* in a process of its own, in *directory*, where warnings are errors."""
    with internet(directory) as net:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(str(ROOT / source) for source in _SOURCES),
            "SSL_CERT_FILE": str(directory / "ca.pem"),  # the servers' authority, in place of the system's
        }
        return subprocess.run(
            [sys.executable, "-W", "error", "-m", "tests.docs.run_page", page, json.dumps(net.addresses)],
            cwd=directory, env=environment, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_page_runs(page: str, tmp_path: Path) -> None:
    """Every block of a page is executed, in order, and prints what the page says."""
    ended = run_page(page, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "Warning" not in ended.stderr, ended.stderr
    assert "never retrieved" not in ended.stderr, ended.stderr


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        ("```python\n1 / 0\n```\n", "ZeroDivisionError"),
        ("```python\nprint(1)\n```\n", "the last block prints '1"),
        ("```python\nprint(1)\n```\n```python\nprint(2)\n```\n", "no output follows"),
        ("```python\nprint(1)\n```\n```output\n2\n```\n", "it does not print"),
        ("```output\n2\n```\n", "it does not print"),
        ("```python\npass\n```\n```output\n…\n```\n", "it does not print"),
        ("```\npass\n```\n", "no such language"),
        ("```ruby\npass\n```\n", "no such language as 'ruby'"),
        ("```python\npass\n", "has no end"),
        ("```toml\n[\n```\n", "TOMLDecodeError"),
        ("```python\nx = 'https://unknown.example.org/'\n```\n", "KeyError"),
        ("```python\nopen('file', 'w').write('x')\n```\n", "ResourceWarning"),
        ("```console\n$ rm -rf build\n```\n", "an unknown command"),
        ("```console\npytest\n```\n", "is no command"),
        ("```console\n$ scripts/no-such-script\n```\n", "no such script"),
        ("```console\n$ pip install downhaul[telepathy]\n```\n", "no extra telepathy"),
        ("```console\n$ pip install -e docs/examples/no-such-example\n```\n", "there is no distribution"),
        (
            "```console\n$ pip install -e ./core -e docs/examples/importer\n```\n",
            "it lacks downhaul-ftp, downhaul-http",
        ),
        (
            "```console\n$ scripts/test docs/examples/no-such-example\n```\n",
            "there is no docs/examples/no-such-example",
        ),
        ("```console\n$ python docs/examples/no-such-example.py\n```\n", "an unknown command"),
        ("```console\n$ downhaul get https://dl.example.org/missing\n```\n", "ends with 8, not 0"),
        ("```console\n$ downhaul fly\n```\n", "ends with 2, not 0"),
        ("text\n\n    rm -rf build\n", "an unknown command"),
        ("```python ../acme.py\npass\n```\n", "no place for a file"),
        ("```console\n$ pip install -e ./acme\n```\n", "there is no distribution"),
        ("```console\n$ pytest ./acme\n```\n", "there is no distribution"),
        (f"{_ACME}```console\n$ pip install -e ./acme\n```\n", "No matching distribution found for no-such-library"),
        (f"{_ACME}```console\n$ pytest ./acme\n```\n", "1 failed"),
    ],
)
def test_page_that_is_wrong(page: str, complaint: str, tmp_path: Path) -> None:
    """What is wrong in a page is found: a runner that accepts everything proves nothing."""
    (tmp_path / "page.md").write_text(page, "utf-8")
    ended = run_page(str(tmp_path / "page.md"), tmp_path)
    assert complaint in ended.stderr
    assert ended.returncode or "Warning" in ended.stderr


def test_driver_of_the_page_keeps_the_contract(tmp_path: Path) -> None:
    """The driver of docs/write-a-driver.md, saved as a module, passes the contract that the page inherits."""
    code = [block.text for block in blocks(text_of("docs/write-a-driver.md")) if block.language == "python"]
    (tmp_path / "test_gopher.py").write_text("\n\n".join(part for part in code if "example.org" not in part), "utf-8")
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "."],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT / "core/src")},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout
    assert re.search(r"\b\d\d passed", ended.stdout)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented(hook: str) -> None:
    """Each hook has, in docs/hooks.md, a heading with its exact signature, and an example that is executed."""
    arguments = list(inspect.signature(getattr(Plugin, hook)).parameters)[1:]
    section = sections(text_of("docs/hooks.md"))[f"`{hook}({', '.join(arguments)})`"]
    examples = [block.text for block in blocks(section) if block.language == "python"]
    assert any(re.search(rf"@hookimpl.*\n +(async )?def {hook}\(", example) for example in examples)


def test_every_hook_there_is() -> None:
    """The hooks that are documented and tested here are all those of the specification."""
    marked = [name for name, value in vars(Plugin).items() if hasattr(value, "downhaul_spec")]
    assert marked == list(HOOKS)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_test(hook: str) -> None:
    """Somewhere in tests/ a test names the hook, in its name or in its docstring."""
    assert any(hook in name.split("_") or f"`{hook}`" in told for name, told in _tests())


def _tests() -> Iterator[tuple[str, str]]:
    """Return name and docstring of every test but those of this module."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        if path != ROOT / "tests/test_docs.py":
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                    yield node.name, ast.get_docstring(node) or ""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Internet]:
    """Run the servers that the pages speak of, in a directory of their own, trusted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with internet(tmp_path) as running:
        yield running


def example(hook: str, net: Internet) -> Plugin:
    """Return the plugin that the docstring of *hook* shows."""
    found = _LITERAL.findall(f"{inspect.getdoc(getattr(Plugin, hook))}\n")
    assert len(found) == 1, f"the docstring of {hook} has {len(found)} examples"
    names: dict[str, object] = {"contextlib": contextlib, **vars(downhaul)}
    before = set(names)
    exec(localized(textwrap.dedent(found[0]), net.addresses), names)
    (name,) = names.keys() - before - {"__builtins__"}
    plugin = names[name]
    assert isinstance(plugin, type)
    assert issubclass(plugin, Plugin)
    return plugin()


def fetch(net: Internet, url: str, plugin: Plugin) -> bytes:
    """Download *url*, of which the host is replaced, with *plugin*, in one round."""
    writer = BufferWriter()
    with Context(plugins=[plugin], retries=0) as context:
        context.download(localized(url, net.addresses), writer)()
    return writer.content()


def test_example_of_prepare(net: Internet) -> None:
    """The example of `prepare` sends a key to its origin."""
    plugin = example("prepare", net)
    assert fetch(net, "https://dl.example.org/keyed/hello.txt", plugin) == b"hello, world\n"


def test_example_of_fetch(net: Internet) -> None:
    """The example of `fetch` answers for what it has, and lets the drivers answer for the rest."""
    plugin = example("fetch", net)
    assert fetch(net, "https://host/a", plugin) == b"alpha"
    assert fetch(net, "https://dl.example.org/pub/hello.txt", plugin) == b"hello, world\n"


def test_example_of_validate(net: Internet) -> None:
    """The example of `validate` refuses a page, and nothing else."""
    plugin = example("validate", net)
    with pytest.raises(ValidationError, match="a page came"):
        fetch(net, "https://dl.example.org/pub/page.html", plugin)
    assert fetch(net, "https://dl.example.org/pub/hello.txt", plugin) == b"hello, world\n"


def test_example_of_error(net: Internet) -> None:
    """The example of `error` waits where too many have asked, and passes otherwise."""
    plugin = example("error", net)
    with Context(plugins=[plugin]):
        assert asyncio.run(plugin.error(None, TooManyRequests())) == Retry(after=60)  # type: ignore[arg-type]
        assert asyncio.run(plugin.error(None, NotFound())) is None  # type: ignore[arg-type]


def test_example_of_done(net: Internet) -> None:
    """The example of `done` counts the bytes of what succeeded."""
    plugin = example("done", net)
    fetch(net, "https://dl.example.org/pub/hello.txt", plugin)
    with pytest.raises(NotFound):
        fetch(net, "https://dl.example.org/pub/missing", plugin)
    assert vars(plugin) == {"bytes": 13}


def test_example_of_open(net: Internet, tmp_path: Path) -> None:
    """The example of `Plugin.open` holds a file for as long as the context lives."""
    fetch(net, "https://dl.example.org/pub/hello.txt", example("open", net))
    assert "hello.txt" in (tmp_path / "downloads.log").read_text()


@pytest.mark.parametrize("name", downhaul.__all__)
def test_every_public_name_is_mentioned(name: str) -> None:
    """Each name that downhaul exports stands, as code, in the documentation."""
    word = re.compile(rf"`[^`\n]*\b{name}\b[^`\n]*`")
    assert any(
        word.search(text_of(page)) or any(re.search(rf"\b{name}\b", block.text) for block in blocks(text_of(page)))
        for page in PAGES
    )


def test_tree_of_errors() -> None:
    """The tree of errors in docs/importers.md is the one in the code."""
    (tree,) = [block for block in blocks(text_of("docs/importers.md")) if block.lines[:1] == ["DownloadError"]]
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in tree.lines:
        name = re.search(r"\w+", line)
        assert name is not None
        depth = name.start() // 4
        path[depth:] = [name[0]]
        drawn[name[0]] = path[depth - 1] if depth else "Exception"
    exported = [value for value in vars(downhaul).values() if inspect.isclass(value)]
    errors = [each for each in exported if issubclass(each, DownloadError)]
    assert drawn == {each.__name__: each.__base__.__name__ for each in errors if each.__base__ is not None}


def test_exit_codes() -> None:
    """The exit codes in docs/command.md are those of the command."""
    codes = pytest.importorskip("downhaul.cli._codes", reason="the command is not installed: downhaul[cli]").Code
    table = re.findall(r"^\| (\d+) \|", text_of("docs/command.md"), re.MULTILINE)
    assert sorted(map(int, table)) == sorted(map(int, codes))


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(page: str) -> None:
    """Each link to a place in the repository names a file that is there, and a heading of it."""
    text = re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)
    for link in _LINK.findall(text):
        if "://" not in link:
            path, _, heading = unquote(link).partition("#")
            target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
            assert target.is_relative_to(ROOT), link
            assert target.exists(), link
            if heading:
                assert heading in map(anchor, sections(target.read_text("utf-8"))), link


@pytest.mark.parametrize("number", IMPORTER)
def test_each_use_case_is_shown_in_both_forms(number: int) -> None:
    """Each use case has its row and its section: the designs of 2017, then code for threads and code for asyncio."""
    text = text_of("docs/use-cases.md")
    (heading,) = [each for each in sections(text) if each.startswith(f"{number}. ")]
    assert re.search(rf"^\| {number} \| \[[^]]+\]\(#{anchor(heading)}\) ", text, re.MULTILINE)
    section = sections(text)[heading]
    before, _, asyncio_form = section.partition("\nasyncio")
    sketch, _, sync_form = before.partition("\nSynchronous")
    assert [block.lines[0].split()[0] for block in blocks(sketch) if block.language == "text"] == ["Jupiter"]
    assert "\nSaturn " in sketch
    called, awaited = (
        "".join(block.text for block in blocks(form) if block.language == "python")
        for form in (sync_form, asyncio_form)
    )
    assert called
    assert not re.search(r"\bawait\b", called)
    assert re.search(r"\bawait\b|\basync with\b", awaited)


@pytest.mark.parametrize("page", PAGES)
def test_tests_that_are_named_exist(page: str) -> None:
    """Each test that a page names, by path and function, is one that pytest would run."""
    for path, name in _TEST.findall(text_of(page)):
        found = [file for file in (ROOT / path, (ROOT / page).parent / path) if file.is_file()]
        assert found, path
        if name:
            functions = [node for node in ast.parse(found[0].read_text("utf-8")).body if isinstance(node, _FUNCTIONS)]
            assert name in [node.name for node in functions if node.name.startswith("test_")], f"{path}::{name}"


def test_each_row_about_pulpcore_names_a_test() -> None:
    """Each row of the tables of docs/pulpcore.md has what is done there, what is done here, and a test at least."""
    rows = [line.split(" | ") for line in text_of("docs/pulpcore.md").splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row[0].startswith("| in Pulp")]
    assert len(rows) >= 43
    for row in rows:
        assert len(row) == 3, row
        assert _TEST.search(row[2]), row


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/") and page != "docs/index.md"])
def test_index_names_every_page(page: str) -> None:
    """Whoever begins at docs/index.md finds every page."""
    assert f"({page.removeprefix('docs/')})" in text_of("docs/index.md")
