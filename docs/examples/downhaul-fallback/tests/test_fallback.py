"""The mirrors of the index are asked in order, believed as far as the digest, and never needed."""

from __future__ import annotations

import hashlib
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from downhaul_fallback import Fallback

from downhaul import (
    BufferWriter,
    ConnectError,
    Context,
    DigestMismatch,
    Driver,
    Info,
    NotFound,
    Payload,
    PolicyError,
    PreparationError,
    Result,
    Retries,
    SourcesExhausted,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from downhaul import Request, Settings

PACKAGE = b"a package"
HOME, MIRROR, CORRUPT, DEAD = (f"https://{host}/pub/" for host in ("home", "mirror", "corrupt", "dead"))


class Web(Driver):
    """Serves `files`, by URL, and remembers which ones were asked for."""

    def __init__(self, index: object) -> None:
        self.files = {
            f"{HOME}pkg.rpm": PACKAGE,
            f"{MIRROR}pkg.rpm": PACKAGE,
            f"{CORRUPT}pkg.rpm": b"a pakcage",
            f"{HOME}mirrors.json": index if isinstance(index, bytes) else json.dumps(index).encode(),
        }
        self.asked: list[str] = []

    @asynccontextmanager
    async def open(self, request: Request, settings: Settings) -> AsyncIterator[Payload]:  # noqa: ARG002
        """Answer from `files`."""
        self.asked.append(request.url)
        if request.url.startswith(DEAD):
            raise ConnectError("nobody listens")
        if request.url not in self.files:
            raise NotFound("there is no such file", code=404)

        async def body() -> AsyncIterator[bytes]:
            yield self.files[request.url]

        yield Payload(Info(request.url, size=len(self.files[request.url]), proof="length"), body())


def index(*mirrors: str, sha256: str | None = None) -> dict[str, Any]:
    """Return an index with *mirrors*, the last of them to be asked first."""
    digest = sha256 or hashlib.sha256(PACKAGE).hexdigest()
    return {
        "mirrors": [{"url": url, "priority": 10 - place} for place, url in enumerate(mirrors)],
        "files": {"pkg.rpm": {"sha256": digest}},
    }


def fetch(web: Web, plugin: object = "fallback", name: str = "pkg.rpm") -> Result:
    """Download *name*; there is one round only, so that nothing waits."""
    with Context(drivers={"https": web}, plugins=[plugin], retries=0) as context:
        return context.download(f"{HOME}{name}", BufferWriter())()


def test_enabled_by_name() -> None:
    """Installed, the plugin is there by its name; the mirror is asked, and its own server is not."""
    web = Web(index(MIRROR))
    assert fetch(web).source == f"{MIRROR}pkg.rpm"
    assert web.asked == [f"{HOME}mirrors.json", f"{MIRROR}pkg.rpm"]


def test_every_failure_moves_on_in_order_of_priority() -> None:
    """A dead mirror, one without the file and a corrupt one are passed over, in the order of their priorities."""
    web = Web(index(MIRROR, CORRUPT, "https://mirror/elsewhere/", DEAD))
    result = fetch(web)
    assert result.source == f"{MIRROR}pkg.rpm"
    assert [type(failed.error) for failed in result.history] == [ConnectError, NotFound, DigestMismatch]
    assert {failed.repaired_by for failed in result.history} == {"Fallback"}


def test_a_mirror_without_the_file_is_not_asked_for_it_again() -> None:
    """What has not the file will not have it in the next round: only those are asked again that may."""
    web = Web(index(MIRROR, CORRUPT))
    del web.files[f"{MIRROR}pkg.rpm"], web.files[f"{HOME}pkg.rpm"]
    with (
        Context(drivers={"https": web}, plugins=[Fallback(), Retries(base=0)], retries=1) as context,
        pytest.raises(SourcesExhausted),
    ):
        context.download(f"{HOME}pkg.rpm", BufferWriter())()
    assert web.asked.count(f"{CORRUPT}pkg.rpm") == 2
    assert web.asked.count(f"{MIRROR}pkg.rpm") == web.asked.count(f"{HOME}pkg.rpm") == 1


def test_mirrors_of_one_priority_are_learned_about() -> None:
    """Of equal mirrors the one that has failed is not asked first again: the choice knows, for all downloads."""
    listed = index(DEAD, MIRROR)
    for mirror in listed["mirrors"]:
        mirror["priority"] = 1
    web = Web(listed)
    with Context(drivers={"https": web}, plugins=[Fallback()], retries=0) as context:
        for _ in range(3):
            assert context.download(f"{HOME}pkg.rpm", BufferWriter())().source == f"{MIRROR}pkg.rpm"
    assert web.asked.count(f"{DEAD}pkg.rpm") == 1


def test_names_that_are_encoded() -> None:
    """A name in a URL may be encoded: the index knows it as it is, and mirrors are asked for it as it was."""
    listed = index(MIRROR)
    listed["files"]["a b?.rpm"] = listed["files"]["pkg.rpm"]
    web = Web(listed)
    web.files[f"{MIRROR}a%20b%3F.rpm"] = PACKAGE
    assert fetch(web, name="a%20b%3F.rpm").source == f"{MIRROR}a%20b%3F.rpm"


def test_its_own_server_is_the_last_resort() -> None:
    """When no mirror is left, the file comes from the server that the download names."""
    assert fetch(Web(index(DEAD))).source == f"{HOME}pkg.rpm"


def test_the_digest_holds_for_everybody() -> None:
    """Bytes that do not have the digest of the index are refused wherever they come from."""
    with pytest.raises(SourcesExhausted) as caught:
        fetch(Web(index(DEAD, sha256="0" * 64)))
    assert [type(error) for error in caught.value.errors] == [ConnectError, DigestMismatch]


def test_a_new_round_begins_with_the_first_mirror() -> None:
    """After the last source of a round failed, the next one goes through the mirrors again."""
    web = Web(index(CORRUPT, DEAD))
    web.files[f"{HOME}pkg.rpm"] = web.files[f"{CORRUPT}pkg.rpm"]
    with (
        Context(drivers={"https": web}, plugins=[Fallback(), Retries(base=0)], retries=1) as context,
        pytest.raises(SourcesExhausted),
    ):
        context.download(f"{HOME}pkg.rpm", BufferWriter())()
    once = [f"{DEAD}pkg.rpm", f"{CORRUPT}pkg.rpm", f"{HOME}pkg.rpm"]
    assert web.asked == [f"{HOME}mirrors.json", *once, *once]


def test_files_that_the_index_does_not_know() -> None:
    """A file without a digest comes from its own server: a mirror could send anything."""
    web = Web(index(MIRROR))
    web.files[f"{HOME}other.rpm"] = web.files[f"{MIRROR}other.rpm"] = b"another"
    assert fetch(web, name="other.rpm").source == f"{HOME}other.rpm"


def test_without_an_index() -> None:
    """Beside a file without an index nothing changes."""
    web = Web(b"")
    del web.files[f"{HOME}mirrors.json"]
    assert fetch(web).source == f"{HOME}pkg.rpm"


def test_the_index_itself() -> None:
    """The index is downloaded like any file, without looking for itself in itself."""
    web = Web(index(MIRROR))
    assert fetch(web, name="mirrors.json").source == f"{HOME}mirrors.json"
    assert web.asked == [f"{HOME}mirrors.json"]


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"<html>", b'{"mirrors": [1], "files": {}}', b'{"mirrors": [], "files": {"a": {}}}', b"\xff"],
)
def test_what_is_no_index(content: bytes) -> None:
    """An index that cannot be read fails the download, with a sentence that names it."""
    with pytest.raises(PreparationError, match=r"https://home/pub/mirrors\.json is no index"):
        fetch(Web(content))


def test_an_index_that_does_not_end() -> None:
    """An index of more than 16 MiB is refused: it would be held in memory."""
    with pytest.raises(PreparationError, match="max_size=16777216") as caught:
        fetch(Web(b" " * 16_777_217))
    assert isinstance(caught.value.cause, PolicyError)


def test_fetched_once() -> None:
    """The index is fetched once for all the downloads of a context."""
    web = Web(index(MIRROR))
    with Context(drivers={"https": web}, plugins=[Fallback()], retries=0) as context:
        for _ in range(3):
            context.download(f"{HOME}pkg.rpm", BufferWriter())()
    assert web.asked.count(f"{HOME}mirrors.json") == 1


def test_an_index_that_fails_for_now() -> None:
    """A server that does not answer for the index fails the download: mirrors and digest may not be skipped."""
    web = Web(index(MIRROR))
    with (
        Context(drivers={"https": web}, plugins=[Fallback()], retries=0) as context,
        pytest.raises(PreparationError, match="is needed first: ConnectError"),
    ):
        context.download(f"{DEAD}pkg.rpm", BufferWriter())()


def test_an_index_names_nothing_on_this_machine() -> None:
    """A mirror that would be this machine is left out, unless the index came from here."""
    web = Web(index(MIRROR, "https://localhost/pub/", "https://127.0.0.1/pub/"))
    assert fetch(web).source == f"{MIRROR}pkg.rpm"
    assert web.asked == [f"{HOME}mirrors.json", f"{MIRROR}pkg.rpm"]
