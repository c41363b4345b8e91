"""Recorded conversations of real servers: the driver delivers the same bytes as a reference client, or refuses."""

from __future__ import annotations

import asyncio
import collections
import gzip
import hashlib
import importlib.util
import json
import os
from pathlib import Path

import pytest

from downhaul import DownloadError, Redirected, Request, Settings, Timeout
from downhaul_http import HttpDriver

CASES = Path(__file__).resolve().parents[4] / "shared" / "cases"

if not (CASES / "wire.json.gz").exists() and not os.environ.get("CI"):
    pytest.skip("../shared/cases is not there: a checkout without the shared data", allow_module_level=True)

# What the parser of the client library refuses, or we do, though most clients deliver it: two transfer codings, and
# Content-Length along with Transfer-Encoding.
STRICT = {365, 1482, 1493}


@pytest.fixture(scope="module")
def harness():
    """What serves the conversations."""
    spec = importlib.util.spec_from_file_location("wire_harness", CASES / "harness.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cases():
    """The conversations."""
    return json.loads(gzip.decompress((CASES / "wire.json.gz").read_bytes()))


def verdict(expected, got, fixture):
    """Judge the bytes that were *got* (None: refused) by what was *expected*."""
    kind = expected[0]
    if kind == "refuse":
        return "refused" if got is None else "accepted"
    if kind == "any":
        return "any"
    if got is None:
        return "must deliver" if kind == "deliver" and expected[2] else "refused"
    same = got == fixture.sub(expected[1]) if kind == "deliver" else hashlib.sha256(got).hexdigest() == expected[1]
    return "same" if same else "different"


@pytest.mark.parametrize(
    ("part", "at_least", "accepted"), [("http", 23, set()), ("replies", 255, {"35d7b2ed91225f79"}), ("extra", 0, set())]
)
async def test_recorded_conversations(part, at_least, accepted, harness, cases):
    """No byte differs silently, nothing hangs, nothing but errors of the tree comes out, hardly a file is refused."""
    settings = Settings(timeout=Timeout(connect=2, read=2)).complete()
    servers = harness.Servers()
    driver = HttpDriver()
    gate = asyncio.Semaphore(24)
    found = collections.defaultdict(set)

    async def one(number, case, headers, url, expected):
        async with gate:
            fixture = await asyncio.to_thread(servers.start, case)
            try:
                request = Request(fixture.sub(url.encode()).decode(), headers=tuple(map(tuple, headers)))
                got = None
                try:
                    async with asyncio.timeout(30), driver.open(request, settings) as payload:
                        got = b"".join([block async for block in payload.body])
                except (DownloadError, Redirected):
                    got = None
                except TimeoutError:
                    found["hang"].add(number)
                    return
                found[verdict(expected, got, fixture)].add(number)
            finally:
                await asyncio.to_thread(servers.stop, fixture)

    try:
        await asyncio.gather(*(one(*job) for job in harness.jobs_of(cases, part)))
    finally:
        await driver.aclose()
        await asyncio.to_thread(stop, servers)
    print(f"{part}: { {kind: len(numbers) for kind, numbers in sorted(found.items())} }")  # noqa: T201 - the score is of interest
    assert found["different"] == set()
    assert found["hang"] == set()
    assert found["accepted"] <= accepted
    assert found["must deliver"] <= STRICT
    assert len(found["same"]) >= at_least


def stop(servers):
    """End the harness's loop, whose thread would otherwise outlive the test."""

    async def finish():
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)

    asyncio.run_coroutine_threadsafe(finish(), servers.loop).result(20)
    servers.loop.call_soon_threadsafe(servers.loop.stop)
    servers.t.join(20)
    servers.loop.close()
    servers._hold.close()
