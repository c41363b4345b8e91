"""Scopes: what a credential is for, decided in one place: an origin, and what is below a path of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downhaul import Credentials, RedirectError, Request, User, covers, same_place

HOME = "https://host/team-a/"


@pytest.mark.parametrize(
    ("scope", "url"),
    [
        ("https://host", "https://host/any/file?q=1"),
        ("https://host/", "https://host"),
        ("https://HOST:443/", "HTTPS://host/file"),
        (HOME, "https://host/team-a/"),
        (HOME, "https://host/team-a"),
        (HOME, "https://host/team-a/deep/file"),
        ("https://host/team-a", "https://host/team-a/file"),
        (HOME, "https://user:password@host/team-a/file"),
        ("ftp://host/pub/", "ftp://host/pub/file;type=i"),
        ("https://host", "https://host/a/../b"),
    ],
)
def test_what_is_covered(scope: str, url: str):
    """The same scheme, host and port, and a path at the scope's own or below it."""
    assert covers(scope, url)


@pytest.mark.parametrize(
    ("scope", "url"),
    [
        (HOME, "http://host/team-a/file"),
        (HOME, "https://host:8443/team-a/file"),
        (HOME, "https://other/team-a/file"),
        (HOME, "https://host.other/team-a/file"),
        (HOME, "https://host/team-b/file"),
        (HOME, "https://host/team-abc/file"),
        (HOME, "https://host/Team-A/file"),
        (HOME, "https://host/"),
        (HOME, "https://host/team-a/../team-b/file"),
        (HOME, "https://host/team-a/%2e%2e/team-b/file"),
        (HOME, "https://host/team-a/.%2E/team-b/file"),
        (HOME, "https://host/team-a/x%2f..%2f..%2fteam-b/file"),
        (HOME, "https://host/team-a/..\\team-b"),
        (HOME, "https://host/team-a/x%5C..%5C..%5Cteam-b"),
        (HOME, "https://host//team-a/file"),
        ("https://host", "https://host@other/file"),
    ],
)
def test_what_is_not_covered(scope: str, url: str):
    """Another origin, another directory, a name that only begins alike, and whatever may lead out of it."""
    assert not covers(scope, url)


@given(st.lists(st.sampled_from(["a", "team-a", "..", ".", "%2e", "%2E%2e", "%2f", "\\", ""]), max_size=6))
def test_no_path_leads_out_of_a_scope(segments: list[str]):
    """Whatever is covered has its path literally below that of the scope, and holds no dot segment in any disguise."""
    path = "/".join(segments)
    if covers(HOME, f"https://host/{path}"):
        assert f"{path}/".startswith("team-a/")
        plain = path.lower().replace("%2e", ".").replace("%2f", "/").replace("\\", "/")
        assert {".", ".."}.isdisjoint(plain.split("/"))


def test_credentials_bound_to_a_path_go_nowhere_else():
    """`authorized(within=…)`: what is below the path may see them, another path of the same origin may not."""
    request = Request("https://host/team-a/file").authorized([("X-Key", "secret")], within=HOME)
    assert request.entitled is not None
    assert request.redirected("/team-a/other").fields() == (("X-Key", "secret"),)
    away = request.redirected("/team-b/file")
    assert away.credentials is None
    assert away.redirected("/team-a/file").credentials is None


def test_credentials_bound_to_an_origin_go_everywhere_there():
    """Without a path they are for the whole origin, and are not restored by a way back from elsewhere."""
    request = Request("https://host/team-a/file").authorized(user=User("elmer", "secret"))
    assert request.redirected("/team-b/file").user == User("elmer", "secret")
    assert request.redirected("https://other/").redirected("https://host/team-a/file").user is None


def test_two_credentials_are_bound_to_the_narrower_scope():
    """One for the origin and one for a path of it: together they are for the path, in whichever order they came."""
    bare = Request("https://host/team-a/file")
    wide_first = bare.authorized([("A", "1")]).authorized([("B", "2")], within=HOME)
    narrow_first = bare.authorized([("B", "2")], within=HOME).authorized([("A", "1")])
    for request in (wide_first, narrow_first):
        assert sorted(request.fields()) == [("A", "1"), ("B", "2")]
        assert request.redirected("/team-b/file").fields() == ()


def test_a_request_elsewhere_cannot_be_authorized():
    """A scope that the request is not in is a mistake of the caller, told as such and without a secret."""
    with pytest.raises(ValueError, match="https://host/team-b/file is not within https://host/team-a/"):
        Request("https://host/team-b/file").authorized(within=HOME)


def test_what_is_posted_is_not_redirected():
    """A form holds secrets: it is sent to the URL that it is for, and never again (RFC 9110, section 15.4)."""
    request = Request("https://host/token").authorized(form=[("client_secret", "canary-7")])
    with pytest.raises(RedirectError, match="posted") as caught:
        request.redirected("https://host/token2")
    assert "canary-7" not in repr(request) + repr(request.credentials) + str(caught.value)
    assert request.credentials.hide("you sent canary-7") == "you sent ***"


def test_secrets_of_credentials_are_not_shown():
    """The repr of credentials tells where they are for, and no more."""
    shown = repr(Credentials("https://host", (("A", "s3cret"),), (("k", "s3cret"),), User("n", "s3cret"), path="/a/"))
    assert "s3cret" not in shown
    assert "/a/" in shown


@pytest.mark.parametrize("path", ["..;/b", "..%3b/b", "%252e%252e/b", "%25252e%25252e/b", "%c0%ae%c0%ae/b", "..%00/b"])
def test_dots_in_disguise_are_covered_by_no_path(path: str):
    """What some servers take for a way up is not below a scope."""
    assert not covers(HOME, f"{HOME}{path}")
    assert covers("https://host", f"{HOME}{path}")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://h/f?X-Amz-Signature=1&X-Amz-Date=2", "https://h/f?X-Amz-Signature=3&X-Amz-Date=4", True),
        ("https://h/f?id=1&sig=a&se=1", "https://h/f?id=1&sig=b&se=2", True),
        ("https://h/f?Expires=1&Signature=a&Key-Pair-Id=k", "https://h/f", True),
        ("https://h/get?node=1", "https://h/get?node=2", False),
        ("https://h/get?id=1&sig=a", "https://h/get?id=2&sig=a", False),
        ("https://h/a?sig=1", "https://h/b?sig=1", False),
    ],
)
def test_what_differs_in_its_signature_alone(one: str, other: str, same: bool):
    """A query may be the name of the file: only what signs a URL, or dates it, may be another."""
    assert same_place(one, other) is same


@pytest.mark.parametrize("told", ["p@ss/w+ rd", "p%40ss%2Fw%2B%20rd", "p%40ss%2Fw%2B+rd"])
def test_secrets_are_hidden_in_any_encoding(told: str):
    """A server that repeats what was posted repeats it as it was sent."""
    request = Request("https://host/").authorized(form=[("client_secret", "p@ss/w+ rd")])
    assert request.credentials.hide(f"invalid: {told}!") == "invalid: ***!"
