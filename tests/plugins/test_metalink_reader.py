"""Metalinks of version 4 and 3: what is read of them, what is left out, and what is none."""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import replace
from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from downhaul import PieceValidation
from downhaul.plugins._mirror import WORST, Mirror
from downhaul.plugins._parsing.metalink_reader import MetalinkFile, read_metalink, safe_name

BASE = "https://host/dir/file.meta4"
SIZE = 1024 * 1024
NAMESPACES = {4: "urn:ietf:params:xml:ns:metalink", 3: "http://www.metalinker.org/"}
CONTENT = b"the bytes of a file"
HEX = {name: hashlib.new(name, CONTENT).hexdigest() for name in ("md5", "sha1", "sha256", "sha384", "sha512")}

# As MirrorManager of Fedora writes them, less most of the mirrors
FEDORA = b"""\
<?xml version="1.0" encoding="utf-8"?>
<metalink version="3.0" xmlns="http://www.metalinker.org/" type="dynamic" pubdate="Tue, 15 Oct 2013 08:48:18 GMT"
 generator="mirrormanager" xmlns:mm0="http://fedorahosted.org/mirrormanager">
  <files>
    <file name="repomd.xml">
      <mm0:timestamp>1381706941</mm0:timestamp>
      <size>4761</size>
      <verification>
        <hash type="md5">0ffcd7798421c9a6760f3e4202cc4675</hash>
        <hash type="sha1">d28e40ca29b3b1d1e2976610e8858f976b06f02e</hash>
        <hash type="sha256">d4f9ad66f7c6e000d8ebf9ec92ad2c4636547853708554d93dab672bdfd98ca1</hash>
      </verification>
      <mm0:alternates>
        <mm0:alternate>
          <mm0:timestamp>1381706000</mm0:timestamp>
          <size>4700</size>
          <verification>
            <hash type="md5">0c5b64d395d5364633df7c8e97a07fd6</hash>
            <hash type="sha256">099ff51a491eba3f16646efb5d16319249e0bb10f1dc1476d47e23b25e0e0f94</hash>
            <hash type="sha512">bd9d340176996eacb4b27e16557d777fa5db5b9e428c3c2edcbe3452a5164cd42a56addc3634f953fffab1\
87684497960c1c70f4750906f1fefd33de0e28426a</hash>
          </verification>
        </mm0:alternate>
      </mm0:alternates>
      <resources maxconnections="1">
        <url protocol="rsync" type="rsync" location="GB" preference="100">rsync://rsync.example.org/fedora/repomd.xml</url>
        <url protocol="http" type="http" location="NL" preference="95" >http://mirror.example.nl/fedora/repomd.xml</url>
        <url protocol="ftp" type="ftp" location="GB" preference="99" >ftp://ftp.example.org/fedora/repomd.xml</url>
        <url protocol="https" type="https" location="GB" preference="99" >https://www.example.org/fedora/repomd.xml</url>
      </resources>
    </file>
  </files>
</metalink>
"""
# As MirrorBrain of openSUSE writes them, less most of the mirrors and the pieces
OPENSUSE = b"""\
<?xml version="1.0" encoding="UTF-8"?>
<metalink xmlns="urn:ietf:params:xml:ns:metalink">
  <generator>MirrorBrain/2.17.0</generator>
  <origin dynamic="true">http://download.example.org/iso/live.iso.meta4</origin>
  <published>2011-11-16T12:34:00Z</published>
  <publisher><name>openSUSE</name><url>http://download.example.org</url></publisher>
  <file name="live.iso">
    <size>786430</size>
    <hash type="md5">0ffcd7798421c9a6760f3e4202cc4675</hash>
    <hash type="sha-1">d28e40ca29b3b1d1e2976610e8858f976b06f02e</hash>
    <hash type="sha-256">d4f9ad66f7c6e000d8ebf9ec92ad2c4636547853708554d93dab672bdfd98ca1</hash>
    <signature mediatype="application/pgp-signature">
-----BEGIN PGP SIGNATURE-----
    </signature>
    <pieces length="262144" type="sha-1">
      <hash>fecf8bc9a1647505fe16746f94e97a477597dbf3</hash>
      <hash>179463a88d79cbf0b1923991708aead914f26142</hash>
      <hash>fecf8bc9a1647505fe16746f94e97a477597dbf4</hash>
    </pieces>
    <!-- Meta links -->
    <metaurl mediatype="torrent" priority="1">http://download.example.org/iso/live.iso.torrent</metaurl>
    <!-- Mirrors which handle this country (DE): -->
    <url location="de" priority="2">http://ftp5.example.de/iso/live.iso</url>
    <url location="de" priority="1">http://ftp.example.de/iso/live.iso</url>
    <url>http://download.example.org/iso/live.iso</url>
  </file>
</metalink>
"""


def metalink(version: int, *files: MetalinkFile, extra: str = "") -> bytes:
    """Return a metalink of *version* that describes *files*; *extra* stands in each of them."""
    inside = "".join(_file(version, file, extra) for file in files)
    body = inside if version == 4 else f"<files>{inside}</files>"
    return f'<metalink xmlns="{NAMESPACES[version]}">\n{body}</metalink>\n'.encode()


def _file(version: int, file: MetalinkFile, extra: str) -> str:
    name = "" if file.name is None else f" name={quoteattr(file.name)}"
    size = "" if file.size is None else f"<size>{file.size}</size>"
    verification = "".join(f'<hash type="{_type(version, kind)}">{digits}</hash>' for kind, digits in file.digests)
    if file.pieces is not None:
        hashes = "".join(
            f"<hash>{digits}</hash>" if version == 4 else f'<hash piece="{number}">{digits}</hash>'
            for number, digits in enumerate(file.pieces.hexdigests)
        )
        kind, length = _type(version, file.pieces.algorithm), file.pieces.length
        verification += f'<pieces length="{length}" type="{kind}">{hashes}</pieces>'
    urls = "".join(_url(version, mirror) for mirror in file.mirrors)
    if version == 3:
        verification, urls = f"<verification>{verification}</verification>", f"<resources>{urls}</resources>"
    return f"<file{name}>{size}{verification}{urls}{extra}</file>\n"


def _url(version: int, mirror: Mirror) -> str:
    location = f' location="{mirror.location}"' if mirror.location else ""
    scheme, colon, _ = mirror.url.partition(":")
    kind = "" if version == 4 else f' type="{scheme if colon else "http"}"'
    limit = f' maxconnections="{mirror.connections}"' if mirror.connections else ""
    rank = f'priority="{mirror.priority}"' if version == 4 else f'preference="{101 - mirror.priority}"'
    return f"<url {rank if mirror.priority < WORST else ''}{kind}{limit}{location}>{escape(mirror.url)}</url>"


def _type(version: int, algorithm: str) -> str:
    return algorithm.replace("sha", "sha-") if version == 4 else algorithm


def one(inside: str, version: int = 4, base: str = BASE) -> MetalinkFile:
    """Return the file that a metalink describes by the elements *inside*."""
    body = f'<file name="f">{inside}</file>'
    body = body if version == 4 else f"<files>{body}</files>"
    (file,) = read_metalink(f'<metalink xmlns="{NAMESPACES[version]}">{body}</metalink>'.encode(), base)
    return file


# Real ones


def test_a_metalink_of_fedora() -> None:
    """Version 3: preference 100 is the best, rsync is not for us; and what is said of alternates is not of the file."""
    (file,) = read_metalink(FEDORA, BASE)
    assert (file.name, file.size, file.pieces) == ("repomd.xml", 4761, None)
    assert dict(file.digests) == {
        "md5": "0ffcd7798421c9a6760f3e4202cc4675",
        "sha1": "d28e40ca29b3b1d1e2976610e8858f976b06f02e",
        "sha256": "d4f9ad66f7c6e000d8ebf9ec92ad2c4636547853708554d93dab672bdfd98ca1",
    }
    assert file.mirrors == (
        Mirror("ftp://ftp.example.org/fedora/repomd.xml", 2, "gb", 1),
        Mirror("https://www.example.org/fedora/repomd.xml", 2, "gb", 1),
        Mirror("http://mirror.example.nl/fedora/repomd.xml", 6, "nl", 1),
    )


def test_a_metalink_of_opensuse() -> None:
    """Version 4: the publisher's URL and the torrent's are not of the file; one without a priority comes last."""
    (file,) = read_metalink(OPENSUSE, BASE)
    assert (file.name, file.size) == ("live.iso", 786430)
    assert [name for name, _ in file.digests] == ["md5", "sha1", "sha256"]
    assert file.pieces is not None
    assert (file.pieces.algorithm, file.pieces.length, len(file.pieces.hexdigests)) == ("sha1", 262144, 3)
    assert file.pieces.hexdigests[1] == "179463a88d79cbf0b1923991708aead914f26142"
    assert [(mirror.url.split("/")[2], mirror.priority, mirror.location) for mirror in file.mirrors] == [
        ("ftp.example.de", 1, "de"),
        ("ftp5.example.de", 2, "de"),
        ("download.example.org", WORST, None),
    ]


def test_what_is_around_the_text_does_not_matter() -> None:
    """Prefixes, comments, CDATA, processing instructions, references to characters, blanks, another encoding."""
    text = """<?xml version="1.0" encoding="{}"?><?xml-stylesheet href="x"?><!-- <url>http://evil/</url> -->
    <m:metalink xmlns:m="urn:ietf:params:xml:ns:metalink"><m:file name="&#102;&#x6F;&#x6f;é"><m:size> 5
    </m:size><m:url priority=' 1 '>
      http://a/?x&amp;y<![CDATA[&z]]><!-- comment --><?what ever?>
    </m:url></m:file></m:metalink>"""
    for encoding in ("utf-8", "UTF-16", "iso-8859-1"):
        (file,) = read_metalink(text.format(encoding).encode(encoding), BASE)
        assert file == MetalinkFile("fooé", 5, mirrors=(Mirror("http://a/?x&y&z", 1),))
    (file,) = read_metalink(b"\xef\xbb\xbf" + text.format("utf-8").encode(), BASE)
    assert file.name == "fooé"


@pytest.mark.parametrize("version", [4, 3])
def test_a_metalink_may_have_no_files_or_several(version: int) -> None:
    """All of them, in their order; one may have nothing but a name, or less."""
    files = [MetalinkFile("a", 1), MetalinkFile("b"), MetalinkFile(None)]
    assert read_metalink(metalink(version), BASE) == ()
    assert read_metalink(metalink(version, *files), BASE) == tuple(files)


@pytest.mark.parametrize("version", [4, 3])
def test_elements_elsewhere_do_not_count(version: int) -> None:
    """Of another namespace, or of ours in something that we do not know, or in the wrong place."""
    inside = (
        '<x:url xmlns:x="x">http://a/</x:url><what><url>http://b/</url></what><url xmlns="">http://c/</url>'
        '<file name="g"><url>http://d/</url></file><size>5<size>6</size></size><pieces><url>http://e/</url></pieces>'
        f'<metaurl mediatype="torrent">http://f/</metaurl><hash type="md5"><b>{HEX["md5"]}</b></hash>'
    )
    assert one(inside, version) == MetalinkFile("f", 5)
    other = 4 if version == 3 else 3
    assert one(f'<x:url xmlns:x="{NAMESPACES[other]}">http://a/</x:url>', version).mirrors == ()
    misplaced = (
        '<url>http://a/</url><hash type="md5">{}</hash>'
        if version == 3
        else "<resources><url>http://a/</url></resources>"
    )
    assert one(misplaced.format(HEX["md5"]), version) == MetalinkFile("f")


# Sizes, digests, pieces


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("5", 5), (" 5 ", 5), ("", None), ("-1", None), ("5 MB", None), ("0x5", None), ("5.0", None),
     ("9" * 30, None), ("9" * 5000, None), ("٣", None)],
)  # fmt: skip
def test_a_size_is_a_number_of_bytes(text: str, size: int | None) -> None:
    """In decimal digits; anything else is none. The first one counts."""
    assert one(f"<size>{text}</size>").size == size
    assert one(f"<size>7</size><size>{text}</size>").size == 7


def test_digests_that_do_not_fit_are_left_out() -> None:
    """An unknown algorithm, a wrong length, no hexadecimal digits, no type; the first of each algorithm counts."""
    inside = (
        f'<hash type="md5">{HEX["sha1"]}</hash><hash type="ed2k">{HEX["md5"]}</hash><hash type="pgp">x</hash>'
        f'<hash type="sha-256">{HEX["sha256"][:-1]}g</hash><hash>{HEX["md5"]}</hash><hash type="sha-512"/>'
        f'<hash type="SHA-1">\n {HEX["sha1"].upper()} </hash><hash type="sha1">{"0" * 40}</hash>'
    )
    assert one(inside).digests == (("sha1", HEX["sha1"]),)


def pieces(kind: str, length: int | str, *digests: str, version: int = 4) -> str:
    """Return an element that describes pieces."""
    hashes = "".join(
        f"<hash>{digits}</hash>" if version == 4 else f'<hash piece="{number}">{digits}</hash>'
        for number, digits in enumerate(digests)
    )
    return f'<pieces length="{length}" type="{kind}">{hashes}</pieces>'


def test_the_best_pieces_are_taken() -> None:
    """Those of the strongest algorithm that fit; of equal ones the first."""
    weak, strong = pieces("md5", 2, *[HEX["md5"]] * 3), pieces("sha-256", 4, *[HEX["sha256"]] * 2)
    broken = pieces("sha-512", 4, *[HEX["sha512"]] * 3)
    for inside in (weak + strong + broken, broken + strong + weak, strong + pieces("sha-256", 2, *[HEX["sha256"]] * 3)):
        assert one(f"{inside}<size>5</size>").pieces == PieceValidation("sha256", 4, [HEX["sha256"]] * 2)
    assert one(weak + strong + broken).pieces == PieceValidation("sha512", 4, [HEX["sha512"]] * 3)


@pytest.mark.parametrize(
    ("size", "length", "count", "fits"),
    [(5, 2, 3, True), (6, 2, 3, True), (7, 2, 3, False), (4, 2, 3, False), (0, 2, 0, False), (0, 2, 1, False),
     (1, 64 * SIZE, 1, True), (1, 64 * SIZE + 1, 1, False), (1, 0, 1, False), (1, -1, 1, False), (1, "", 1, False),
     (None, 2, 3, True), (None, 2, 0, False)],
)  # fmt: skip
def test_pieces_must_fit_the_size(size: int | None, length: int | str, count: int, fits: bool) -> None:
    """As many as it takes, none larger than 64 MiB: each is held until it is judged. Without a size any number fits."""
    told = "" if size is None else f"<size>{size}</size>"
    assert (one(told + pieces("md5", length, *[HEX["md5"]] * count)).pieces is not None) is fits


def test_pieces_with_a_bad_digest_are_no_pieces() -> None:
    """One that is of another length, or no digits, spoils them all."""
    for bad in ("", HEX["sha1"], "metalinkhash1"):
        assert one(pieces("md5", 4, HEX["md5"], bad, HEX["md5"])).pieces is None
    assert one(pieces("what", 4, HEX["md5"])).pieces is None
    assert one(f'<pieces length="4"><hash>{HEX["md5"]}</hash></pieces>').pieces is None


@pytest.mark.parametrize(
    ("numbers", "order"),
    [((0, 1, 2), (0, 1, 2)), ((2, 0, 1), (1, 2, 0)), ((0, 1, 1), None), ((1, 2, 3), None), ((0, 2, 3), None),
     ((0, 1, ""), None), ((0, 1, -1), None), (("x", 1, 2), None)],
)  # fmt: skip
def test_pieces_of_version_3_are_numbered(numbers: tuple[int | str, ...], order: tuple[int, ...] | None) -> None:
    """In whatever order they stand; a number that is missing or there twice spoils them all."""
    digests = [f"{index:032x}" for index in range(3)]
    hashes = "".join(f'<hash piece="{number}">{digits}</hash>' for number, digits in zip(numbers, digests, strict=True))
    found = one(f'<verification><pieces length="4" type="md5">{hashes}</pieces></verification>', 3).pieces
    assert found == (None if order is None else PieceValidation("md5", 4, [digests[index] for index in order]))


# Mirrors


@pytest.mark.parametrize(
    ("attributes", "priority"),
    [('priority="1"', 1), ('priority="999999"', WORST), ("", WORST), ('priority="0"', WORST), ('priority=""', WORST),
     ('priority="1000000"', WORST), ('priority="-1"', WORST), ('preference="100"', WORST)],
)  # fmt: skip
def test_priorities_of_version_4(attributes: str, priority: int) -> None:
    """From 1, the best, to 999999, which is also that of one that has none (RFC 5854, section 4.2.16.1)."""
    assert [mirror.priority for mirror in one(f"<url {attributes}>http://a/</url>").mirrors] == [priority]


@pytest.mark.parametrize(
    ("attributes", "priority"),
    [('preference="100"', 1), ('preference="1"', 100), ('preference="0"', 101), ("", WORST),
     ('preference="101"', WORST), ('preference="-1"', WORST), ('preference="x"', WORST), ('priority="1"', WORST)],
)  # fmt: skip
def test_preferences_of_version_3(attributes: str, priority: int) -> None:
    """From 100, the best, to 0; one that has none comes last."""
    inside = f"<resources><url {attributes}>http://a/</url></resources>"
    assert [mirror.priority for mirror in one(inside, 3).mirrors] == [priority]


@pytest.mark.parametrize(
    ("of_all", "of_one", "connections"),
    [("", "", None), ("2", "", 2), ("", "3", 3), ("2", "3", 2), ("3", "2", 2), ("0", "-1", None), ("x", "4", 4)],
)
def test_connections_are_the_least_that_is_asked_for(of_all: str, of_one: str, connections: int | None) -> None:
    """For all of the resources, and for each of them."""
    inside = f'<resources maxconnections="{of_all}"><url maxconnections="{of_one}">http://a/</url></resources>'
    assert [mirror.connections for mirror in one(inside, 3).mirrors] == [connections]


@pytest.mark.parametrize(
    ("kind", "counts"),
    [
        ("http", True),
        ("HTTPS", True),
        ("ftp", True),
        ("", True),
        ("bittorrent", False),
        ("rsync", False),
        ("magnet", False),
    ],
)
def test_types_of_version_3(kind: str, counts: bool) -> None:
    """A torrent is no place of the file, though its URL begins with http."""
    inside = f'<resources><url type="{kind}">http://a/</url></resources>'
    assert bool(one(inside, 3).mirrors) is counts


def test_equal_priorities_keep_their_order() -> None:
    """And a URL counts once: where it stands first."""
    urls = [("c", 2), ("z", None), ("b", 1), ("d", 2), ("a", 1), ("c", 1)]
    inside = "".join(f"<url {'' if rank is None else f'priority={rank!r}'}>http://{host}/</url>" for host, rank in urls)
    inside = inside.replace("priority=1", 'priority="1"').replace("priority=2", 'priority="2"')
    assert [mirror.url[7] for mirror in one(inside).mirrors] == ["b", "a", "c", "d", "z"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://a/x", "http://a/x"),
        ("x", "https://host/dir/x"),
        ("/x?y#z", "https://host/x?y#z"),
        ("../../x", "https://host/x"),
        ("//other/x", "https://other/x"),
        ("file:///etc/passwd", "file:///etc/passwd"),
        ("rsync://a/x", "rsync://a/x"),
        ("http://a/b c", None),
        ("http://a/\tb", None),
        ("http://a/\nb", None),
        ("http://a/&#13;b", None),
        ("http://a/&#x7f;", None),
        ("http://a/&#x202e;", None),
        ("http://[", None),
        ("http://h:0/", None),
        ("http:", None),
        ("http://", None),
        ("magnet:?xt=urn:btih:x", None),
        ("&lt;http://a/&gt;", None),
        ("", None),
        (" ", None),
    ],
)
def test_where_urls_lead(text: str, expected: str | None) -> None:
    """Resolved where the metalink came from; what holds a blank or a control character is none."""
    assert [mirror.url for mirror in one(f"<url>{text}</url>").mirrors] == ([] if expected is None else [expected])


def test_an_xml_base_counts() -> None:
    """Of every element around (RFC 5854, section 2); one that is no URL does not."""
    text = f"""<metalink xmlns="{NAMESPACES[4]}" xml:base="http://m/a/"><file name="f" xml:base="b/">
    <url>1</url><url xml:base="../c/">2</url><url xml:base="http://n/">3</url><url xml:base="http://[">4</url>
    </file></metalink>"""
    (file,) = read_metalink(text.encode(), BASE)
    assert [mirror.url for mirror in file.mirrors] == [
        "http://m/a/b/1",
        "http://m/a/c/2",
        "http://n/3",
        "http://m/a/b/4",
    ]


def test_no_more_than_a_thousand_urls() -> None:
    """In all: who writes 100,000 of them wants something else."""
    urls = [Mirror(f"http://h/{number}") for number in range(600)]
    first, second = read_metalink(metalink(4, *(MetalinkFile(name, mirrors=tuple(urls)) for name in "ab")), BASE)
    assert (len(first.mirrors), len(second.mirrors)) == (600, 400)
    many = "".join(f"<url>http://h/{number}</url>" for number in range(100_000))
    assert len(one(many).mirrors) == 1000


def test_no_more_than_a_thousand_files() -> None:
    """What stands in the others belongs to none."""
    files = [MetalinkFile(f"f{number}", number) for number in range(5000)]
    assert read_metalink(metalink(4, *files), BASE) == tuple(files[:1000])


# Names

HOSTILE = [
    "", ".", "..", "../evil", "a/b", "/abs", "a/", "..\\evil", "a\\b", "C:evil", "C:\\evil", "a:b", ".bashrc", "...",
    "-rf", "--", " x", "x ", "\u00a0x", "a\x85b", "a\u202egpj.exe", "a\u2066b", "a\u200eb", "a\ufeffb", "a\u2028b",
    "a" * 256, "é" * 128, "a\tb", "a\nb", "%2e%2e/", "~/x/..", "a\x7fb", "\ue000",
]  # fmt: skip
FINE = [
    "a",
    "pkg-1.0~rc1+b1.x86_64.rpm",
    "a b",
    "é" * 127,
    "a" * 255,
    "%2e%2e%2fx",
    "a..b",
    "~",
    "名前",
    "a.",
    "'$(x)'",
    "NUL",
]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("version", [4, 3])
def test_a_hostile_name_is_none(version: int, name: str) -> None:
    """Paths, dots, hidden files, options, drives, controls, and what turns the direction: the rest is still read."""
    written = "".join(c if c.isprintable() and c not in "&<'" else f"&#{ord(c)};" for c in name)
    text = metalink(version, MetalinkFile("@", 5)).replace(b'"@"', f"'{written}'".encode())
    assert read_metalink(text, BASE) == (MetalinkFile(None, 5),)


@pytest.mark.parametrize("name", FINE)
def test_a_fine_name_stays_as_it_is(name: str) -> None:
    """Nothing is decoded, replaced or shortened."""
    assert read_metalink(metalink(4, MetalinkFile(name)), BASE) == (MetalinkFile(name),)


def test_a_name_that_is_not_used_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Once for a metalink, and so that it cannot steer a terminal."""
    with caplog.at_level(logging.WARNING, "downhaul.mirrors"):
        read_metalink(metalink(4, MetalinkFile("fine"), MetalinkFile(None)), BASE)
        assert not caplog.records
        read_metalink(metalink(4, MetalinkFile("../a\u202e"), MetalinkFile("../b")), BASE)
    (record,) = caplog.records
    assert r"'../a\u202e'" in record.getMessage()
    assert record.getMessage().isascii()


@given(st.text(max_size=20))
def test_a_safe_name_stays_in_its_directory(name: str) -> None:
    """Whatever the text: joined to a directory, it is one entry of that, on any system."""
    if safe_name(name):
        assert not {"/", "\\", ":", "\0", "\n"} & {*name}
        assert name[0] not in ".- "
        assert name.isprintable()


# What is none


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"http://a/\n", "it is no XML"),
        (b'{"token": "canary"}', "it is no XML"),
        (b"\x1f\x8b\x08\x00", "it is no XML"),
        (b"\x00" * 100, "it is no XML"),
        (b"<html><body>Log in</body></html>", "it is an HTML page"),
        (b"<HTML></HTML>", "it is an HTML page"),
        (b"<!doctype HTML><html></html>", "it is no XML"),
        (b"<!DOCTYPE HTML><html></html>", "it is an HTML page with a DOCTYPE"),
        (b"<!DOCTYPE html><html></html>", "it is an HTML page with a DOCTYPE"),
        (b'<?xml version="1.0"?><rss/>', "it is XML whose root is 'rss', of the namespace ''"),
        (b"<metalink/>", "it is XML whose root is 'metalink', of the namespace ''"),
        (b'<metalink xmlns="urn:other"/>', "of the namespace 'urn:other'"),
        (b'<files xmlns="http://www.metalinker.org/"/>', "whose root is 'files'"),
        ("<\u00e9\u0660/>".encode(), r"whose root is '\\xe9\\u0660'"),
        (b"<a" + b"a" * 10000 + b"/>", "whose root is 'a{40}'"),
        (FEDORA[:-20], "it is no XML"),
        (FEDORA + b"<again/>", "it is no XML: junk after document element"),
        (OPENSUSE.replace(b"</size>", b"</Size>"), "it is no XML: mismatched tag"),
        (OPENSUSE.replace(b"</size>", b"&nbsp;</size>"), "it is no XML: undefined entity"),
        (OPENSUSE.replace(b"live.iso", b"\xff"), "it is no XML"),
        (OPENSUSE.replace(b"UTF-8", b"UTF-7"), "its encoding is 'UTF-7'"),
        (OPENSUSE.replace(b"UTF-8", b"idna"), "its encoding is 'idna'"),
        (OPENSUSE.replace(b"UTF-8", b"koi8-r"), "its encoding is 'koi8-r'"),
        (OPENSUSE.replace(b"UTF-8", b"no-such"), "its encoding is 'no-such'"),
        (OPENSUSE.replace(b"UTF-8", b"UTF-16"), "it is no XML"),
    ],
    ids=range(27),
)
def test_what_is_no_metalink(content: bytes, message: str) -> None:
    """The error says what it is instead, and repeats nothing of it but a name."""
    with pytest.raises(ValueError, match=message) as caught:
        read_metalink(content, BASE)
    assert "canary" not in str(caught.value)
    assert len(str(caught.value)) < 200
    assert str(caught.value).isascii()


LAUGHS = b"".join(b'<!ENTITY l%d "%s">' % (number, b"&l%d;" % (number - 1) * 10) for number in range(1, 12))
BOMBS = {
    "billion laughs": b'<!DOCTYPE metalink [<!ENTITY l0 "lol">' + LAUGHS + b"]>%s&l11;",
    "quadratic": b'<!DOCTYPE metalink [<!ENTITY a "' + b"a" * 50_000 + b'">]>%s' + b"&a;" * 5000,
    "external entity": b'<!DOCTYPE metalink [<!ENTITY a SYSTEM "file:///etc/passwd">]>%s&a;',
    "external DTD": b'<!DOCTYPE metalink SYSTEM "http://127.0.0.1:9/x.dtd">%s',
    "parameter entity": b'<!DOCTYPE metalink [<!ENTITY %% a SYSTEM "http://127.0.0.1:9/"> %%a;]>%s',
    "default attribute": b'<!DOCTYPE metalink [<!ATTLIST url priority CDATA "1">]>%s',
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_doctype_is_refused(bomb: str) -> None:
    """Before any entity of it is expanded or fetched."""
    content = (
        BOMBS[bomb] % b'<metalink xmlns="urn:ietf:params:xml:ns:metalink"><file name="f"><url>'
        + b"</url></file></metalink>"
    )
    before = time.process_time()
    with pytest.raises(ValueError, match="it is a document with a DOCTYPE, 'metalink', and a metalink has none"):
        read_metalink(content, BASE)
    assert time.process_time() - before < 1


@pytest.mark.parametrize("depth", [31, 32, 33, 100_000])
def test_elements_stand_no_more_than_32_deep(depth: int) -> None:
    """Known or not; nobody needs more than seven."""
    inside = b"<x>" * (depth - 2)
    content = b'<metalink xmlns="%s"><file name="f">%s%s</file></metalink>'
    content %= NAMESPACES[4].encode(), inside, inside.replace(b"<", b"</")
    if depth <= 32:
        assert read_metalink(content, BASE) == (MetalinkFile("f"),)
    else:
        with pytest.raises(ValueError, match="more than 32 deep"):
            read_metalink(content, BASE)


# Whatever comes

NAMES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=12).filter(safe_name)
URLS = st.builds(
    "{}://{}/{}".format,
    st.sampled_from(["http", "https", "ftp"]),
    st.sampled_from(["a", "b.example", "127.0.0.1:8080", "[::1]"]),
    st.text(st.sampled_from("abc123-._~!$&'()*+,;=:@/?%é"), max_size=8),
)
LOCATIONS = st.none() | st.sampled_from(["de", "us", "jp"])


@st.composite
def files(draw: st.DrawFn, version: int) -> MetalinkFile:
    """Return a file as a metalink of *version* can describe it."""
    ranks = st.integers(1, WORST if version == 4 else 101) | st.just(WORST)
    limits = st.none() if version == 4 else st.none() | st.integers(1, 9)
    mirrors = draw(st.lists(st.builds(Mirror, URLS, ranks, LOCATIONS, limits), max_size=5, unique_by=lambda m: m.url))
    digests = draw(st.dictionaries(st.sampled_from([*HEX]), st.none(), max_size=3))
    length, count = draw(st.integers(1, 1000)), draw(st.integers(1, 4))
    algorithm = draw(st.none() | st.sampled_from([*HEX]))
    return MetalinkFile(
        draw(NAMES),
        draw(st.none() | st.just(length * count)),
        tuple((name, HEX[name]) for name in digests),
        None if algorithm is None else PieceValidation(algorithm, length, [HEX[algorithm]] * count),
        tuple(sorted(mirrors, key=lambda mirror: mirror.priority)),
    )


@given(
    st.sampled_from([4, 3]).flatmap(lambda version: st.tuples(st.just(version), st.lists(files(version), max_size=3)))
)
@settings(deadline=None)
def test_what_is_written_is_read(written: tuple[int, list[MetalinkFile]]) -> None:
    """Any metalink of either version comes back as it was."""
    version, described = written
    assert read_metalink(metalink(version, *described), BASE) == tuple(described)


PIECES = st.sampled_from([
    b'<metalink xmlns="urn:ietf:params:xml:ns:metalink">', b'<metalink xmlns="http://www.metalinker.org/">', b"<files>",
    b'<file name="a">', b"</file>", b"</files>", b"</metalink>", b"<url>http://a/b</url>", b"<size>5</size>", b"<hash>",
    b'<pieces length="2" type="md5">', b"</pieces>", b"<verification>", b"</verification>", b"<resources>", b"</url>",
    b'<hash type="md5" piece="0">' + b"a" * 32 + b"</hash>", b'<?xml version="1.0" encoding="utf-16"?>',
    b"<?xml version='1.0'?>", b"<!DOCTYPE x>", b"\xff\xfe", b"\xef\xbb\xbf", b"&#0;", b"&#xD800;", b"&amp;",
    b"<![CDATA[", b"]]>", b"<!--",
    b' xmlns:a="b"', b"<a:b", b' xml:base="x"', b"<url>", b"\x00", b"<", b">", b"a", b"\xc3", b"<url priority='",
])  # fmt: skip


@given(st.one_of(st.binary(), st.text().map(str.encode), st.lists(PIECES, max_size=15).map(b"".join)), st.text())
@settings(deadline=None, max_examples=500)
def test_nothing_but_a_value_error_comes_of_any_bytes(content: bytes, base: str) -> None:
    """Whatever the bytes, and whatever they are relative to."""
    try:
        found = read_metalink(content, base)
    except ValueError:
        return
    for file in found:
        assert file.name is None or safe_name(file.name)


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_a_damaged_metalink_is_read_or_refused(data: st.DataObject) -> None:
    """A byte changed, left out, or put in, or the end missing: what is still read is clean."""
    content = bytearray(data.draw(st.sampled_from([FEDORA, OPENSUSE])))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=2))
    try:
        found = read_metalink(bytes(content), BASE)
    except ValueError as reason:
        assert str(reason).isascii()  # noqa: PT017
        return
    for file in found:
        assert file == replace(file, mirrors=tuple(sorted(file.mirrors, key=lambda mirror: mirror.priority)))
        assert all(mirror.url.isprintable() and " " not in mirror.url for mirror in file.mirrors)


START = f'<metalink xmlns="{NAMESPACES[4]}"><file name="f">'
LONG = {
    "urls": START + "<url>http://a/b</url>" * (SIZE // 21) + "</file></metalink>",
    "bad urls": START + "<url>[</url>" * (SIZE // 12) + "</file></metalink>",
    "bases": START + '<url xml:base="http://a/">[</url>' * (SIZE // 33) + "</file></metalink>",
    "files": START + "</file>" + '<file name="x"/>' * (SIZE // 16) + "</metalink>",
    "digests": START + '<hash type="md5">0</hash>' * (SIZE // 25) + "</file></metalink>",
    "pieces": START + pieces("md5", 1, HEX["md5"]) * (SIZE // 90) + "</file></metalink>",
    "a long name": f"{START}<{'a' * (SIZE // 2)}>" + "<b/>" * (SIZE // 8),
    "a long attribute": f'{START}<url priority="{"1" * SIZE}"/></file></metalink>',
    "a long text": f"{START}<url>{'a' * SIZE}</url></file></metalink>",
    "references": f"{START}<url>{'&#97;' * (SIZE // 5)}</url></file></metalink>",
    "attributes": START + "<url" + "".join(f" a{n}='x'" for n in range(SIZE // 12)) + "/></file></metalink>",
    "namespaces": START + "".join(f'<a xmlns="x{n}"/>' for n in range(SIZE // 22)) + "</file></metalink>",
    "prefixes": START + "<url" + "".join(f" xmlns:a{n}='x'" for n in range(SIZE // 18)) + "/></file></metalink>",
}


@pytest.mark.parametrize(
    "text", [*LONG, "<", ">", "&", "<a>", "<!--", "<?a?>", "<![CDATA[", "</a>", "&amp;", "\x00", "<a "]
)
@pytest.mark.parametrize("start", [START, ""])
def test_a_mebibyte_of_anything_is_read_in_no_time(text: str, start: str) -> None:
    """Linear, whatever is repeated, and never closed."""
    content = LONG[text] if text in LONG else start + text * (SIZE // len(text))
    before = time.process_time()
    try:
        read_metalink(content.encode(), BASE)
    except ValueError as reason:
        assert len(str(reason)) < 200  # noqa: PT017
    assert time.process_time() - before < 1
