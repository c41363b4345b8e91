"""Digests in header fields: Repr-Digest (RFC 9530) and Digest (RFC 3230)."""

from __future__ import annotations

import base64
import hashlib
import time

import http_sf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from downhaul import DigestValidation, Headers
from downhaul.plugins._parsing.digest_fields import SIZES, digest_of, read_digests, strongest

CONTENT = b"the bytes of a file"
HEX = {name: hashlib.new(name, CONTENT).hexdigest() for name in ("md5", "sha1", "sha256", "sha384", "sha512")}
B64 = {name: base64.b64encode(bytes.fromhex(digits)).decode() for name, digits in HEX.items()}

# What MirrorBrain sends, and what its digests are
MIRRORBRAIN = (
    "MD5=/sr/WFcZH1MKTyt3JHL2tA==, SHA=pvNwuuHWoXkNJMYSZQvr3xPzLZY=, "
    "SHA-256=5QgXpvMLXWCi1GpNZI9mtzdhFFdtz6tuNwCKIYbbZfU="
)
OF_MIRRORBRAIN = {
    "md5": "fecaff5857191f530a4f2b772472f6b4",
    "sha1": "a6f370bae1d6a1790d24c612650bebdf13f32d96",
    "sha256": "e50817a6f30b5d60a2d46a4d648f66b7376114576dcfab6e37008a2186db65f5",
}  # fmt: skip


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (f"SHA-256={B64['sha256']}", ["sha256"]),
        (f"sha-256={B64['sha256']},sha-512={B64['sha512']}", ["sha256", "sha512"]),
        (f"SHA={B64['sha1']},MD5={B64['md5']}", ["sha1", "md5"]),
        (f" , ,sha-256 = {B64['sha256']} ,\tmd5={B64['md5']} ,", ["sha256", "md5"]),
        (f'sha-256="{B64["sha256"]}"', ["sha256"]),
        (f"sha-256={B64['sha256'].rstrip('=')}", ["sha256"]),
        (f"sha-256={B64['sha256']};q=1", ["sha256"]),
        (f"UNIXsum=30637, crc32c=AAAAAA==, id-sha-256={B64['sha256']}, md5={B64['md5']}", ["md5"]),
        (f"sha-384={B64['sha384']}", []),
        (f"sha1={B64['sha1']}", []),
        (f"sha-256={B64['sha1']}", []),
        (f"sha-256={HEX['sha256']}", []),
        (f"md5={HEX['md5']}", []),
        (f"sha-256={base64.b64encode(HEX['sha256'].encode()).decode()}", []),
        ("sha-256=", []),
        ("sha-256", []),
        ("sha-256=!!!!", []),
        (f"sha-256={B64['sha256'][:10]} {B64['sha256'][10:]}", []),
        (f'junk", sha-256={B64["sha256"]}', []),
        (f"junk, sha-256={B64['sha256']}", ["sha256"]),
        ("", []),
    ],
)
def test_the_instance_digests_that_servers_send(value: str, names: list[str]) -> None:
    """Names in any case, blanks anywhere; another algorithm, another length, and hexadecimal digits are ignored."""
    assert read_digests({"Digest": value}) == {name: HEX[name] for name in names}


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (f"sha-256=:{B64['sha256']}:", ["sha256"]),
        (f"sha-256=:{B64['sha256']}:, sha-512=:{B64['sha512']}:", ["sha256", "sha512"]),
        (f"md5=:{B64['md5']}:,\tsha=:{B64['sha1']}:, unixsum=:AA==:", ["md5", "sha1"]),
        (f"sha-256=:{B64['sha256']}:;wanted", ["sha256"]),
        (f"sha-256=:{B64['sha1']}:", []),
        (f"sha-256={B64['sha256']}", []),
        (f"SHA-256=:{B64['sha256']}:", []),
        (f'sha-256="{B64["sha256"]}"', []),
        ("sha-256", []),
        ("sha-256=(:AA==: 1)", []),
        ("sha-256=1", []),
        (f"sha-256=:{B64['sha256']}", []),
        (f"sha-256=:{B64['sha256']}:,", []),
        (f"sha-256=:{B64['sha256']}:, é=1", []),
        ("", []),
    ],
)
def test_the_digests_of_representations(value: str, names: list[str]) -> None:
    """A dictionary of byte sequences; what is not one is ignored as a whole (RFC 9651, section 4.2)."""
    assert read_digests({"Repr-Digest": value}) == {name: HEX[name] for name in names}


def test_real_and_published_values() -> None:
    """What MirrorBrain sends; the example of RFC 9530; the one of RFC 6249 is of no digest's length."""
    assert read_digests({"Digest": MIRRORBRAIN}) == OF_MIRRORBRAIN
    rfc_9530 = "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"
    content = b'{"hello": "world"}\n'
    assert read_digests({"Repr-Digest": rfc_9530}) == {"sha256": hashlib.sha256(content).hexdigest()}
    rfc_6249 = "SHA-256=MWVkMWQxYTRiMzk5MDQ0MzI3NGU5NDEyZTk5OWY1ZGFmNzgyZTJlODYzYjRjYzFhOTlmNTQwYzI2M2QwM2U2MQ=="
    assert read_digests({"Digest": rfc_6249}) == {}


def test_repr_digest_counts_more_than_digest() -> None:
    """Where both tell of one algorithm; of the others each counts. Within Digest, the first one does."""
    other = base64.b64encode(bytes(32)).decode()
    headers = {"Repr-Digest": f"sha-256=:{B64['sha256']}:", "Digest": f"sha-256={other}, md5={B64['md5']}"}
    assert read_digests(headers) == {"sha256": HEX["sha256"], "md5": HEX["md5"]}
    assert read_digests({"Digest": f"sha-256={B64['sha256']}, sha-256={other}"}) == {"sha256": HEX["sha256"]}


def test_what_is_of_the_message_tells_nothing_of_the_file() -> None:
    """Content-Digest and Content-MD5 are of a part, where a part was sent."""
    headers = {"Content-Digest": f"sha-256=:{B64['sha256']}:", "Content-MD5": B64["md5"]}
    assert read_digests(headers) == {}


def test_several_fields_of_one_name() -> None:
    """They are joined by a comma (RFC 9110, section 5.3), in any case."""
    digests = {"sha256": HEX["sha256"], "md5": HEX["md5"]}
    headers = Headers([("digest", f"SHA-256={B64['sha256']}"), ("DIGEST", f"MD5={B64['md5']}")])
    assert read_digests(headers) == digests
    headers = Headers([("repr-digest", f"sha-256=:{B64['sha256']}:"), ("Repr-Digest", f"md5=:{B64['md5']}:")])
    assert read_digests(headers) == digests


def test_the_strongest_digest() -> None:
    """In the order sha512, sha384, sha256, sha224, sha1, md5; unknown ones do not count."""
    order = ["sha512", "sha384", "sha256", "sha224", "sha1", "md5"]
    assert [*SIZES] == order
    for index, name in enumerate(order):
        assert strongest(dict.fromkeys(["crc32", *reversed(order[index:])], "x")) == (name, "x")
    assert strongest({}) is None
    assert strongest({"crc32": "x"}) is None


def test_sizes_are_those_of_hashlib() -> None:
    """And a validation takes what is read."""
    assert {name: hashlib.new(name).digest_size for name in SIZES} == SIZES
    assert DigestValidation(*strongest(OF_MIRRORBRAIN)).algorithm == "sha256"


@pytest.mark.parametrize(
    ("name", "digits", "expected"),
    [
        ("sha-256", HEX["sha256"], "sha256"),
        (" SHA256 ", f" {HEX['sha256'].upper()}\n", "sha256"),
        ("sha-1", HEX["sha1"], "sha1"),
        ("MD5", HEX["md5"], "md5"),
        ("md5", HEX["sha1"], None),
        ("md5", HEX["md5"][:-1], None),
        ("md5", HEX["md5"][:-1] + "g", None),
        ("md5", HEX["md5"][:-1] + "٣", None),
        ("", "", None),
        ("pgp", "", None),
        ("pgp", "ab", None),
        ("ed2k", HEX["md5"], None),
    ],
)
def test_digests_in_hexadecimal(name: str, digits: str, expected: str | None) -> None:
    """The name as `hashlib` has it, and digits of its length; or None."""
    assert digest_of(name, digits) == (None if expected is None else (expected, HEX[expected]))


# Whatever comes

DIGESTS = st.dictionaries(
    st.sampled_from(["sha-512", "sha-256", "sha", "md5", "unixsum"]), st.binary(min_size=1, max_size=66), max_size=5
)
EXACT = st.fixed_dictionaries({}, optional={  # of the right length
    "sha-512": st.binary(min_size=64, max_size=64), "sha-256": st.binary(min_size=32, max_size=32),
    "sha": st.binary(min_size=20, max_size=20), "md5": st.binary(min_size=16, max_size=16),
})  # fmt: skip
HASHLIB = {"sha-512": "sha512", "sha-256": "sha256", "sha": "sha1", "md5": "md5"}


def expected(digests: dict[str, bytes]) -> dict[str, str]:
    """Return what is to be read of *digests*."""
    known = {HASHLIB[name]: digest for name, digest in digests.items() if name in HASHLIB}
    return {name: digest.hex() for name, digest in known.items() if hashlib.new(name).digest_size == len(digest)}


@given(st.one_of(DIGESTS, EXACT))
@settings(deadline=None)
def test_what_http_sf_writes_is_read(digests: dict[str, bytes]) -> None:
    """As Repr-Digest, written by http_sf; and as Digest, written by hand: the same."""
    if digests:
        assert read_digests({"Repr-Digest": http_sf.ser(digests)}) == expected(digests)
    text = ",".join(f"{name.upper()}={base64.b64encode(digest).decode()}" for name, digest in digests.items())
    assert read_digests({"Digest": text}) == expected(digests)


PIECES = st.sampled_from(
    [
        "sha-256",
        "md5",
        "SHA",
        "=",
        ":",
        ",",
        ";",
        " ",
        '"',
        "\\",
        B64["md5"],
        B64["sha256"],
        "(",
        ")",
        "?1",
        "@1",
        '%"',
        "é",
        "\x00",
    ]
)


@given(st.one_of(st.text(), st.lists(PIECES, max_size=20).map("".join)))
@settings(deadline=None, max_examples=500)
def test_no_value_is_too_bad_to_be_read(value: str) -> None:
    """Nothing is raised, and what comes out is a digest of its length; of Repr-Digest, what http_sf finds in it."""
    for digests in (read_digests({"Digest": value}), read_digests({"Repr-Digest": value})):
        for name, digits in digests.items():
            DigestValidation(name, digits)
    try:
        members = http_sf.parse(value.encode("latin-1"), tltype="dictionary")
    except ValueError:
        assert read_digests({"Repr-Digest": value}) == {}
    else:
        plain = {name: item[0] for name, item in members.items() if isinstance(item[0], bytes)}
        assert read_digests({"Repr-Digest": value}) == expected(plain)


@pytest.mark.parametrize("field", ["Digest", "Repr-Digest"])
@pytest.mark.parametrize(
    "unit", ['"', "\\", ",", "=", " ", "a", "a,", "a=:AA==:,", "md5=:", "(", 'a=("', "a;a=", "=,", "A", '\\"']
)
def test_a_mebibyte_of_anything_is_read_in_no_time(unit: str, field: str) -> None:
    """What is too long for an honest value is none; what is just short enough takes no time either."""
    for size in (1024 * 1024, 16 * 1024):
        before = time.process_time()
        assert read_digests({field: unit * (size // len(unit))}) == {}
        assert time.process_time() - before < 1
