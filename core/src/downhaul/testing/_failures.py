"""The part of the contract about what fails, and how."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from downhaul import DownloadError, FetchError, User

from ._inheritance import Inheritance
from ._stage import attempted, difference, sample

if TYPE_CHECKING:
    from downhaul import Driver, Info

_INJECTED = ("\r\nX-Injected: 1", "%0D%0AX-Injected:%201", "%0ANOOP", "%00", "\x00", "\n")


class FailureFacts(Inheritance):
    """Facts about errors: of the tree, with a message, without the client library's exceptions."""

    def test_missing(self) -> None:
        """What is not there is NotFound or another FetchError, and the driver goes on working."""
        missing, content = self.known_missing_url(), sample(20_000, seed=40)
        url = self.url_of(content)

        async def scenario(driver: Driver) -> tuple[Info, bytes] | DownloadError:
            answer = await self.attempt(driver, missing)
            assert not difference((await self.get(driver, url))[1], content)
            return answer

        error = self.play(scenario)
        assert isinstance(error, FetchError)
        check_error(error)

    @pytest.mark.parametrize("verb", ["stat", "list"])
    def test_missing_for_other_verbs(self, verb: str) -> None:
        """Other verbs fail for what is not there with an error of the tree too."""
        missing = self.known_missing_url()
        error = self.play(lambda driver: self.attempt(driver, missing, verb=verb))
        assert isinstance(error, DownloadError)
        check_error(error)

    def test_missing_range(self) -> None:
        """A continuation of what is not there any more fails like the whole."""
        missing = self.known_missing_url()
        error = self.play(lambda driver: self.attempt(driver, missing, offset=100))
        assert isinstance(error, FetchError)
        check_error(error)

    def test_unreachable(self) -> None:
        """A server that is not there is a FetchError, transient where trying again may help."""
        url = self.unreachable_url()
        if url is None:
            pytest.skip("the inheritor knows no unreachable URL")
        error = self.play(lambda driver: self.attempt(driver, url))
        assert isinstance(error, FetchError)
        check_error(error)

    def test_list_stays_in_the_tree(self) -> None:
        """A list is answered or refused with an error of the tree."""
        url = self.url_of(sample(100, seed=41))
        answer = self.play(lambda driver: self.attempt(driver, url, verb="list"))
        if isinstance(answer, DownloadError):
            check_error(answer)

    @pytest.mark.parametrize("injected", _INJECTED, ids=ascii)
    def test_control_characters_in_a_url(self, injected: str) -> None:
        """Control characters in a URL, written out or percent-encoded, end in an error of the tree."""
        missing, content = self.known_missing_url(), sample(20_000, seed=42)
        url = self.url_of(content)

        async def scenario(driver: Driver) -> tuple[Info, bytes] | DownloadError:
            answer = await self.attempt(driver, missing + injected)
            assert not difference((await self.get(driver, url))[1], content)
            return answer

        error = self.play(scenario)
        assert isinstance(error, DownloadError)
        check_error(error)
        assert str(error).isprintable()

    @pytest.mark.parametrize("name", ["elmer\r\nNOOP", "elmer\n", "elmer\x00"], ids=ascii)
    def test_control_characters_in_a_name(self, name: str) -> None:
        """A user's name with control characters is encoded harmlessly or refused with an error of the tree."""
        content = sample(20_000, seed=43)
        url = self.url_of(content)

        async def scenario(driver: Driver) -> tuple[Info, bytes] | DownloadError:
            request = self.request(url).authorized(user=User(name, "password\r\nNOOP"))
            answer = await attempted(driver, request, self.settings.complete())
            assert not difference((await self.get(driver, url))[1], content)
            return answer

        match self.play(scenario):
            case (_, received):
                assert not difference(received, content)
            case error:
                check_error(error)
                assert "password" not in f"{error}{error!r}"

    def test_no_secret_in_an_error(self) -> None:
        """An error names no credentials."""
        missing = self.known_missing_url()

        async def scenario(driver: Driver) -> tuple[Info, bytes] | DownloadError:
            request = self.request(missing)
            if request.credentials is None:
                request = replace(request, credentials=request.authorized([("X-Token", "quite-secret")]).credentials)
            return await attempted(driver, request, self.settings.complete())

        error = self.play(scenario)
        assert isinstance(error, DownloadError)
        assert "quite-secret" not in f"{error}{error!r}{vars(error)!r}"


def check_error(error: DownloadError) -> None:
    """Check that *error* says something, holds no other exception, and survives a pickle."""
    assert str(error).strip(), f"a {type(error).__name__} without a message helps nobody"
    for name in ("__cause__", "__context__"):
        held = getattr(error, name)
        assert held is None, f"{name} of {error!r} holds {held!r}; a client library's exception holds its requests"
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(again) is type(error)
    assert str(again) == str(error)
