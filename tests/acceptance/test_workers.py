"""The same batch in one process and in several, against the real nginx: the same comes of it, and nothing is left."""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing.resource_tracker
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.acceptance.files import Files, counted_files
from tests.acceptance.leaks import Watch, asynchronous
from tests.core.elsewhere import children
from tests.core.forms import FORMS

from downhaul import Batch, BufferWriter, Context, Download, DownloadError, FileWriter, Plan, Result

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILES = 120
CONNECTIONS = 4
DIGESTS = ("md5", "sha1", "sha256", "sha512")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    """Files that nginx has, and the tracker of multiprocessing, which a program has one of."""
    multiprocessing.resource_tracker.ensure_running()
    with counted_files(tmp_path_factory.mktemp("files"), FILES) as files:
        yield files


def jobs(files: Files, target: Path) -> Iterator[Download]:
    """Yield jobs for all files, and for some that fail, each with an attachment that nobody could pickle."""
    for number, (name, url, expected) in enumerate(files.rows):
        options: dict[str, Any] = {"attachment": lambda name=name: name, "retries": 1}
        if number % 10 == 3:
            yield Download(f"{url}-missing?key=1", BufferWriter(), **options)
        if number % 10 == 5:
            yield Download(url, FileWriter(target / f"{name}-bad"), digests={"sha256": "0" * 64}, **options)
        if number % 10 == 7:
            yield Download(url, FileWriter(target / "no-such-directory" / name), **options)
        writer = BufferWriter() if number % 3 == 0 else FileWriter(target / name)
        digests: Any = DIGESTS if number % 2 else expected
        yield Download(f"{url}?key={number}", writer, digests=digests, **options)


def told(plan: Plan) -> object:
    """Return what came of a job."""
    if isinstance(plan.error, DownloadError):
        error, history = plan.error, plan.error.history
        assert error.attachment is plan.download.attachment
        attempts = [(each.source, each.round, each.kept, type(each.error), str(each.error)) for each in history]
        return type(error), str(error), error.url, error.source, attempts
    result = plan.result()
    assert result.attachment is plan.download.attachment
    content = plan.download.writer.content() if isinstance(plan.download.writer, BufferWriter) else None
    fields = {name: value for name, value in result.headers.items() if name != "Date"}
    return replace(result, attachment=content, headers=fields)  # type: ignore[arg-type]


def run(form: str, files: Files, target: Path, workers: int) -> dict[str, object]:
    """Run the batch, watched; return what came of each job by its URL and place."""
    plans: list[Plan] = []

    async def asynchronously() -> None:
        async with Context(connections_per_origin=CONNECTIONS) as context:
            source = watch.closing(asynchronous(jobs(files, target)))
            async with Batch(source, context=watch.using(context), workers=workers) as batch:
                async for plan in batch():
                    plans.append(plan)  # noqa: PERF401 - it is a thing of its own what a comprehension leaves

    target.mkdir()
    before = children().keys()
    watch = Watch(target, servers={"nginx": files.server.port})
    if form == "async":
        asyncio.run(asynchronously())
    else:
        with (
            Context(connections_per_origin=CONNECTIONS) as context,
            Batch(watch.closing(jobs(files, target)), context=watch.using(context), workers=workers) as batch,
        ):
            plans.extend(batch())
    watch.check()
    assert children().keys() == before
    # What failed by its digest was asked for twice, what cannot be written never.
    files.check_connections(most=CONNECTIONS, requests=FILES + FILES // 10 * 3)
    return {f"{plan.download.url} {plan.download.writer!r}".split(" at 0x")[0]: told(plan) for plan in plans}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_comes_of_it(form: str, files: Files, tmp_path: Path) -> None:
    """Files, buffers, digests, failures and attachments are the same; limits hold, and nothing is left."""
    target = tmp_path / "files"
    expected = run(form, files, target, 1)
    contents = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in target.iterdir()}
    shutil.rmtree(target)
    assert run(form, files, target, 3) == expected
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in target.iterdir()} == contents
    results = [each for each in expected.values() if isinstance(each, Result)]
    assert (len(expected), len(results)) == (FILES + FILES // 10 * 3, FILES)
    assert len(contents) == FILES - FILES // 3
