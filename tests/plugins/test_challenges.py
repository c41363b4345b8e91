"""WWW-Authenticate: one challenge or several, as servers send them, and whatever else may come."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from downhaul.plugins._parsing.challenges import Challenge, read_challenges

SIZE = 1024 * 1024
DOCKER = (
    'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull"'
)
RFC_7616 = (
    'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=SHA-256, '
    'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS", '
    'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=MD5, nonce="7ypf", opaque="FQhe"'
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Basic", [("basic", (), None)]),
        ('Basic realm="x"', [("basic", (("realm", "x"),), None)]),
        ("Basic realm=x", [("basic", (("realm", "x"),), None)]),
        ("Basic realm=x y \t, charset=z ", [("basic", (("realm", "x y"), ("charset", "z")), None)]),
        ('BASIC REALM = "x" , CHARSET="UTF-8"', [("basic", (("realm", "x"), ("charset", "UTF-8")), None)]),
        (r'Basic realm="a \"b\" \\c, d=e"', [("basic", (("realm", r'a "b" \c, d=e'),), None)]),
        ('Basic realm=""', [("basic", (("realm", ""),), None)]),
        ('Basic realm="é"', [("basic", (("realm", "é"),), None)]),
        ("Negotiate", [("negotiate", (), None)]),
        ("Negotiate a87421000492aa874209af8bc028", [("negotiate", (), "a87421000492aa874209af8bc028")]),
        ("NTLM TlRMTVNTUAAC==", [("ntlm", (), "TlRMTVNTUAAC==")]),
        ("Negotiate abc= , NTLM", [("negotiate", (), "abc="), ("ntlm", (), None)]),
        ("Negotiate, Basic realm=x", [("negotiate", (), None), ("basic", (("realm", "x"),), None)]),
        (
            'Newauth realm="apps", type=1, title="Login to \\"apps\\"", Basic realm="simple"',
            [("newauth", (("realm", "apps"), ("type", "1"), ("title", 'Login to "apps"')), None),
             ("basic", (("realm", "simple"),), None)],
        ),
        ("Basic realm=a, Basic realm=b", [("basic", (("realm", "a"),), None), ("basic", (("realm", "b"),), None)]),
        (" , ,Basic realm=a,, ,charset=b,", [("basic", (("realm", "a"), ("charset", "b")), None)]),
        ("Bearer", [("bearer", (), None)]),
        ("Basic , realm=x", [("basic", (("realm", "x"),), None)]),
        (
            'Bearer realm="https://a/?x=1,2",service="s",scope="repository:a/b:pull,push"',
            [("bearer", (("realm", "https://a/?x=1,2"), ("service", "s"), ("scope", "repository:a/b:pull,push")),
              None)],
        ),
        ("Bearer realm=https://a/t,service=s", [("bearer", (("realm", "https://a/t"), ("service", "s")), None)]),
        ('Basic realm="a" junk "b, c", charset=d', [("basic", (("realm", "a"), ("charset", "d")), None)]),
        ('Basic realm="a", "b", (, charset=d', [("basic", (("realm", "a"), ("charset", "d")), None)]),
        ('Basic realm="no end, Bearer realm="x"', [("basic", (("realm", "no end, Bearer realm="),), None)]),
        ('Basic realm="no end', [("basic", (), None)]),
        ("Basic realm", [("basic", (), "realm")]),
        ('realm="x", Basic', [("basic", (), None)]),
        ('realm="x"', []),
        ("=x", []),
        ('"Basic"', []),
        ("", []),
        (" ,, ", []),
    ],
)  # fmt: skip
def test_what_servers_send(value: str, expected: list[tuple[str, tuple[tuple[str, str], ...], str | None]]) -> None:
    """Schemes and names in lower case, values unescaped; what cannot be read is skipped, up to the next comma."""
    assert [(each.scheme, each.parameters, each.token68) for each in read_challenges(value)] == expected


def test_the_challenge_of_docker_hub() -> None:
    """What a registry asks for: realm, service and scope."""
    (challenge,) = read_challenges(DOCKER)
    assert challenge.get("realm") == "https://auth.docker.io/token"
    assert challenge.get("service") == "registry.docker.io"
    assert challenge.get("scope") == "repository:library/alpine:pull"
    assert challenge.get("error") is None


def test_a_scheme_may_come_twice() -> None:
    """The example of RFC 7616, section 3.9.1: both, in their order."""
    first, second = read_challenges(RFC_7616)
    assert (first.get("algorithm"), second.get("algorithm")) == ("SHA-256", "MD5")
    assert first.get("qop") == second.get("qop") == "auth, auth-int"
    assert second.get("opaque") == "FQhe"


def test_the_first_of_equal_names_counts() -> None:
    """Another one, behind it, cannot replace it."""
    (challenge,) = read_challenges("Bearer realm=a, realm=b, REALM=c")
    assert challenge.get("realm") == "a"
    assert len(challenge.parameters) == 3


def test_challenges_are_values() -> None:
    """They can be compared, and be keys."""
    assert len({*read_challenges(DOCKER), *read_challenges(DOCKER.replace("Bearer", "bearer"))}) == 1


def test_a_repr_is_short_and_tells_no_values() -> None:
    """Nonces and tokens are nobody's business."""
    endless = ", ".join(f"{'b' * 99}{number}=canary" for number in range(900))
    for value in (RFC_7616, 'Digest nonce="canary"', "Negotiate canary", f"{'a' * 5000} {endless}"):
        for challenge in read_challenges(value):
            assert len(repr(challenge)) < 200
            assert "canary" not in repr(challenge)
            assert "FQhe" not in repr(challenge)
    assert repr(read_challenges(DOCKER)[0]) == "Challenge('bearer', realm, service, scope)"


def test_how_challenges_are_written() -> None:
    """As the grammar of RFC 9110 has them, with all values quoted."""
    assert Challenge("ntlm").as_text() == "ntlm"
    assert Challenge("negotiate", token68="abc==").as_text() == "negotiate abc=="
    assert Challenge("basic", (("realm", 'a "b"'), ("charset", "UTF-8"))).as_text() == (
        r'basic realm="a \"b\"", charset="UTF-8"'
    )


def test_what_cannot_stand_in_a_field_is_not_written() -> None:
    """A line break would begin another field."""
    with pytest.raises(ValueError, match="control characters"):
        Challenge("basic", (("realm", "a\r\nX: y"),)).as_text()


TOKENS = st.text(st.sampled_from("abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~"), min_size=1, max_size=8)
TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=20)
CHALLENGES = st.one_of(
    st.builds(Challenge, TOKENS, st.lists(st.tuples(TOKENS, TEXTS), max_size=4).map(tuple)),
    st.builds(Challenge, TOKENS, token68=st.from_regex(r"[A-Za-z0-9._~+/-]{1,9}={0,2}", fullmatch=True)),
)


@given(st.lists(CHALLENGES, max_size=5), st.sampled_from([",", ", ", " , ,\t"]))
@settings(deadline=None, max_examples=300)
def test_what_is_written_is_read(challenges: list[Challenge], comma: str) -> None:
    """Any list of challenges comes back from its text as it was."""
    text = comma.join(challenge.as_text() for challenge in challenges)
    assert read_challenges(text) == tuple(challenges)


PIECES = st.sampled_from(
    [
        "Basic",
        "Bearer ",
        "realm",
        "=",
        ",",
        " ",
        "\t",
        '"',
        "\\",
        "x",
        "a=b",
        "==",
        'k="v"',
        "\n",
        "\x00",
        "é",
        ";",
        "\ud800",
    ]
)


@given(st.one_of(st.text(), st.lists(PIECES, max_size=30).map("".join)))
@settings(deadline=None, max_examples=500)
def test_no_value_is_too_bad_to_be_read(value: str) -> None:
    """Nothing is raised; names are tokens in lower case, and nothing comes out that did not go in."""
    for challenge in read_challenges(value):
        assert challenge.scheme
        assert challenge.scheme in value.lower()
        assert challenge.scheme.isascii()
        for name, text in challenge.parameters:
            assert name in value.lower()
            assert all(character in value for character in text)


@pytest.mark.parametrize("start", ["", "Basic ", 'Basic realm="', "Basic realm="])
@pytest.mark.parametrize(
    "unit",
    ['"', "\\", ",", "=", " ", "\t", "a", "a,", "a=b,", "a b,", 'a="b",', '\\"', '="', "a =", "a=", 'x y=",', '"a"'],
)
def test_a_mebibyte_of_anything_is_read_in_no_time(unit: str, start: str) -> None:
    """Linear, whatever is repeated, and never closed; and no more than 1,000 elements."""
    value = start + unit * (SIZE // len(unit))
    before = time.process_time()
    challenges = read_challenges(value)
    assert time.process_time() - before < 1
    assert len(challenges) + sum(len(challenge.parameters) for challenge in challenges) <= 2000
