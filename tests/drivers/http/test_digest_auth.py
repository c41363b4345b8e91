"""DigestAuth against a verifier of RFC 7616 that is written here, and that curl is let in by."""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from tests.mem import Ledger
from tests.plugins.examples.segments import Segments
from tests.servers.http import http_server

from downhaul import AccessDenied, BufferWriter, Context, Download, Retries, User
from downhaul.plugins import BearerToken
from downhaul_http import DigestAuth

if TYPE_CHECKING:
    from tests.servers.http import Exchange

NAME, PASSWORD = "Mufasa", "Circle of Life"
BYTES = bytes(range(256)) * 400
HASHES = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256, "SHA-512": hashlib.sha512}
_PAIR = re.compile(r'(\w+)=(?:"([^"]*)"|([^",\s]+))\s*(?:,\s*|$)')


@dataclass
class Verifier:
    """A server that wants Digest (RFC 7616, section 3.4), and is strict: a count of a nonce is good once.

    *challenges* are sent with each refusal, "{nonce}" in them replaced by the one in force, "{stale}" by what is true.
    """

    challenges: list[str] = field(
        default_factory=lambda: ['Digest realm="test", qop="auth", algorithm=MD5, nonce="{nonce}", stale={stale}']
    )
    password: str = PASSWORD
    realm: str = "test"
    nonce: int = 1
    uses: int | None = None
    led: dict[str, str] = field(default_factory=dict)
    counts: set[tuple[str, str]] = field(default_factory=set)
    log: list[tuple[str, str]] = field(default_factory=list)
    sent: list[str | None] = field(default_factory=list)

    async def answer(self, exchange: Exchange) -> None:
        """Let in who proves to know the password."""
        sent = exchange.header("Authorization")
        self.sent.append(sent)
        judged = "bare" if sent is None else self.judge(exchange.method, exchange.target, sent)
        self.log.append((exchange.target, judged))
        if exchange.target in self.led:
            await exchange.respond(302, headers=[("Location", self.led[exchange.target])])
        elif judged == "good" or not exchange.target.startswith("/"):
            await self.serve(exchange)
        else:
            stale = str(judged == "stale").lower()
            challenges = [each.replace("{nonce}", self.now).replace("{stale}", stale) for each in self.challenges]
            await exchange.respond(401, headers=[("WWW-Authenticate", each) for each in challenges])

    @property
    def now(self) -> str:
        return f"nonce+{self.nonce}=="

    def judge(self, method: str, target: str, sent: str) -> str:
        """Return whether *sent* is "good", or what it is not."""
        scheme, _, rest = sent.partition(" ")
        fields = {match[1]: match[2] if match[2] is not None else match[3] for match in _PAIR.finditer(rest)}
        if scheme != "Digest" or fields.get("username") != NAME or fields.get("realm") != self.realm:
            return "wrong"
        algorithm, session, _ = fields.get("algorithm", "MD5").upper().partition("-SESS")

        def h(*parts: str) -> str:
            return HASHES[algorithm](":".join(parts).encode()).hexdigest()

        a1 = h(NAME, self.realm, self.password)
        if session:
            a1 = h(a1, fields["nonce"], fields["cnonce"])
        middle = [fields["nc"], fields["cnonce"], fields["qop"]] if "qop" in fields else []
        if fields["response"] != h(a1, fields["nonce"], *middle, h(method, fields["uri"])):
            return "wrong"
        if fields["uri"] != target:
            return "other uri"
        if fields["nonce"] != self.now:
            return "stale"
        count = (fields["nonce"], fields.get("nc", ""))
        if "nc" in fields:
            if count in self.counts:
                return "replayed"
            self.counts.add(count)
        if self.uses is not None and len([known for known in self.counts if known[0] == self.now]) >= self.uses:
            self.nonce += 1
        return "good"

    async def serve(self, exchange: Exchange) -> None:
        """Answer with the file, or the part of it that is asked for."""
        headers = [("ETag", '"v1"'), ("Accept-Ranges", "bytes")]
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", exchange.header("Range") or "")
        if match is None:
            await exchange.respond(body=BYTES, headers=headers)
            return
        start, stop = int(match[1]), int(match[2] or len(BYTES) - 1) + 1
        part = f"bytes {start}-{stop - 1}/{len(BYTES)}"
        await exchange.respond(206, BYTES[start:stop], [*headers, ("Content-Range", part)])


DIGEST = DigestAuth(NAME, PASSWORD)


async def fetch(context: Context, url: str, **options):
    """Download, and return the result and the bytes."""
    writer = BufferWriter()
    result = await Download(url, writer, context=context, **options).run()
    return result, writer.content()


def context_of(*plugins: object, **options) -> Context:
    """Return a context with these plugins, that does not wait."""
    return Context(plugins=(*plugins, Retries(base=0)), **options)


QOP = 'qop="auth"'
FORMS = [
    'Digest realm="test", nonce="{nonce}"',
    f'Digest realm="test", nonce="{{nonce}}", {QOP}',
    f'Digest realm="test", nonce="{{nonce}}", {QOP}, algorithm=MD5, opaque="5ccc069c"',
    f'Digest realm="test", nonce="{{nonce}}", {QOP}, algorithm="MD5-sess"',
    f'Digest realm="test", nonce="{{nonce}}", {QOP}, algorithm=SHA-256',
    f'Digest realm="test", nonce="{{nonce}}", {QOP}, algorithm=SHA-256-sess, userhash=false, charset=UTF-8',
    f'Digest realm="test",nonce="{{nonce}}",{QOP},stale={{stale}},domain="/a /b"',
    'Digest realm="test", nonce="{nonce}", qop="auth, auth-int", algorithm=SHA-256',
    'DIGEST realm=test, nonce="{nonce}", qop=auth',
]


# The verifier itself


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("password", "let_in"), [(PASSWORD, True), ("wrong", False)])
def test_curl_is_let_in(form, password, let_in):
    """The verifier understands a client that is not ours, and does not let in who has a wrong password."""
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    verifier = Verifier([form])
    with http_server(verifier.answer) as server:
        command = [curl, "-sS", "--noproxy", "*", "--digest", "-u", f"{NAME}:{password}", "-w", "%{http_code}"]
        run = subprocess.run([*command, server.url("/a?b=c")], check=True, capture_output=True, timeout=20)
    assert run.stdout[-3:] == (b"200" if let_in else b"401")
    assert [judged for _, judged in verifier.log] == ["bare", "good" if let_in else "wrong"]


def test_the_examples_of_the_rfc():
    """RFC 7616, section 3.9.1: the verifier takes what stands there."""
    common = (
        'Digest username="Mufasa", realm="http-auth@example.org", uri="/dir/index.html", '
        'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", nc=00000001, '
        'cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ", qop=auth, '
    )
    md5 = 'response="8ca523f5e9506fed4657c9700eebdbec", algorithm=MD5'
    sha = 'response="753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1", algorithm=SHA-256'
    for proof in (md5, sha):
        verifier = Verifier(realm="http-auth@example.org")
        assert verifier.judge("GET", "/dir/index.html", common + proof) == "stale"
        assert verifier.judge("HEAD", "/dir/index.html", common + proof) == "wrong"
        assert verifier.judge("GET", "/dir", common + proof) == "other uri"


# The plugin


@pytest.mark.parametrize("form", FORMS)
async def test_what_is_answered(form):
    """The first request goes without, the challenge is answered, and later ones are signed beforehand."""
    verifier = Verifier([form])
    with http_server(verifier.answer) as server:
        async with context_of(DIGEST) as context:
            for path in ("/a", "/b?c=d", "/%20e", "/f g"):
                result, content = await fetch(context, server.url(path))
                assert (content, result.attempts, result.history) == (BYTES, 1, ())
    assert verifier.log == [
        ("/a", "bare"), ("/a", "good"), ("/b?c=d", "good"), ("/%20e", "good"), ("/f%20g", "good"),
    ]  # fmt: skip
    if "qop" in form:
        assert [re.search(r"nc=(\w+)", sent)[1] for sent in verifier.sent[1:]] == [f"{n:08x}" for n in (1, 2, 3, 4)]


async def test_of_several_challenges_the_first_that_can_be():
    """RFC 7616, section 3.7: the server's order counts; Basic is not answered."""
    verifier = Verifier(
        [
            'Basic realm="test"',
            f'Digest realm="test", nonce="{{nonce}}", {QOP}, algorithm=SHA-512-256',
            f'Negotiate, Digest realm="test", nonce="{{nonce}}", {QOP}, algorithm=SHA-256',
            f'Digest realm="test", nonce="{{nonce}}", {QOP}, algorithm=MD5',
        ]
    )
    with http_server(verifier.answer) as server:
        async with context_of(DIGEST) as context:
            await fetch(context, server.url("/a"))
    assert [judged for _, judged in verifier.log] == ["bare", "good"]
    assert "algorithm=SHA-256," in verifier.sent[1]


@pytest.mark.parametrize(
    "challenge",
    [
        None, "", 'Basic realm="test"', "Digest", 'Digest realm="test"', 'Digest nonce="x"',
        'Digest realm="test", nonce="x", algorithm=FOO', 'Digest realm="test", nonce="x", qop="auth-int"',
        'Digest realm="te\\"st", nonce="x"', 'Digest realm="test", nonce="x\\\\y"', 'Digest realm="test, nonce="x',
    ],
)  # fmt: skip
async def test_what_is_not_answered(challenge, caplog):
    """The refusal stays as it is; that a Digest challenge is beyond us is told once."""
    verifier = Verifier([] if challenge is None else [challenge])
    with http_server(verifier.answer) as server:
        async with context_of(DIGEST) as context:
            for _ in range(2):
                with pytest.raises(AccessDenied):
                    await fetch(context, server.url("/a"))
    assert verifier.sent == [None, None]
    told = [record for record in caplog.records if record.name == "downhaul.tokens"]
    assert len(told) == ((challenge or "").startswith("Digest"))


@pytest.mark.parametrize("preemptive", [False, True])
async def test_a_wrong_password_is_no_loop(preemptive):
    """Refused with an answer, nothing more is sent."""
    verifier = Verifier(password="another")
    with http_server(verifier.answer) as server:
        async with context_of(DIGEST) as context:
            for _ in range(1 + preemptive):
                with pytest.raises(AccessDenied):
                    await fetch(context, server.url("/a"))
    assert [judged for _, judged in verifier.log] == ["bare", "wrong"] + ["wrong", "wrong"] * preemptive


async def test_a_nonce_that_is_used_up():
    """A nonce that is good for three requests only: nobody notices."""
    verifier = Verifier(uses=3)
    with http_server(verifier.answer) as server:
        async with context_of(DIGEST) as context:
            for _ in range(9):
                assert (await fetch(context, server.url("/a")))[0].attempts == 1
    judged = [judged for _, judged in verifier.log]
    assert judged == ["bare", *["good"] * 3, "stale", *["good"] * 3, "stale", *["good"] * 3]


async def test_a_nonce_that_is_gone_without_a_word():
    """A server that has forgotten its nonces, and does not say "stale", is answered again."""
    verifier = Verifier(['Digest realm="test", qop="auth", nonce="{nonce}"'])
    with http_server(verifier.answer) as server:
        async with context_of(DIGEST) as context:
            await fetch(context, server.url("/a"))
            verifier.nonce += 1
            await fetch(context, server.url("/a"))
    assert [judged for _, judged in verifier.log] == ["bare", "good", "stale", "good"]


async def test_a_nonce_that_is_always_stale():
    """Three tries, and then the refusal stays."""

    async def script(exchange):
        challenge = f'Digest realm="test", qop="auth", nonce="{len(server.requests)}", stale=true'
        await exchange.respond(401, headers=[("WWW-Authenticate", challenge)])

    with http_server(script) as server:
        async with context_of(DIGEST) as context:
            with pytest.raises(AccessDenied):
                await fetch(context, server.url("/a"))
        assert len(server.requests) == 3


@pytest.mark.parametrize("known", [False, True])
async def test_many_at_once_repeat_no_count(known):
    """Fifty that meet the challenge at the same time, with one nonce: each count of it is sent once."""
    verifier = Verifier()
    with http_server(verifier.answer) as server:
        async with context_of(DIGEST) as context:
            if known:
                await fetch(context, server.url("/a"))
                verifier.nonce += 1
            await asyncio.gather(*(fetch(context, server.url(f"/{number}")) for number in range(50)))
    judged = [judged for _, judged in verifier.log]
    assert judged.count("good") == 50 + known
    assert set(judged) <= {"bare", "good", "stale"}


async def test_parts_and_heads_are_signed_by_themselves():
    """Each range, and the HEAD before them, has a count of its own: nothing is replayed."""
    verifier = Verifier()
    with http_server(verifier.answer) as server:
        async with context_of(DIGEST, Segments(size=10_000, parallel=3)) as context:
            assert (await fetch(context, server.url("/a")))[1] == BYTES
            async with Download(server.url("/a"), context=context).stat() as stream:
                assert stream.headers["ETag"] == '"v1"'
        methods = [each.method for each in server.requests]
    judged = [judged for _, judged in verifier.log]
    assert judged == ["bare", *["good"] * (len(judged) - 1)]
    assert methods == ["HEAD", "HEAD", *["GET"] * 11, "HEAD"]


async def test_starting_again_is_signed_again():
    """A second request within the same attempt, after a part that did not fit, has a count of its own."""
    verifier = Verifier()
    cuts = [1]

    async def script(exchange):
        if cuts and exchange.header("Authorization") and not exchange.header("Range"):
            assert verifier.judge(exchange.method, exchange.target, exchange.header("Authorization")) == "good"
            await exchange.send(
                b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\nETag: "v0"\r\nAccept-Ranges: bytes\r\n\r\n' % len(BYTES),
                BYTES[:70_000],
            )
            cuts.pop()
            await exchange.cut()
        await verifier.answer(exchange)

    with http_server(script) as server:
        async with context_of(DIGEST) as context:
            result, content = await fetch(context, server.url("/a"))
    assert content == BYTES
    assert result.attempts == 2
    assert [judged for _, judged in verifier.log] == ["bare", "good", "good"]


# Where it goes


async def test_redirects_leave_it_behind():
    """On the same origin and elsewhere; what is refused there is not answered, and nobody is let in by it."""
    verifier, stranger = Verifier(), Verifier()
    with http_server(verifier.answer) as server, http_server(stranger.answer) as other:
        verifier.led = {"/in": "/b", "/out": other.url("/c"), "/around": other.url("/back")}
        stranger.led = {"/back": server.url("/d")}
        async with context_of(DIGEST) as context:
            await fetch(context, server.url("/a"))
            for path in ("/in", "/out", "/around"):
                with pytest.raises(AccessDenied):
                    await fetch(context, server.url(path))
            await fetch(context, server.url("/b"))
    assert verifier.log == [
        ("/a", "bare"), ("/a", "good"), ("/in", "good"), ("/b", "bare"), ("/out", "good"),
        ("/around", "good"), ("/d", "bare"), ("/b", "good"),
    ]  # fmt: skip
    assert stranger.sent == [None, None]


async def test_within():
    """Only what is below the path is answered; by default what is of the download's own origin."""
    verifier, stranger = Verifier(), Verifier()
    with http_server(verifier.answer) as server, http_server(stranger.answer) as other:
        async with context_of(DigestAuth(NAME, PASSWORD, within=server.url("/a/"))) as context:
            await fetch(context, server.url("/a/b"))
            for url in (server.url("/b"), server.url("/a/../b"), server.url("/a/%2e%2e/b"), other.url("/a/b")):
                with pytest.raises(AccessDenied):
                    await fetch(context, url)
    assert [entry for entry in verifier.log if entry[1] == "good"] == [("/a/b", "good")]
    assert stranger.sent == [None]


async def test_each_origin_has_its_own_nonce():
    """Without *within*, in one context: a nonce of one origin is not sent to another."""
    verifier, stranger = Verifier(nonce=100), Verifier(nonce=200)
    with http_server(verifier.answer) as server, http_server(stranger.answer) as other:
        async with context_of(DIGEST) as context:
            for _ in range(2):
                for each in (server, other):
                    await fetch(context, each.url("/a"))
    for each, nonce in ((verifier, "nonce+100=="), (stranger, "nonce+200==")):
        assert [judged for _, judged in each.log] == ["bare", "good", "good"]
        assert all(nonce in sent for sent in each.sent[1:])


@pytest.mark.parametrize("swapped", [False, True])
async def test_with_another_authorization(swapped):
    """Where a token is sent, this keeps out of it."""
    verifier = Verifier()
    plugins = [DIGEST, BearerToken("token")]
    with http_server(verifier.answer) as server:
        async with context_of(*(reversed(plugins) if swapped else plugins)) as context:
            with pytest.raises(AccessDenied):
                await fetch(context, server.url("/a"))
    assert verifier.sent == ["Bearer token"]


async def test_what_is_not_of_http_is_passed():
    """FTP has no Digest; nobody is in the way of its driver."""
    from tests.servers.ftp import FtpServer

    with FtpServer({"a": b"alpha"}) as server:
        async with context_of(DIGEST) as context:
            assert (await fetch(context, server.url("a")))[1] == b"alpha"


# The plugin as a value


@pytest.mark.parametrize(
    ("name", "password", "error"),
    [
        (None, "canary", TypeError), ("canary", None, TypeError), ('can"ary', "canary", ValueError),
        ("can\\ary", "canary", ValueError), ("can\r\nary", "canary", ValueError), ("can\0ary", "canary", ValueError),
    ],
)  # fmt: skip
def test_what_cannot_be_sent(name, password, error):
    """It is refused at once, and not repeated."""
    with pytest.raises(error, match="DigestAuth") as caught:
        DigestAuth(name, password)
    assert not {"canary", "ary"} & set(re.findall(r"\w+", str(caught.value)))
    with pytest.raises(ValueError, match=r"DigestAuth\(within=…\)"):
        DigestAuth("name", "password", within="https://host?x")


async def test_no_secret_is_told(caplog):
    """Neither name nor password nor what was sent is in an error, a repr or a log."""
    caplog.set_level(0)
    verifier, ledger = Verifier(password="another"), Ledger()
    with http_server(verifier.answer) as server:
        async with context_of(DIGEST, ledger) as context:
            with pytest.raises(AccessDenied) as caught:
                await fetch(context, server.url("/a"))
    told = repr((caught.value, caught.value.history, ledger.errors, ledger.outcomes, DIGEST)) + caplog.text
    response = re.search(r'response="(\w+)"', verifier.sent[-1])[1]
    assert not any(secret in told for secret in (NAME, PASSWORD, response))


def test_values():
    """Equal are plugins of equal names and passwords for equal reaches."""
    assert DigestAuth(NAME, PASSWORD, within="HTTPS://Host:443") == DigestAuth(NAME, PASSWORD, within="https://host")
    assert DigestAuth(NAME, "another") != DIGEST
    assert hash(DigestAuth(NAME, PASSWORD)) == hash(DIGEST)
    assert repr(DIGEST) == "DigestAuth(within=None)"
    assert User(NAME, PASSWORD) != DIGEST
