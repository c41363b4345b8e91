"""Django's own handlers: for WSGI under the server of the standard library, for ASGI under uvicorn."""

from __future__ import annotations

from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import django
from django.conf import settings

from . import asgi, wsgi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from downhaul import Download

if not settings.configured:
    # Once in a process, and the importer with Django models may be tested in this one, too: it needs its tables.
    settings.configure(
        INSTALLED_APPS=["django_importer"] if find_spec("django_importer") else [],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    )
    django.setup()
if not settings.is_overridden("ROOT_URLCONF"):
    settings.ROOT_URLCONF = None  # each request brings the routes of its server

from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.urls import re_path

from downhaul.adapters.django import arelay, relay


@contextmanager
def serve(handle: Callable[[str], Download], **options: Any) -> Iterator[str]:
    """Answer every path with ``handle(path)`` relayed, *options* are those of `relay`; yield the base URL."""
    with wsgi.running(wsgi_app(view(handle, **options))) as base:
        yield base


@contextmanager
def serve_asgi(handle: Callable[[str], Download], **options: Any) -> Iterator[str]:
    """Do the same under ASGI, with a view that is a coroutine function."""
    with asgi.serving(asgi_app(aview(handle, **options)), lifespan="off") as base:
        yield base


def view(handle: Callable[[str], Download], **options: Any) -> Callable[..., Any]:
    """Return a view that is a plain function."""

    def answer(request: Any) -> Any:
        return relay(request, handle(request.path), **options)

    return answer


def aview(handle: Callable[[str], Download], **options: Any) -> Callable[..., Any]:
    """Return a view that is a coroutine function."""

    async def answer(request: Any) -> Any:
        return await arelay(request, handle(request.path), **options)

    return answer


def wsgi_app(answer: Callable[..., Any]) -> WSGIHandler:
    """Return a WSGI application that has the view *answer* for every path."""

    class Handler(WSGIHandler):
        def get_response(self, request: Any) -> Any:
            request.urlconf = routes
            return super().get_response(request)

    routes = (re_path("", answer),)
    return Handler()


def asgi_app(answer: Callable[..., Any]) -> ASGIHandler:
    """Return an ASGI application that has the view *answer* for every path."""

    class Handler(ASGIHandler):
        async def get_response_async(self, request: Any) -> Any:
            request.urlconf = routes
            return await super().get_response_async(request)

    routes = (re_path("", answer),)
    return Handler()
