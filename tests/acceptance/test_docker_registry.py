"""A manifest and 200 blobs from the real docker-registry, with tokens that a server of its own signs."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import random
import time
import traceback
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest
from tests.acceptance.use_cases import importer
from tests.servers.nginx import nginx
from tests.servers.program import free_port
from tests.servers.registry import MANIFEST, registry
from tests.servers.token_server import SERVICE, Lifetime, token_server

from downhaul import (
    AccessDenied,
    Batch,
    BufferWriter,
    Context,
    Download,
    DownloadError,
    FileWriter,
    PolicyError,
    PreparationError,
)
from downhaul.plugins import MirrorList, RegistryToken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.servers.registry import Image, Registry
    from tests.servers.token_server import TokenServer

    from downhaul import Plan

BLOBS: Final = 200
CONCURRENCY, BACKLOG = 10, 20
NAME, PASSWORD = "elmer", "kill-the-wabbit"
HASHED: Final = "$2b$04$h7phAIHJ6NTQVKyqPCoG6uabOzoLO5C2VJ7iYF87PnwbRcDWBqwsG"  # by bcrypt, with little effort
PUBLIC, PRIVATE = "library/files", "private/files"
FORMS = [pytest.param("sync", marks=importer(9, "sync")), pytest.param("asyncio", marks=importer(9, "asyncio"))]
_PATIENCE: Final = 20.0
_LOG: Final = "log_format told '$status|$request_uri|$http_authorization';"


@pytest.fixture(scope="module")
def blobs() -> list[bytes]:
    """Blobs of 1 to 64 KiB."""
    chance = random.Random(11)
    return [chance.randbytes(chance.randint(1024, 65536)) for _ in range(BLOBS)]


@pytest.fixture(scope="module")
def few(blobs) -> list[bytes]:
    """Two of them, where the manifest alone is asked for."""
    return blobs[:2]


@dataclass
class Hub:
    """A registry with a public image and a private one, and its token server."""

    registry: Registry
    tokens: TokenServer
    public: Image
    private: Image
    target: Path

    def named(self, password: str = PASSWORD, **options: Any) -> RegistryToken:
        """Return the plugin for who has a name, which is for this token server."""
        return RegistryToken(NAME, password, realm=self.tokens.realm, **options)

    def check(self, image: Image) -> None:
        """Everything of *image* is there, and right."""
        assert {path.name for path in self.target.iterdir()} == set(image.blobs)
        for digest, content in image.blobs.items():
            assert (self.target / digest).read_bytes() == content

    def jobs(self, image: Image, manifest: bytes) -> Iterator[Download]:
        """Yield the downloads of what *manifest* names."""
        named = json.loads(manifest)
        for each in (named["config"], *named["layers"]):
            digest = each["digest"].removeprefix("sha256:")
            url = self.registry.blob_url(image.repository, digest)
            yield Download(url, FileWriter(self.target / digest), digests={"sha256": digest}, attachment=digest)

    def manifest_of(self, image: Image, **options: Any) -> tuple[Download, BufferWriter]:
        """Return the download of the manifest of *image*, and where it goes."""
        writer = BufferWriter()
        return Download(
            self.registry.manifest_url(image),
            writer,
            digests={"sha256": image.digest},
            headers={"Accept": MANIFEST},
            **options,
        ), writer

    def wait_for_denial(self) -> None:
        """Wait until the registry refuses the first token."""
        headers = {"Authorization": f"Bearer {self.tokens.issued[0]}", "Accept": MANIFEST}
        connection = http.client.HTTPConnection("127.0.0.1", self.registry.port, timeout=_PATIENCE)
        with contextlib.closing(connection):
            end = time.monotonic() + _PATIENCE
            while time.monotonic() < end:
                connection.request("GET", f"/v2/{PUBLIC}/manifests/{self.public.tag}", headers=headers)
                with connection.getresponse() as response:
                    response.read()
                    if response.status == 401:
                        return
                time.sleep(0.02)
        raise TimeoutError("the token does not expire")


@contextmanager
def hub(directory: Path, blobs: list[bytes], *, strict: bool = False, **options: Any) -> Iterator[Hub]:
    """Run both servers, with everything in *directory*; *options* are the registry's."""
    storage, target = directory / "storage", directory / "target"
    for each in (storage, target):
        each.mkdir(exist_ok=True)
    with (
        token_server({NAME: PASSWORD}, {PUBLIC}, strict=strict) as tokens,
        registry(storage, tokens, **options) as running,
    ):
        yield Hub(running, tokens, running.add(PUBLIC, blobs), running.add(PRIVATE, blobs), target)


def pull(
    form: str, hub: Hub, image: Image, plugin: RegistryToken, between: Callable[[int], None] = lambda _: None
) -> list[Plan]:
    """Fetch the manifest of *image*, then all that it names; call *between* with the number of each plan, from 1."""
    download, writer = hub.manifest_of(image)
    options: dict[str, Any] = {"concurrency": CONCURRENCY, "backlog": BACKLOG}
    plans: list[Plan] = []

    async def work() -> None:
        async with Context(plugins=[plugin]) as context:
            download.context = context
            await download.run()
            async with Batch(hub.jobs(image, writer.content()), context=context, **options) as batch:
                async for plan in batch():
                    plans.append(plan)
                    await asyncio.to_thread(between, len(plans))

    if form == "asyncio":
        asyncio.run(work())
        return plans
    with Context(plugins=[plugin]) as context:
        download.context = context
        download()
        with Batch(hub.jobs(image, writer.content()), context=context, **options) as batch:
            for plan in batch():
                plans.append(plan)
                between(len(plans))
    return plans


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("user", ["", NAME])
def test_one_token_is_enough(user, form, blobs, tmp_path) -> None:
    """An image of 200 blobs takes one refusal and one token, for who has a name and for who has none."""
    with hub(tmp_path, blobs) as there:
        plugin = there.named() if user else RegistryToken()
        image = there.private if user else there.public
        for plan in pull(form, there, image, plugin):
            assert plan.result().attempts == 1
        there.check(image)
        assert len(image.blobs) == BLOBS + 1  # with the configuration
        [asked] = there.tokens.asked
        assert (asked.user, asked.service, asked.status) == (user, SERVICE, 200)
        assert asked.scopes == (f"repository:{image.repository}:pull",)
        assert there.registry.denied() == 1


@pytest.mark.parametrize("form", FORMS)
def test_many_that_begin_at_once_ask_for_one_token(form, blobs, tmp_path) -> None:
    """However many meet the first refusal at the same time, one token is asked for."""
    with hub(tmp_path, blobs[:60]) as there:
        for plan in plans_of(form, there.jobs(there.public, there.public.manifest), (RegistryToken(),), concurrency=50):
            plan.result()
        there.check(there.public)
        assert len(there.tokens.asked) == 1
        assert 1 <= there.registry.denied() <= 50


@pytest.mark.parametrize(("form", "announced"), [("sync", 300), ("asyncio", None)])
def test_a_token_that_expires_is_renewed_once(form, announced, blobs, tmp_path) -> None:
    """The registry refuses the token in the middle of a batch: exactly one more is asked for, and everything comes."""
    with hub(tmp_path, blobs) as there:
        there.tokens.lifetimes = [Lifetime(accepted=3, announced=announced), Lifetime()]

        def expire(number: int) -> None:
            if number == BLOBS // 4:
                there.wait_for_denial()

        results = [plan.result() for plan in pull(form, there, there.public, RegistryToken(), expire)]
        there.check(there.public)
        assert len(there.tokens.asked) == len(there.tokens.issued) == 2
        again = [result for result in results if result.attempts > 1]
        assert 1 <= len(again) <= BACKLOG
        for result in again:
            assert [(type(each.error), each.error.code) for each in result.history] == [(AccessDenied, 401)]
        assert there.registry.denied() == 1 + 1 + len(again)  # before the first token; our own look; those


@pytest.mark.parametrize("form", FORMS)
def test_the_storage_sees_no_token(form, blobs, tmp_path) -> None:
    """The registry redirects to its storage: no token goes there; the password goes to the token server alone."""
    storage, empty, target, some = tmp_path / "storage", tmp_path / "empty", tmp_path / "target", blobs[:60]
    for each in (storage, empty, target):
        each.mkdir()
    stored, fronted = tmp_path / "stored.log", tmp_path / "fronted.log"
    with (
        nginx(storage, http=f"{_LOG} access_log {stored} told;") as shelf,
        hub(tmp_path, some, redirect=shelf.url("")) as there,
        # In front of the registry, which takes no note of what it is sent.
        nginx(
            empty,
            http=f"{_LOG} access_log {fronted} told;",
            server=f"location / {{ proxy_pass {there.registry.url('')}; proxy_set_header Host $http_host; }}",
        ) as front,
    ):
        there.registry.port = front.port
        for plan in pull(form, there, there.private, there.named()):
            assert plan.result().source.startswith(shelf.url("/"))
        there.check(there.private)
        assert there.registry.redirected() == len(some) + 1
        [token], [asked] = there.tokens.issued, there.tokens.asked
        assert asked.authorization.startswith("Basic ")
    at_storage = [line.split("|") for line in stored.read_text().splitlines()]
    assert len(at_storage) == len(some) + 1
    assert {authorization for *_, authorization in at_storage} == {"-"}
    at_front = [line.split("|")[2] for line in fronted.read_text().splitlines()]
    assert at_front[0] == "-"
    assert set(at_front[1:]) == {f"Bearer {token}"}


@pytest.mark.parametrize("form", FORMS)
def test_storage_of_the_same_host_sees_no_token(form, blobs, tmp_path) -> None:
    """Where blobs are on the registry's own host, they are behind another path: that is not the repository's either."""
    storage, log, port, some = tmp_path / "storage", tmp_path / "front.log", free_port(), blobs[:30]
    storage.mkdir()
    passing = f"location /v2/ {{ proxy_pass http://127.0.0.1:{port}; proxy_set_header Host $http_host; }}"
    with (
        nginx(storage, http=f"{_LOG} access_log {log} told;", server=passing) as front,
        hub(tmp_path, some, redirect=front.url(""), port=port) as there,
    ):
        there.registry.port = front.port
        for plan in pull(form, there, there.private, there.named()):
            assert plan.result().source.startswith(front.url("/docker/registry/"))
        there.check(there.private)
        [token] = there.tokens.issued
    rows = [line.split("|") for line in log.read_text().splitlines()]
    stored = [authorization for _, target, authorization in rows if target.startswith("/docker/")]
    assert stored == ["-"] * (len(some) + 1)
    assert {authorization for _, target, authorization in rows if target.startswith("/v2/")} == {"-", f"Bearer {token}"}


@pytest.mark.parametrize("form", FORMS)
def test_a_mirror_of_the_registry_sees_no_token(form, blobs, tmp_path) -> None:
    """With a list of mirrors, of which one has nothing and one is the registry, the token is for that alone."""
    empty, log, some = tmp_path / "empty", tmp_path / "mirror.log", blobs[:30]
    empty.mkdir()
    with (
        nginx(empty, http=f"{_LOG} access_log {log} told;") as mirror,
        hub(tmp_path, some) as there,
    ):
        prefix = f"http://registry.example.org/v2/{PRIVATE}/blobs/"
        urls = [mirror.url(f"/v2/{PRIVATE}/blobs/"), there.registry.url(f"/v2/{PRIVATE}/blobs/")]
        plugins = (MirrorList(urls, replaces=prefix), there.named(within=there.registry.url("/v2/")))
        jobs = (
            Download(f"{prefix}sha256:{digest}", FileWriter(there.target / digest), digests={"sha256": digest})
            for digest in there.private.blobs
        )
        for plan in plans_of(form, jobs, plugins):
            assert plan.result().source.startswith(there.registry.url("/v2/"))
            codes = {each.error.code for each in plan.result().history if each.source.startswith(mirror.url("/"))}
            assert codes <= {404}
        assert {path.name for path in there.target.iterdir()} == set(there.private.blobs)
        assert len(there.tokens.asked) == 1
    at_mirror = [line.split("|")[2] for line in log.read_text().splitlines()]
    assert at_mirror
    assert set(at_mirror) == {"-"}


def plans_of(
    form: str, downloads: Iterator[Download], plugins: tuple[Any, ...], concurrency: int = CONCURRENCY
) -> list[Plan]:
    """Return all plans of a batch of *downloads*."""

    async def work() -> list[Plan]:
        async with (
            Context(plugins=plugins) as context,
            Batch(downloads, context=context, concurrency=concurrency) as batch,
        ):
            return [plan async for plan in batch()]

    if form == "asyncio":
        return asyncio.run(work())
    with Context(plugins=plugins) as context, Batch(downloads, context=context, concurrency=concurrency) as batch:
        return list(batch())


def test_a_password_that_is_wrong_is_no_loop(few, tmp_path) -> None:
    """The token server refuses the name: the download fails at once with that, and tells no password."""
    with hub(tmp_path, few) as there, Context(plugins=[there.named("fudd-was-here")]) as context:
        download, _ = there.manifest_of(there.private)
        download.context = context
        with pytest.raises(DownloadError) as caught:
            download()
        assert refusal(caught.value).code == 401
        assert len(there.tokens.asked) == 1
        assert there.registry.denied() == 1
        told = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(caught.value.history)
        assert "fudd-was-here" not in told


def test_a_registry_cannot_have_the_password_sent_anywhere(few, tmp_path) -> None:
    """Who says nothing of a token server has name and password sent to none, whatever the registry says."""
    with hub(tmp_path, few) as there, Context(plugins=[RegistryToken(NAME, PASSWORD)]) as context:
        download, _ = there.manifest_of(there.public)
        download.context = context
        with pytest.raises(PolicyError) as caught:
            download()
        assert there.tokens.realm in str(caught.value)
        assert there.tokens.asked == []


def test_many_with_a_password_that_is_wrong(blobs, tmp_path) -> None:
    """Each of a batch fails, and they do not ask one by one: who counts wrong passwords has little to count."""
    with hub(tmp_path, blobs[:60]) as there:
        jobs = there.jobs(there.private, there.private.manifest)
        for plan in plans_of("sync", jobs, (there.named("fudd-was-here"),)):
            assert refusal(plan.error).code == 401
        assert len(there.tokens.asked) <= 60 // 2
        assert list(there.target.iterdir()) == []


@pytest.mark.parametrize("password", [PASSWORD, "fudd-was-here", ""])
def test_a_registry_that_wants_no_tokens(password, few, tmp_path) -> None:
    """A registry that asks for name and password itself is given them, once it has asked; a wrong one only once."""
    with token_server() as tokens, registry(tmp_path, f"{NAME}:{HASHED}\n") as running:
        image = running.add(PRIVATE, few)
        there = Hub(running, tokens, image, image, tmp_path)
        plugin = RegistryToken(NAME, password) if password else RegistryToken()
        download, writer = there.manifest_of(image)
        with Context(plugins=[plugin]) as context:
            download.context = context
            if password == PASSWORD:
                download()
                assert writer.content() == image.manifest
                download.clone()()
                assert running.denied() == 1
                return
            with pytest.raises(AccessDenied) as caught:
                download()
            assert refusal(caught.value).code == 401
        assert running.denied() == (2 if password else 1)


@pytest.mark.parametrize("strict", [True, False])
def test_a_private_repository_is_not_for_everybody(strict, few, tmp_path) -> None:
    """Without a name there is no private image, whether the token server says so or the registry; nobody goes on."""
    with hub(tmp_path, few, strict=strict) as there, Context(plugins=[RegistryToken()]) as context:
        download, _ = there.manifest_of(there.private)
        download.context = context
        with pytest.raises(DownloadError) as caught:
            download()
        assert refusal(caught.value).code == 401
        assert [asked.user for asked in there.tokens.asked] in ([""], ["", ""])
        assert there.registry.denied() <= 3


def test_without_the_plugin_nobody_asks_for_a_token(few, tmp_path) -> None:
    """A registry's challenge alone makes nobody send anything anywhere."""
    with hub(tmp_path, few) as there, Context() as context:
        download, _ = there.manifest_of(there.public)
        download.context = context
        with pytest.raises(AccessDenied):
            download()
        assert there.tokens.asked == []


def test_each_repository_has_a_token_of_its_own(few, tmp_path) -> None:
    """Two repositories in turn take two tokens, not one for each change between them."""
    with hub(tmp_path, few) as there, Context(plugins=[there.named()]) as context:
        for _ in range(5):
            for image in (there.public, there.private):
                download, writer = there.manifest_of(image)
                download.context = context
                download()
                assert writer.content() == image.manifest
        scopes = [asked.scopes for asked in there.tokens.asked]
        assert scopes == [(f"repository:{PUBLIC}:pull",), (f"repository:{PRIVATE}:pull",)]


def test_nobody_has_the_token_of_another(few, tmp_path) -> None:
    """In one context, who has no name does not go in with the token of who has one."""
    with hub(tmp_path, few) as there, Context() as context:
        known, _ = there.manifest_of(there.private, plugins=[there.named()])
        unknown, _ = there.manifest_of(there.private, plugins=[RegistryToken()])
        for download in (known, unknown):
            download.context = context
        known()
        with pytest.raises(DownloadError) as caught:
            unknown()
        assert refusal(caught.value).code == 401
        known.clone()()
        assert [asked.user for asked in there.tokens.asked].count(NAME) == 1


def test_within_a_repository_only(few, tmp_path) -> None:
    """What is for one repository asks for no token for another one of the same registry."""
    with hub(tmp_path, few) as there:
        plugin = there.named(within=there.registry.url(f"/v2/{PRIVATE}/"))
        with Context(plugins=[plugin]) as context:
            for image in (there.private, there.public):
                download, writer = there.manifest_of(image)
                download.context = context
                if image is there.private:
                    download()
                    assert writer.content() == image.manifest
                    continue
                with pytest.raises(AccessDenied):
                    download()
        assert [asked.scopes for asked in there.tokens.asked] == [(f"repository:{PRIVATE}:pull",)]


def refusal(error: DownloadError | None) -> AccessDenied:
    """Return the refusal that *error* is, or that the download that came first was ended by."""
    if isinstance(error, PreparationError):
        error = error.cause
    assert isinstance(error, AccessDenied)
    return error
