"""A thousand files through six mirrors, of which five are bad, each in its own way; large files; hostile metalinks."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import pytest
import trustme
from tests.acceptance.use_cases import importer
from tests.servers.http import http_server
from tests.servers.nginx import nginx
from tests.servers.six_mirrors import (
    AWAY,
    BAD,
    BUSY,
    CORRUPT,
    DEAD,
    FTP,
    GOOD,
    MISSING,
    SIX,
    SLOW,
    TRUNCATING,
    six_mirrors,
)

from downhaul import (
    TLS,
    Batch,
    ConnectError,
    Context,
    DigestMismatch,
    Download,
    DownloadError,
    FileWriter,
    LowSpeed,
    NotFound,
    PolicyError,
    PreparationError,
    ServerError,
    SourcesExhausted,
    TimeoutExceeded,
    Truncated,
)
from downhaul.plugins import Metalink, MirrorList

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.servers.six_mirrors import Mirrors

    from downhaul import Result

FILES: Final = 1000
CONCURRENCY: Final = 10
LOW_SPEED, SOON = LowSpeed(2_000, 2), LowSpeed(1_000, 1)
LARGE: Final = 8 * 1024 * 1024
ERRORS: Final = {
    DEAD: ConnectError, MISSING: NotFound, SLOW: TimeoutExceeded, CORRUPT: DigestMismatch, TRUNCATING: Truncated,
    BUSY: ServerError,
}  # fmt: skip
FORMS: Final = [
    pytest.param("sync", marks=importer(10, "sync")), pytest.param("asyncio", marks=importer(10, "asyncio")),
]  # fmt: skip


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """A thousand files of 4 to 32 KiB."""
    chance = random.Random(6)
    return {f"file-{number:03}": chance.randbytes(chance.randint(4096, 32768)) for number in range(FILES)}


@pytest.fixture(scope="module")
def large() -> bytes:
    """The bytes of a file of 8 MiB."""
    return random.Random(7).randbytes(LARGE)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Give an empty directory to download to."""
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def jobs(mirrors: Mirrors, files: Mapping[str, bytes], target: Path) -> Iterator[Download]:
    """Yield the downloads of all files, from where nobody can be asked."""
    for name, content in files.items():
        digest = {"sha256": hashlib.sha256(content).hexdigest()}
        yield Download(mirrors.prefix + name, FileWriter(target / name), digests=digest, attachment=name)


def in_a_batch(form: str, downloads: Iterator[Download], *plugins: object) -> list[Result]:
    """Run *downloads* as a batch."""
    options: dict[str, Any] = {"concurrency": CONCURRENCY, "backlog": 5 * CONCURRENCY}

    async def work() -> list[Result]:
        async with (
            Context(plugins=plugins) as context,
            Batch(downloads, context=context, **options) as batch,
        ):
            return [plan.result() async for plan in batch()]

    if form == "asyncio":
        return asyncio.run(work())
    with Context(plugins=plugins) as context, Batch(downloads, context=context, **options) as batch:
        return [plan.result() for plan in batch()]


def one_by_one(form: str, downloads: Iterator[Download], *plugins: object) -> list[Result]:
    """Run *downloads* each by itself, several at a time: from threads, or from tasks."""

    async def work() -> list[Result]:
        turns = asyncio.Semaphore(CONCURRENCY)

        async def one(download: Download) -> Result:
            async with turns:
                download.context = context
                return await download.run()

        async with Context(plugins=plugins) as context:
            return await asyncio.gather(*map(one, downloads))

    if form == "asyncio":
        return asyncio.run(work())
    with Context(plugins=plugins) as context, ThreadPoolExecutor(CONCURRENCY) as threads:

        def one(download: Download) -> Result:
            download.context = context
            return download()

        return list(threads.map(one, downloads))


def check(mirrors: Mirrors, results: list[Result], files: Mapping[str, bytes], target: Path) -> Counter[str]:
    """All files are right, and each failure is what the mirror that it is told of does; return how many each had."""
    assert {result.attachment for result in results} == set(files) == {path.name for path in target.iterdir()}
    for name, content in files.items():
        assert (target / name).read_bytes() == content
    failures: Counter[str] = Counter()
    for result in results:
        assert result.digests["sha256"] == hashlib.sha256(files[result.attachment]).hexdigest()
        for each in result.history:
            kind = mirrors.kind(each.source)
            failures[kind] += 1
            assert each.source == mirrors.url(kind, result.attachment)
            assert type(each.error) is ERRORS[kind], (kind, each)
            assert each.kept > 0 or kind not in {SLOW, TRUNCATING}
            if kind == SLOW:
                assert each.error.phase == "low speed"
    return failures


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", [in_a_batch, one_by_one])
def test_a_thousand_files(way, form, files, tmp_path, target) -> None:
    """Every file comes, right, from the good mirror; each bad one is tried, blamed for what it did, and left alone."""
    with six_mirrors(tmp_path / "mirrors", files) as mirrors:
        plugin = MirrorList(mirrors.listed(*SIX), replaces=mirrors.prefix, low_speed=LOW_SPEED)
        results = way(form, jobs(mirrors, files, target), plugin)
        failures = check(mirrors, results, files, target)
        assert {mirrors.kind(result.source) for result in results} == {GOOD}
        assert set(failures) == set(BAD)
        for kind in BAD:
            assert failures[kind] <= FILES // 10, failures
        assert len(mirrors.asked(GOOD)) == FILES
        assert len(mirrors.asked(SLOW)) == failures[SLOW]
        assert len(mirrors.asked(TRUNCATING)) == failures[TRUNCATING]


@pytest.mark.parametrize("form", FORMS)
def test_a_mirror_that_is_busy(form, files, tmp_path, target) -> None:
    """A good mirror that takes two at a time is not given up for ever, and the other ones carry what it does not."""
    few = dict(list(files.items())[:300])
    with six_mirrors(tmp_path / "mirrors", few, BUSY) as mirrors:
        plugin = MirrorList(mirrors.listed(BUSY, GOOD), replaces=mirrors.prefix)
        results = in_a_batch(form, jobs(mirrors, few, target), plugin)
        failures = check(mirrors, results, few, target)
        assert set(failures) <= {BUSY}
        assert {mirrors.kind(result.source) for result in results} == {BUSY, GOOD}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("right", [AWAY, FTP])
def test_the_right_one_is_elsewhere(right, form, files, tmp_path, target) -> None:
    """The one that is right may redirect to another host, or be a server of FTP."""
    few = dict(list(files.items())[:100])
    kinds = (DEAD, MISSING, CORRUPT, TRUNCATING, right)
    with six_mirrors(tmp_path / "mirrors", few, right) as mirrors:
        plugin = MirrorList(mirrors.listed(*kinds), replaces=mirrors.prefix, low_speed=LOW_SPEED)
        results = in_a_batch(form, jobs(mirrors, few, target), plugin)
        failures = check(mirrors, results, few, target)
        assert {mirrors.kind(result.source) for result in results} == {GOOD if right == AWAY else FTP}
        assert set(failures) == set(kinds) - {right}


@pytest.mark.parametrize("form", FORMS)
def test_a_large_file_is_continued_elsewhere(form, large, tmp_path, target) -> None:
    """What the truncating mirror sent is kept: the good one is asked for the rest, from that very offset."""
    with six_mirrors(tmp_path / "mirrors", {"large": large}) as mirrors:
        plugin = MirrorList([mirrors.url(TRUNCATING), mirrors.url(GOOD)], replaces=mirrors.prefix)
        [result] = in_a_batch(form, jobs(mirrors, {"large": large}, target), plugin)
        assert check(mirrors, [result], {"large": large}, target) == {TRUNCATING: 1}
        [failed] = result.history
        assert failed.kept == LARGE // 2
        assert mirrors.asked(GOOD) == [f"/pub/large|bytes={LARGE // 2}-"]


@pytest.mark.parametrize("form", FORMS)
def test_a_large_file_is_continued_by_another_protocol(form, large, tmp_path, target) -> None:
    """A file that began over HTTP is continued by FTP, from the offset where it broke off."""
    with six_mirrors(tmp_path / "mirrors", {"large": large}, FTP) as mirrors:
        plugin = MirrorList([mirrors.url(TRUNCATING), mirrors.url(FTP)], replaces=mirrors.prefix)
        [result] = in_a_batch(form, jobs(mirrors, {"large": large}, target), plugin)
        assert check(mirrors, [result], {"large": large}, target) == {TRUNCATING: 1}
        assert mirrors.kind(result.source) == FTP
        assert f'"REST {LARGE // 2}"' in mirrors.servers[FTP].log()


@pytest.mark.parametrize("form", FORMS)
def test_all_are_bad(form, files, tmp_path, target) -> None:
    """Where the good mirror is busy for ever, the error lists all six, each with what it did."""
    name, content = next(iter(files.items()))
    with six_mirrors(tmp_path / "mirrors", {name: content}) as mirrors, http_server(_always_busy) as busy:
        mirrors.bases[BUSY] = busy.url("/pub/")
        kinds = (*BAD, BUSY)
        plugin = MirrorList(mirrors.listed(*kinds), replaces=mirrors.prefix, low_speed=LOW_SPEED)
        download = next(jobs(mirrors, {name: content}, target))
        error = failure(form, download, plugins=[plugin], retries=0, low_speed=SOON)
        assert isinstance(error, SourcesExhausted)
        assert {mirrors.kind(each.source): type(each) for each in error.errors} == {
            kind: ERRORS[kind] for kind in kinds
        }
        assert sorted(each.source for each in error.history) == sorted(mirrors.url(kind, name) for kind in kinds)
        for kind in kinds:
            assert mirrors.url(kind, name) in str(error)
        assert list(target.iterdir()) == []


def failure(form: str, download: Download, **options: Any) -> DownloadError:
    """Run *download*, which fails, in a context with *options*; return why."""

    async def work() -> None:
        async with Context(**options) as context:
            download.context = context
            await download.run()

    with pytest.raises(DownloadError) as caught:
        if form == "asyncio":
            asyncio.run(work())
        else:
            with Context(**options) as context:
                download.context = context
                download()
    return caught.value


async def _always_busy(exchange: Any) -> None:
    await exchange.respond(503)


# -- metalinks -----------------------------------------------------------------------------------------------------


def metalink4(name: str, content: bytes, urls: list[str]) -> str:
    """Return a metalink of RFC 5854 of one file."""
    listed = "".join(f'<url priority="{number}">{url}</url>' for number, url in enumerate(urls, 1))
    return (
        '<?xml version="1.0" encoding="UTF-8"?><metalink xmlns="urn:ietf:params:xml:ns:metalink">'
        f'<file name="{name}"><size>{len(content)}</size>'
        f'<hash type="sha-256">{hashlib.sha256(content).hexdigest()}</hash>{listed}</file></metalink>'
    )


def metalink3(name: str, content: bytes, urls: list[str]) -> str:
    """Return a metalink of version 3 of one file."""
    listed = "".join(
        f'<url type="{url.partition(":")[0]}" preference="{100 - number}">{url}</url>'
        for number, url in enumerate(urls)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><metalink version="3.0" xmlns="http://www.metalinker.org/">'
        f'<files><file name="{name}"><size>{len(content)}</size><verification>'
        f'<hash type="sha256">{hashlib.sha256(content).hexdigest()}</hash></verification>'
        f"<resources>{listed}</resources></file></files></metalink>"
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("write", "suffix"), [(metalink4, "meta4"), (metalink3, "metalink")])
def test_metalinks(write, suffix, form, files, tmp_path, target) -> None:
    """Metalinks of both versions name the six mirrors, and the digest by which the corrupt one is known."""
    few = dict(list(files.items())[:50])
    with six_mirrors(tmp_path / "mirrors", few) as mirrors:
        downloads = []
        for name, content in few.items():
            text = write(name, content, [mirrors.url(kind, name) for kind in SIX])
            url = mirrors.publish(f"{name}.{suffix}", text)
            downloads.append(
                Download(
                    url,
                    FileWriter(target / name),
                    digests=["sha256"],
                    plugins=[Metalink(low_speed=SOON)],
                    attachment=name,
                )
            )
        results = in_a_batch(form, iter(downloads))
        failures = check(mirrors, results, few, target)
        assert set(failures) == set(BAD)
        assert {mirrors.kind(result.source) for result in results} == {GOOD}


_LEVELS: Final = 12
_ENTITIES: Final = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, _LEVELS))
BOMB: Final = f'<!DOCTYPE metalink [<!ENTITY a0 "ha">{_ENTITIES}]>'
EXTERNAL: Final = '<!DOCTYPE metalink [<!ENTITY a11 SYSTEM "{outside}">]>'
REMOTE: Final = '<!DOCTYPE metalink SYSTEM "{outside}">'


@pytest.fixture
def good(files, tmp_path) -> Iterator[Mirrors]:
    """Give mirrors with one file, by the name of ``file``."""
    with six_mirrors(tmp_path / "mirrors", {"file": files["file-000"]}) as mirrors:
        yield mirrors


def get(url: str, target: Path, **options: Any) -> Result:
    """Download what the metalink at *url* names to a file in *target*."""
    with Context(retries=0, **options) as context:
        download = Download(url, FileWriter(target / "file"), digests=["sha256"], plugins=[Metalink()])
        download.context = context
        return download()


@pytest.mark.parametrize("doctype", [BOMB, EXTERNAL, REMOTE], ids=["bomb", "external", "remote"])
def test_a_metalink_with_entities_is_refused(doctype, good, files, target) -> None:
    """What would grow to a hundred gigabytes, or ask somebody, is refused before it does either."""
    content = files["file-000"]
    text = metalink4("file", content, [good.url(GOOD, "file")]).replace('name="file"', 'name="&a11;"')
    text = text.replace("<metalink ", doctype.replace("{outside}", good.url(MISSING, "outside")) + "<metalink ")
    since = time.monotonic()
    with pytest.raises(PreparationError):
        get(good.publish("bomb.meta4", text), target)
    assert time.monotonic() - since < 5
    assert list(target.iterdir()) == []
    assert good.asked(MISSING) == good.asked(GOOD) == []


@pytest.mark.parametrize("write", [metalink4, metalink3])
@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "{outside}/evil", "..", "", "~/evil", "evil&#10;", "C:\\evil", "%2e%2e/evil"]
)
def test_names_in_metalinks_are_no_paths(name, write, good, files, target, tmp_path, monkeypatch) -> None:
    """Whatever a metalink calls a file, its bytes go where the writer says."""
    monkeypatch.chdir(target)
    monkeypatch.setenv("HOME", str(tmp_path))
    before = set(tmp_path.rglob("*"))
    text = write(name.replace("{outside}", str(tmp_path)), files["file-000"], [good.url(GOOD, "file")])
    get(good.publish("names.meta4", text), target)
    assert (target / "file").read_bytes() == files["file-000"]
    assert set(tmp_path.rglob("*")) - before == {target / "file", tmp_path / "mirrors/lists/names.meta4"}


@pytest.mark.parametrize("number", [10_000, 100_000])
def test_metalinks_of_very_many_urls(number, good, files, target) -> None:
    """As many URLs as somebody likes to write cost little time: the first of them is right, or the list is refused."""
    urls = [good.url(GOOD, "file"), *(f"http://h.invalid/{each}" for each in range(number))]
    url = good.publish("many.meta4", metalink4("file", files["file-000"], urls))
    since = time.monotonic()
    try:
        result = get(url, target)
    except PreparationError:
        assert list(target.iterdir()) == []
    else:
        assert good.kind(result.source) == GOOD
    assert time.monotonic() - since < 10


@pytest.mark.parametrize("write", [metalink4, metalink3])
def test_metalinks_do_not_lead_to_other_schemes(write, good, files, target, tmp_path) -> None:
    """A file of this machine, even with the right bytes, a script and such are passed over, or refused alone."""
    content = files["file-000"]
    (tmp_path / "secret").write_bytes(content)
    bad = [(tmp_path / "secret").as_uri(), "javascript:alert(1)", "data:,x", "gopher://127.0.0.1:1/file"]
    result = get(good.publish("schemes.meta4", write("file", content, [*bad, good.url(GOOD, "file")])), target)
    assert good.kind(result.source) == GOOD
    assert {type(each.error) for each in result.history} <= {PolicyError}, result.history
    (target / "file").unlink()
    with pytest.raises((PreparationError, PolicyError, SourcesExhausted)):
        get(good.publish("bad.meta4", write("file", content, bad)), target)
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("write", [metalink4, metalink3])
def test_a_metalink_by_https_does_not_give_up_encryption(write, good, files, target, tmp_path) -> None:
    """A metalink that came by https names a mirror of http first: nobody asks that one."""
    authority, served = trustme.CA(), tmp_path / "served"
    served.mkdir()
    (served / "file").write_bytes(files["file-000"])
    with nginx(served, tls=authority.issue_cert("localhost")) as safe:
        text = write("file", files["file-000"], [good.url(GOOD, "file"), safe.url("/file")])
        (served / "file.meta4").write_text(text)
        tls = TLS(ca_certificate=authority.cert_pem.bytes().decode())
        assert get(safe.url("/file.meta4"), target, tls=tls).source == safe.url("/file")
        (target / "file").unlink()
        (served / "plain.meta4").write_text(write("file", files["file-000"], [good.url(GOOD, "file")]))
        with pytest.raises(PolicyError):
            get(safe.url("/plain.meta4"), target, tls=tls)
        assert list(target.iterdir()) == []
    assert good.asked(GOOD) == []


@pytest.mark.parametrize("write", [metalink4, metalink3])
def test_a_metalink_that_names_nobody_good(write, good, files, target) -> None:
    """Where every mirror of a metalink is bad, the error tells of each, and no file is there."""
    url = good.publish(
        "bad.meta4", write("file", files["file-000"], [good.url(kind, "file") for kind in (DEAD, CORRUPT)])
    )
    with pytest.raises(SourcesExhausted) as caught:
        get(url, target)
    assert [type(each) for each in caught.value.errors] == [ConnectError, DigestMismatch]
    assert list(target.iterdir()) == []
