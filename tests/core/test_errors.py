"""Errors: made from one message, safe to show, fit to travel."""

from __future__ import annotations

import copy
import pickle
import threading
import traceback
from typing import TYPE_CHECKING

import pytest
from tests.mem import MemDriver, Reply

import downhaul
from downhaul import (
    AccessDenied,
    Attempt,
    BufferWriter,
    Context,
    Download,
    DownloadError,
    NotFound,
    PreparationError,
    Retries,
    ServerError,
    SourcesExhausted,
    StatusError,
    TimeoutExceeded,
    TooManyRequests,
    WriteError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

ERRORS = [
    getattr(downhaul, name)
    for name in downhaul.__all__
    if isinstance(getattr(downhaul, name), type) and issubclass(getattr(downhaul, name), DownloadError)
]
TRANSIENT = {
    "ConnectError", "TimeoutExceeded", "Truncated", "TooManyRequests", "ServerError", "ValidationError",
    "SizeMismatch", "DigestMismatch",
}  # fmt: skip
URL = "https://elmer:hunter2@host/file?token=sesame"


@pytest.fixture
def driver() -> MemDriver:
    """A scripted driver."""
    return MemDriver()


@pytest.fixture
def context(driver: MemDriver) -> Iterator[Context]:
    """A context that asks it."""
    with Context(drivers={"mem": driver, "https": driver}, plugins=[Retries(base=0)]) as context:
        yield context


def failed(download: Download) -> DownloadError:
    """Return the error that a download ends with."""
    with pytest.raises(DownloadError) as raised:
        download()
    return raised.value


@pytest.mark.parametrize("kind", ERRORS)
def test_one_message_is_enough(kind: type[DownloadError]) -> None:
    """Every error can be built from one message, and from none."""
    assert str(kind("so it is")) == "so it is"
    assert kind("so it is").args == ("so it is",)
    assert isinstance(kind().transient, bool)
    assert (kind().url, kind().source, kind().history, kind().attachment) == ("", "", (), None)


@pytest.mark.parametrize("kind", ERRORS)
def test_transient(kind: type[DownloadError]) -> None:
    """Those errors are transient that may pass by themselves, and no others."""
    assert kind("").transient == (kind.__name__ in TRANSIENT)


@pytest.mark.parametrize(("code", "transient"), [(408, True), (421, True), (425, True), (429, True), (400, False)])
def test_transient_status(code: int, transient: bool) -> None:
    """Of the statuses without a class of their own 408, 421, 425 and 429 are transient."""
    assert StatusError("", code=code).transient is transient


@pytest.mark.parametrize("kind", ERRORS)
def test_pickles_with_all_attributes(kind: type[DownloadError]) -> None:
    """An error comes out of a pickle as it went in, its own attributes too."""
    error = kind("so it is")
    error.belongs_to("mem://home/file", "mem://mirror/file", (), {"id": 7})
    error.add_note("a note")
    for name in set(vars(error)) - {"url", "source", "history", "attachment", "transient", "__notes__"}:
        setattr(error, name, ("kept", name))
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert back.args == error.args
    assert vars(back) == vars(error)


@pytest.mark.parametrize(
    ("error", "attribute", "value"),
    [
        (TimeoutExceeded("", "idle"), "phase", "idle"),
        (StatusError("", 404, "Not Here"), "code", 404),
        (AccessDenied("", 403, "No\x1b[2J"), "reason", r"No\x1b[2J"),
        (TooManyRequests("", 429, "", 17.5), "retry_after", 17.5),
        (WriteError("", 28), "errno", 28),
        (SourcesExhausted("", [ServerError("", 503, "", 9), NotFound("", 404)]), "retry_after", 9),
        (SourcesExhausted("", [ServerError("", 503), NotFound("", 404)]), "transient", True),
        (SourcesExhausted("", [AccessDenied("", 403), NotFound("", 404)]), "transient", False),
    ],
)
def test_attributes(error: DownloadError, attribute: str, value: object) -> None:
    """What an error knows besides its message is an attribute, before and after a pickle."""
    assert getattr(error, attribute) == value
    assert getattr(pickle.loads(pickle.dumps(error)), attribute) == value


def test_causes_and_errors_travel() -> None:
    """The errors inside of an error survive a pickle."""
    preparation = pickle.loads(pickle.dumps(PreparationError("list", cause=NotFound("gone", 404))))
    assert (type(preparation.cause), preparation.cause.code) == (NotFound, 404)
    exhausted = pickle.loads(pickle.dumps(SourcesExhausted("all", [NotFound("gone", 404), ServerError("bad", 500)])))
    assert [type(each) for each in exhausted.errors] == [NotFound, ServerError]


def test_errors_with_a_history_pickle(driver: MemDriver, context: Context) -> None:
    """The history tells the last attempt too, with an error equal to the one raised; a pickle keeps all of it."""
    driver.site("mem://home/file", Reply(status=503))
    error = failed(Download("mem://home/file", BufferWriter(), context=context, retries=2, attachment={"id": 7}))
    assert error.history[-1].error is not error, "the error would hold itself, and live until the collector comes"
    back = pickle.loads(pickle.dumps(error))
    assert [each.round for each in back.history] == [1, 2, 3]
    assert [str(each.error) for each in back.history] == ["503", "503", "503"]
    assert back.attachment == {"id": 7}


def test_attempt_of_its_own_history_pickles() -> None:
    """An attempt may be pickled by itself, though its error's history leads back to it."""
    error = NotFound("gone", 404)
    error.history = (Attempt("mem://home/", 1, 0, error),)
    back = pickle.loads(pickle.dumps(error.history[0]))
    assert back.error.code == 404


def test_unpicklable_attachment_is_dropped() -> None:
    """An attachment that cannot be pickled stays behind; the error travels."""
    error = NotFound("gone", 404)
    error.attachment = threading.Lock()
    back = pickle.loads(pickle.dumps(error))
    assert (back.attachment, back.code) == (None, 404)
    assert error.attachment is not None


def test_attachment_that_holds_the_error_does_not_hang() -> None:
    """An attachment that leads back to its error (an ORM object, say) stays behind too."""
    error = NotFound("gone", 404)
    error.attachment = {"failed_with": error}
    assert pickle.loads(pickle.dumps(error)).code == 404


@pytest.mark.parametrize("copied", [copy.copy, DownloadError.copy], ids=["copy.copy", "copy()"])
def test_copies(copied: object) -> None:
    """A copy is equal in everything, apart in identity, and keeps an attachment that no pickle could."""
    error = AccessDenied("no", 403, "Forbidden")
    error.belongs_to(URL, URL, (), threading.Lock())
    other = copied(error)  # type: ignore[operator]
    assert type(other) is AccessDenied
    assert other is not error
    assert (str(other), vars(other)) == (str(error), vars(error))


def test_notes_of_a_copy_are_its_own() -> None:
    """A note added to a copy is not on the original: each download that waited makes the error its own."""
    error = NotFound("gone")
    error.add_note("for all")
    other = error.copy()
    other.add_note("for one")
    assert error.__notes__ == ["for all"]
    assert other.__notes__ == ["for all", "for one"]


def test_urls_of_an_error_have_no_userinfo(driver: MemDriver, context: Context) -> None:
    """`error.url` and `error.source` name URLs without userinfo; the query stays, so the file can be told."""
    error = failed(Download(URL, BufferWriter(), context=context, retries=0))
    assert error.url == error.source == error.history[0].source == "https://host/file?token=sesame"


def test_nothing_secret_is_shown(driver: MemDriver, context: Context) -> None:
    """`str`, `repr`, history and pickle of an error have neither userinfo nor values of a query."""
    error = failed(Download(URL, BufferWriter(), context=context, retries=0))
    for text in (str(error), repr(error), repr(error.history), str(error.args), str(pickle.dumps(error))):
        assert "hunter2" not in text
        assert "sesame" not in text


@pytest.mark.parametrize("kind", ERRORS)
def test_urls_in_a_message_are_redacted(kind: type[DownloadError]) -> None:
    """Whoever writes the message: URLs in it are shown without userinfo and values of the query."""
    error = kind(f"cannot get '{URL}', nor <ftp://elmer:hunter2@h/>, nor {URL}&x=sesame#top")
    for text in (str(error), repr(error)):
        assert "hunter2" not in text
        assert "sesame" not in text
        assert "https://host/file?token=***" in text


@pytest.mark.parametrize("kind", ERRORS)
def test_control_characters_are_escaped(kind: type[DownloadError]) -> None:
    """A message from the network cannot steer a terminal, break a log line or reverse the text."""
    message = str(kind("gone\r\nINFO all is well \x1b[2J \x9b \u202e \x00"))
    assert message == r"gone\r\nINFO all is well \x1b[2J \x9b \u202e \x00"


def test_an_error_that_nobody_catches_names_the_file() -> None:
    """The traceback ends with the URL of the download, and with the source that failed where that is another."""
    error = NotFound("the server answers 404")
    error.belongs_to("https://u:hunter2@host/file?token=hunter2", "https://mirror/file", (), None)
    last = "".join(traceback.format_exception(error)).splitlines()[-2:]
    assert last[0].endswith("NotFound: the server answers 404")
    assert last[1] == "of https://host/file?token=***, from https://mirror/file"


def test_a_subclass_of_somebody_else_travels() -> None:
    """A plugin's own error with more arguments pickles and copies without any help."""
    error = QuotaExceeded("too much", 12, unit="GB")
    assert (str(error), error.limit) == ("too much", 12)
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), back.limit, back.unit) == (QuotaExceeded, 12, "GB")
    assert copy.copy(error).limit == 12


class QuotaExceeded(DownloadError):
    """An error of a plugin."""

    def __init__(self, message: str, limit: int, *, unit: str) -> None:
        super().__init__(message)
        self.limit, self.unit = limit, unit
