"""The Link header field, and the mirrors that it tells of; with it the words of all header fields."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from downhaul.plugins._mirror import WORST
from downhaul.plugins._parsing.fields import FieldReader, country, number, quoted
from downhaul.plugins._parsing.links import described_by, read_links, read_mirrors, target

BASE = "https://host/dir/file?x=1"
SIZE = 1024 * 1024

# What a server of kali.org answered, and what MirrorBrain sends, less most of the mirrors
KALI = (
    "<https://kali.download/base-images/kali.iso>; rel=duplicate; pri=1; geo=ae, "
    "<https://ask4.mm.fcix.net/kali-images/kali.iso>; rel=duplicate; pri=2; geo=gb, "
    "<https://ftp.hands.com/kali-images/kali.iso>; rel=duplicate; pri=3; geo=gb"
)
MIRRORBRAIN = (
    '<http://host/e.exe.meta4>; rel=describedby; type="application/metalink4+xml", '
    '<http://host/e.exe.torrent>; rel=describedby; type="application/x-bittorrent", '
    "<http://ftp.example.de/e.exe>; rel=duplicate; pri=1; geo=de"
)


def urls(value: str) -> list[str]:
    """Return the URLs of the links of *value*."""
    return [link.url for link in read_links(value, BASE)]


# Links


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("<http://a/>", ["http://a/"]),
        ("<http://a/>,<http://b/>", ["http://a/", "http://b/"]),
        ("  , ,<http://a/>, ,\t<http://b/>,,", ["http://a/", "http://b/"]),
        ("</x>; rel=next", ["https://host/x"]),
        ("<x/../y>", ["https://host/dir/y"]),
        ("<../../../x>", ["https://host/x"]),
        ("<?page=2>", ["https://host/dir/file?page=2"]),
        ("<//other/x>", ["https://other/x"]),
        ("<http://a/?x=1,2;3>; rel=next", ["http://a/?x=1,2;3"]),
        ('<http://a/>; title="a, <http://evil/>; b", <http://b/>', ["http://a/", "http://b/"]),
        (r'<http://a/>; title="\", <http://evil/>", <http://b/>', ["http://a/", "http://b/"]),
        ("<http://a/> junk, <http://b/>", ["http://a/", "http://b/"]),
        ("junk, <http://b/>", ["http://b/"]),
        ('"<http://evil/>", <http://b/>', ["http://b/"]),
        ("<http://a/, <http://b/>", ["http://b/"]),
        ("<http://a/", []),
        ('<http://a/>; title="no end, <http://evil/>', ["http://a/"]),
        ('<http://b/>; rel=next; anchor="#here"', []),
        ("<http://b/>; ANCHOR", []),
        ("<>", []),
        ("< >", []),
        ("<http://a b/>", []),
        ("<http://a/\x00>, <http://a/\r\nX: y>, <http://a/\x1b[31m>, <http://a/\u202e>", []),
        ("<http:>, <http://>, <http://[::1>, <http://h:x/>, <http://h:0/>, <mailto:a@b>, <a:b>", []),
        ("<file:///etc/passwd>, <rsync://m/x>", ["file:///etc/passwd", "rsync://m/x"]),
        ('<http://a/"x">, <http://a\\@b/>', []),
        ("", []),
        (",,,", []),
    ],
)
def test_where_links_lead(value: str, expected: list[str]) -> None:
    """To the target, resolved where the field came from; what is no URL, or of an anchor elsewhere, is left out."""
    assert urls(value) == expected


@pytest.mark.parametrize(
    ("value", "relations"),
    [
        ("<a>; rel=duplicate", {"duplicate"}),
        ('<a>; rel="duplicate"', {"duplicate"}),
        ('<a>;REL="Duplicate  next\thttp://example.org/Rel"', {"duplicate", "next", "http://example.org/rel"}),
        ("<a> ; rel = duplicate", {"duplicate"}),
        ('<a>; rel = "duplicate" ; pri = 1', {"duplicate"}),
        ("<a>; rel=next; rel=duplicate", {"next"}),
        ("<a>; rel; rel=duplicate", set()),
        ("<a>;;; rel=duplicate;", {"duplicate"}),
        ("<a>; =x; rel=duplicate", {"duplicate"}),
        ('<a>; rel="dup\\licate"', {"duplicate"}),
        ('<a>; rel="duplicate', set()),
        ("<a>; rel*=UTF-8''duplicate", set()),
        ("<a>; (; rel=duplicate", set()),
        ("<a>", set()),
    ],
)
def test_the_first_rel_counts(value: str, relations: set[str]) -> None:
    """It holds several relations between blanks, whose case does not matter (RFC 8288, section 3.3)."""
    (link,) = read_links(value, BASE)
    assert link.relations == relations


def test_parameters_as_they_stand() -> None:
    """Names are in lower case, values unescaped; an extended parameter (RFC 8187) is none of ours."""
    value = r"""<a>; Title="x \"y\" \\z"; type=application/metalink4+xml; pref; title*=UTF-8''%e2%82%ac; a="1"; a=2"""
    (link,) = read_links(value, BASE)
    assert link.parameters == (
        ("title", r'x "y" \z'),
        ("type", "application/metalink4+xml"),
        ("pref", ""),
        ("a", "1"),
        ("a", "2"),
    )
    assert (link.get("a"), link.get("b")) == ("1", None)


def test_the_examples_of_rfc_8288() -> None:
    """Those of section 3.5, less what is not for us."""
    (first,) = read_links('<http://example.com/TheBook/chapter2>; rel="previous"; title="previous chapter"', BASE)
    assert (first.relations, first.get("title")) == ({"previous"}, "previous chapter")
    assert urls('</>; rel="http://example.net/foo"') == ["https://host/"]
    assert urls('</terms>; rel="copyright"; anchor="#foo"') == []
    value = '<http://example.org/>; rel="start http://example.net/relation/other"'
    assert read_links(value, BASE)[0].relations == {"start", "http://example.net/relation/other"}
    two = (
        "</TheBook/chapter2>; rel=\"previous\"; title*=UTF-8'de'letztes%20Kapitel,"
        "</TheBook/chapter4>; rel=\"next\"; title*=UTF-8'de'n%c3%a4chstes%20Kapitel"
    )
    assert [(link.url, *link.relations) for link in read_links(two, BASE)] == [
        ("https://host/TheBook/chapter2", "previous"),
        ("https://host/TheBook/chapter4", "next"),
    ]


def test_a_repr_shows_no_secret_and_is_short() -> None:
    """Neither userinfo nor the values of a query, nor parameters."""
    (link,) = read_links('<http://u:canary@h/?t=canary>; rel=x; title="canary"', BASE)
    assert "canary" not in repr(link)
    (link,) = read_links(f"<http://h/{'a' * 5000}>; rel=x; title={'b' * 5000}", BASE)
    assert len(repr(link)) < 1000


# Mirrors


def test_the_mirrors_of_real_servers() -> None:
    """The fields that mirror redirectors send: priorities, countries, and the metalink."""
    mirrors = read_mirrors(read_links(KALI, BASE))
    assert [(m.url.split("/")[2], m.priority, m.location) for m in mirrors] == [
        ("kali.download", 1, "ae"),
        ("ask4.mm.fcix.net", 2, "gb"),
        ("ftp.hands.com", 3, "gb"),
    ]
    links = read_links(MIRRORBRAIN, BASE)
    assert [m.url for m in read_mirrors(links)] == ["http://ftp.example.de/e.exe"]
    assert described_by(links) == ("http://host/e.exe.meta4",)


def test_the_best_mirror_comes_first() -> None:
    """By priority, and in the order of the field among equals; one that has none comes last (RFC 6249, section 3.1)."""
    value = ", ".join(
        f"<http://{host}/>; rel=duplicate{rest}"
        for host, rest in [
            ("none", ""),
            ("b", "; pri=2"),
            ("zero", "; pri=0"),
            ("a", "; pri=1"),
            ("c", '; pri="2"'),
            ("large", "; pri=1000000"),
            ("word", "; pri=first"),
            ("huge", f"; pri={'9' * 5000}"),
            ("last", "; pri=999998"),
        ]
    )
    mirrors = read_mirrors(read_links(value, BASE))
    assert [(m.url[7:-1], m.priority) for m in mirrors] == [
        ("a", 1),
        ("b", 2),
        ("c", 2),
        ("last", 999_998),
        *((host, WORST) for host in ("none", "zero", "large", "word", "huge")),
    ]


@pytest.mark.parametrize(
    ("parameters", "location"),
    [
        ("; geo=de", "de"),
        ('; geo="GB"', "gb"),
        ("; geo=deu", None),
        ("; geo=d1", None),
        ("; geo", None),
        ("; geo=éé", None),
        ("", None),
    ],
)
def test_a_location_is_a_code_of_two_letters(parameters: str, location: str | None) -> None:
    """ISO 3166-1 alpha-2; anything else is none (RFC 6249, section 3.2)."""
    (mirror,) = read_mirrors(read_links(f"<http://a/>; rel=duplicate{parameters}", BASE))
    assert mirror.location == location


def test_a_mirror_counts_once_and_other_links_do_not() -> None:
    """The first one of equal URLs; of rel=duplicate only."""
    value = "<http://a/>; rel=duplicate; pri=5, <http://a/>; rel=duplicate; pri=1, <http://b/>; rel=next"
    assert [(m.url, m.priority) for m in read_mirrors(read_links(value, BASE))] == [("http://a/", 5)]


def test_metalinks_of_version_4_come_first() -> None:
    """By media type, parameters of which do not matter; each once; torrents and signatures are none."""
    value = ", ".join(
        f"<http://h/{name}>; rel={rel}; type={kind}"
        for name, rel, kind in [
            ("asc", "describedby", "application/pgp-signature"),
            ("3", "describedby", "application/metalink+xml"),
            ("4", "DescribedBy", '"Application/Metalink4+XML; charset=utf-8"'),
            ("4", "describedby", "application/metalink4+xml"),
            ("no", "duplicate", "application/metalink4+xml"),
        ]
    )
    assert described_by(read_links(value, BASE)) == ("http://h/4", "http://h/3")
    assert described_by(read_links("<a>; rel=describedby", BASE)) == ()


# What references mean


@pytest.mark.parametrize(
    ("reference", "base", "url"),
    [
        ("/x", "mem://m/a/b", "mem://m/x"),
        ("x", "s3://bucket/a/b", "s3://bucket/a/x"),
        ("//n/x", "mem://m/a", "mem://n/x"),
        ("HTTP://H/", "mem://m", "HTTP://H/"),
        ("x", "no base", None),
        ("x", "http://[", None),
        ("", "http://h/", None),
        ("a" * 8001, "http://h/", None),
        ("\udc80", "http://h/", None),
        ("file:///a\u202eb", "http://h/", None),
        ("http://h/\u00e9", "http://h/", "http://h/\u00e9"),
    ],
)
def test_what_a_reference_means(reference: str, base: str, url: str | None) -> None:
    """The same for all schemes; None for what is no URL."""
    assert target(reference, base) == url


# Whatever comes

SEGMENTS = st.text(st.sampled_from("abcXYZ019-._~%!$&()*+,;=:@"), min_size=1, max_size=8)
VALUES = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=12)
NAMES = st.text(st.sampled_from("abcdefghijklmnop-"), min_size=1, max_size=8).filter(
    lambda name: name not in ("rel", "anchor")
)


@given(
    st.lists(
        st.tuples(SEGMENTS, st.sets(st.sampled_from(["duplicate", "next", "x:y"])), st.lists(st.tuples(NAMES, VALUES)))
    ),
    st.sampled_from([",", ", ", " ,\t, "]),
    st.sampled_from(["{}={}", "{} = {}", "{}= {} "]),
)
@settings(deadline=None)
def test_what_is_written_is_read(links, comma: str, pair: str) -> None:
    """Any value of a parameter, as a quoted string, comes back as it was."""
    written = []
    for path, relations, parameters in links:
        pairs = [("rel", " ".join(sorted(relations))), *parameters]
        written.append(f"<http://h/{path}>" + "".join(f";{pair.format(name, quoted(text))}" for name, text in pairs))
    read = read_links(comma.join(written), BASE)
    assert [(link.url, link.relations, [*link.parameters[1:]]) for link in read] == [
        (f"http://h/{path}", relations, parameters) for path, relations, parameters in links
    ]


PIECES = st.sampled_from([*'<>;,="\\ \t\n\x00*aé/', "<a>", "; rel=duplicate", "; pri=", "http://h/", "\ud800", '"x"'])


@given(st.one_of(st.text(), st.lists(PIECES, max_size=30).map("".join)), st.one_of(st.just(BASE), st.text()))
@settings(deadline=None, max_examples=300)
def test_no_value_is_too_bad_to_be_read(value: str, base: str) -> None:
    """Nothing is raised, and all that comes of it are URLs without controls."""
    links = read_links(value, base)
    for url in [*(link.url for link in links), *(m.url for m in read_mirrors(links)), *described_by(links)]:
        assert url.isprintable()
        assert " " not in url
        assert ":" in url


HOSTILE = [
    '"',
    "\\",
    ",",
    "<",
    ">",
    ";",
    "=",
    " ",
    "a",
    '";',
    '\\"',
    "<>",
    "<a>,",
    "<a>;a;",
    "<,",
    '<"',
    ";a",
    '="',
    "a =",
]


@pytest.mark.parametrize("start", ["", "<a>; rel=", '<a>; title="', "<"])
@pytest.mark.parametrize("unit", [*HOSTILE, "<http://h/>; rel=duplicate; pri=1,"])
def test_a_mebibyte_of_anything_is_read_in_no_time(unit: str, start: str) -> None:
    """Linear, whatever is repeated, and never closed."""
    value = start + unit * (SIZE // len(unit))
    before = time.process_time()
    read_mirrors(read_links(value, BASE))
    assert time.process_time() - before < 1


def test_no_more_than_a_thousand_links() -> None:
    """What is longer is no honest field."""
    value = ", ".join(f"<http://h/{n}>; rel=duplicate" for n in range(5000))
    assert len(read_links(value, BASE)) == 1000
    (link,) = read_links(f"<a>{'; a=b' * 5000}", BASE)
    assert len(link.parameters) == 1000


# The words of header fields


def test_a_quoted_string_holds_no_control_characters() -> None:
    """They cannot be sent; a tab can (RFC 9110, section 5.6.4)."""
    assert quoted('a\t"\\') == '"a\t\\"\\\\"'
    for character in "\r\n\x00\x1f\x7f":
        with pytest.raises(ValueError, match="control characters"):
            quoted(f"a{character}")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("010", 10), (" 5 ", 5), ("10", 10), ("0", None), ("11", None), ("-1", None), ("+1", None),
     ("1.5", None), ("1_0", None), ("", None), (None, None), ("٣", None), ("9" * 5000, None)],
)  # fmt: skip
def test_numbers_are_decimal_digits_within_bounds(text: str | None, value: int | None) -> None:
    """Nothing that `int` alone would let pass: signs, underscores, other scripts, thousands of digits."""
    assert number(text, 1, 10) == value


@pytest.mark.parametrize(("text", "code"), [("DE", "de"), (" gb ", "gb"), ("", None), (None, None), ("ß", None)])
def test_countries(text: str | None, code: str | None) -> None:
    """Two letters of ASCII, in lower case."""
    assert country(text) == code


@given(st.lists(st.text(st.sampled_from("ab=;<> \t.")), max_size=6))
@settings(deadline=None)
def test_every_element_of_a_list_is_visited_once(elements: list[str]) -> None:
    """Commas divide, empty elements do not count (RFC 9110, section 5.6.1.2)."""
    reader = FieldReader(",".join(elements))
    assert sum(1 for _ in reader.elements()) == sum(1 for each in elements if each.strip(" \t"))
