"""Text lists of mirrors: what counts as a line of one, what its metadata means, and what is no list."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from downhaul.plugins._mirror import WORST
from downhaul.plugins._parsing.text_list import read_text_list

BASE = "https://lists.example/dir/mirrors.txt"
SIZE = 1024 * 1024

# The example of apt-transport-mirror(1)
APT = b"""\
file:/srv/local/debian/mirror/\tpriority:1 type:index
http://partial.example.org/mirror/\tpriority:2 arch:amd64 arch:all type:deb
http://ftp.us.debian.org/debian/\ttype:deb
http://ftp.de.debian.org/debian/\ttype:deb
https://deb.debian.org/debian/
"""
FEDORA = b"""\
# repo = fedora-17 arch = i386 Using preferred netblock country = GB country = BE country = UA \n\
http://mirror.example.org/fedora/linux/
ftp://ftp.example.org/Fedora/17/
rsync://rsync.example.org/Fedora/17/
"""
PACMAN = b"""\
##
## Arch Linux repository mirrorlist
##

## Germany
#Server = http://off.example.org/$repo/os/$arch
Server = https://mirror.example.de/archlinux/$repo/os/$arch
Server=https://mirror.example.fr/archlinux/$repo/os/$arch
"""
PORTAL = b"""\
<!DOCTYPE html>
<html><head>
<script type="text/javascript">
//<![CDATA[
/*
 * https://portal.example/licence
 */
/login
http://portal.example/script
//]]>
</script>
</head><body>
https://portal.example/login
</body></html>
"""


def urls(text: bytes | str, base: str = BASE) -> list[str]:
    """Return the URLs of the list *text*."""
    return [mirror.url for mirror in read_text_list(text.encode() if isinstance(text, str) else text, base)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://a/\nhttp://b/\n", ["http://a/", "http://b/"]),
        ("http://a/\r\nhttp://b/\r\n", ["http://a/", "http://b/"]),
        ("http://a/\rhttp://b/", ["http://a/", "http://b/"]),
        ("\n\r\n\n\rhttp://a/\n\n", ["http://a/"]),
        ("\ufeffhttp://a/\n", ["http://a/"]),
        ("  \thttp://a/ \t\n", ["http://a/"]),
        ("# http://a/\n  #http://a/\n#\nhttp://b/", ["http://b/"]),
        ("http://a/ # Berlin\nhttp://b/\t#\nhttp://c/#fragment", ["http://a/", "http://b/", "http://c/#fragment"]),
        ("http://a/\nhttp://b/\nhttp://a/\n", ["http://a/", "http://b/"]),
        ("http://a/\n<br>\nhttp://b/\n", ["http://a/", "http://b/"]),
        ("/x\n./y\n../z\n/", ["https://lists.example/x", "https://lists.example/dir/y", "https://lists.example/z",
                              "https://lists.example/"]),
        ("//evil/x\n.x\n..\n...\nx/y\nx\n?x\n.\n", []),
        ("no url\nhttp:\nhttp://\nmem:\nmem://\nhttp://[::1\nhttp://h:x/\nhttp://h:99999/\nhttp://h:0/", []),
        ("http://a b/\nhttp://a/ b/\nhttp://a/ http://b/\nhttp://a/\tb", []),
        ("http://a/\x00\nhttp://\x1b[31m/\nhttp://a/\x0bx\nhttp://a/\x7f\nhttp://a/\u2028\nhttp://a/\x85", []),
        ("http://a/\xa0\nhttp://a/\u200b\nhttp://a/\u202egnp", []),
        (b"http://a/\xff\nhttp://b/\n", ["http://b/"]),
        ('"http://a/">\n<http://a/>\nhttp://<a>/\nhttp://a\\@b/', []),
        ("rsync://a/\nfile:///etc/passwd\nfile:/x\nmem://m/x\n", ["rsync://a/", "file:///etc/passwd", "file:/x", "mem://m/x"]),
        ("mailto:a@b\njavascript:alert(1)//\ndata:,/\n", []),
        ("", []),
        ("\ufeff", []),
        ("\n\n", []),
    ],
)  # fmt: skip
def test_what_a_line_may_be(text: str | bytes, expected: list[str]) -> None:
    """A URL, or what begins with "/", "./" or "../" and so is relative to the list; everything else does not count."""
    assert urls(text) == expected


def test_relative_entries_of_any_scheme() -> None:
    """The scheme of the list is theirs, whatever it is."""
    assert urls("/x\n./y", "mem://m/a/b") == ["mem://m/x", "mem://m/a/y"]
    assert urls("/x", "no base") == []


def test_a_list_of_apt() -> None:
    """The example of its manual: lower priorities first, lines without one last; other metadata is not for us."""
    mirrors = read_text_list(APT, BASE)
    assert [(mirror.url, mirror.priority) for mirror in mirrors] == [
        ("file:/srv/local/debian/mirror/", 1),
        ("http://partial.example.org/mirror/", 2),
        ("http://ftp.us.debian.org/debian/", WORST),
        ("http://ftp.de.debian.org/debian/", WORST),
        ("https://deb.debian.org/debian/", WORST),
    ]


def test_of_two_lines_with_one_url_the_first_counts() -> None:
    """Whatever metadata they have."""
    mirrors = read_text_list(b"http://a/ priority:5\nhttp://a/ priority:1\n", BASE)
    assert [(mirror.url, mirror.priority) for mirror in mirrors] == [("http://a/", 5)]


def test_lists_of_fedora_and_of_pacman() -> None:
    """Comments are full of URLs and of "="; ``name = URL`` is a URL."""
    assert urls(FEDORA) == [
        "http://mirror.example.org/fedora/linux/",
        "ftp://ftp.example.org/Fedora/17/",
        "rsync://rsync.example.org/Fedora/17/",
    ]
    assert urls(PACMAN) == [f"https://mirror.example.{country}/archlinux/$repo/os/$arch" for country in ("de", "fr")]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("baseurl=http://a/", ["http://a/"]),
        ("my mirror 1 = http://a/ priority:3", ["http://a/"]),
        ("name\t=\thttp://a/", ["http://a/"]),
        ("http://a/?x=http://b/", ["http://a/?x=http://b/"]),
        ("name = /x", []),
        ("name = ./x", []),
        ("name =", []),
        ("name = value/", []),
        ("= http://a/", []),
        ("a=b=http://a/", []),
        ("see http://a/", []),
        ("my-href = http://a/", []),
        ('href="http://a/"', []),
    ],
)
def test_lines_with_a_name(line: str, expected: list[str]) -> None:
    """A name of words, "=", and a whole URL."""
    assert urls(line) == expected


@pytest.mark.parametrize(
    ("metadata", "priority", "location"),
    [
        ("priority:5", 5, None),
        ("priority:1\tcountry:DE", 1, "de"),
        ("location:gb priority:7 unknown:x", 7, "gb"),
        ("Priority:5 Country:de", 5, "de"),
        ("priority:0", 1, None),
        ("priority:5 priority:1", 5, None),
        ("priority:-1", WORST, None),
        ("priority:", WORST, None),
        ("priority:x", WORST, None),
        ("priority:1000000", WORST, None),
        ("location:Berlin country:deu", WORST, None),
        ("country:Germany location:de", WORST, "de"),
        ("codename:bookworm lang:en_GB x-y:z", WORST, None),
    ],
)
@pytest.mark.parametrize("gap", [" ", "\t", " \t "])
def test_metadata_stands_behind_the_url(metadata: str, priority: int, location: str | None, gap: str) -> None:
    """``key:value`` between blanks; the first of a key counts, and of unknown ones and bad values nothing comes."""
    (mirror,) = read_text_list(f"http://a/{gap}{metadata}".encode(), BASE)
    assert (mirror.priority, mirror.location) == (priority, location)


def test_equal_priorities_keep_the_order_of_the_list() -> None:
    """The first of all is the best of the best."""
    text = (
        "http://c/ priority:2\nhttp://z/\nhttp://b/ priority:1\nhttp://d/ priority:2\nhttp://a/ priority:1\nhttp://y/"
    )
    assert [url[7] for url in urls(text)] == ["b", "a", "c", "d", "z", "y"]


@pytest.mark.parametrize("start", ["", "\ufeff", "\n\n", " \t", "# comment\n", "PHP Warning: x in y\n"])
def test_a_page_is_no_list(start: str) -> None:
    """What begins with "<" gives no mirror, however much in it looks like one: a captive portal's page, say."""
    assert urls(start.encode() + PORTAL) == []
    assert urls(f'{start}<?xml version="1.0"?>\n<metalink>\nhttp://a/\n</metalink>') == []


def test_no_more_than_a_thousand() -> None:
    """The first 1,000 of a list, duplicates apart; the best of these first."""
    text = "".join(f"http://m{n}/\nhttp://m{n}/\n" for n in range(5000)) + "http://best/ priority:1"
    assert urls(text) == [f"http://m{n}/" for n in range(1000)]


# Whatever comes

HOSTS = st.text(st.sampled_from("abc123-."), min_size=1, max_size=10).filter(lambda host: host.strip(".-") == host)
LINES = st.tuples(
    st.builds("http://{}/{}".format, HOSTS, st.text(st.sampled_from("abc/?=&;,:@%~é"), max_size=8)),
    st.none() | st.integers(1, WORST - 1),
    st.none() | st.sampled_from(["de", "GB"]),
)
NOISE = st.sampled_from(["", "# comment", "   ", "no url", "http://", "x/y", "# http://evil/"])


@given(
    st.lists(st.tuples(NOISE, LINES), max_size=8, unique_by=lambda pair: pair[1][0]),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
@settings(deadline=None)
def test_what_is_written_is_read(lines, end: str) -> None:
    """URLs, priorities and countries come back, sorted by priority, through any noise."""
    written = []
    for noise, (url, priority, country) in lines:
        words = [f"priority:{priority}"] * (priority is not None) + [f"country:{country}"] * (country is not None)
        written += [noise, "\t".join([url, *words])]
    mirrors = read_text_list(end.join(written).encode(), BASE)
    expected = [(url, priority or WORST, country and country.lower()) for _, (url, priority, country) in lines]
    assert [(m.url, m.priority, m.location) for m in mirrors] == sorted(expected, key=lambda each: each[1])


PIECES = st.sampled_from(
    [
        b"http://h/",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b"/",
        b".",
        b"=",
        b":",
        b"#",
        b"<",
        b"priority:",
        b"1",
        b"\xff",
        b"\x00",
        b"a",
        b"[",
    ]
)


@given(st.one_of(st.binary(), st.lists(PIECES, max_size=30).map(b"".join)), st.one_of(st.just(BASE), st.text()))
@settings(deadline=None, max_examples=500)
def test_no_list_is_too_bad_to_be_read(text: bytes, base: str) -> None:
    """Nothing is raised; what comes of it are printable URLs, each once, and sorted."""
    mirrors = read_text_list(text, base)
    assert all(mirror.url.isprintable() and " " not in mirror.url for mirror in mirrors)
    assert len({mirror.url for mirror in mirrors}) == len(mirrors)
    assert [mirror.priority for mirror in mirrors] == sorted(mirror.priority for mirror in mirrors)


LONG = {
    "entries": "".join(f"/{n}\n" for n in range(SIZE // 8)),
    "bad entries": "".join(f"http://[{n}\n" for n in range(SIZE // 14)),
    "names": "".join(f"a{n} = http://[{n}\n" for n in range(SIZE // 22)),
    "metadata": "http://h/ " + "a:b " * (SIZE // 4),
    "one line": "http://h/" + "a" * SIZE,
    "one name": "a " * (SIZE // 2) + "= http://h/",
}


@pytest.mark.parametrize(
    "text", [*LONG, "\n", "\r", " ", "/", "a", "a=", "/a\n", "#\n", "<\n", "a:b ", "\x00", "http://[\n", "a =\n"]
)
def test_a_mebibyte_of_anything_is_read_in_no_time(text: str) -> None:
    """Linear in what there is, and no more than 10,000 lines that could be entries."""
    content = LONG.get(text) or text * (SIZE // len(text))
    before = time.process_time()
    assert len(urls(content)) <= 1000
    assert time.process_time() - before < 1
