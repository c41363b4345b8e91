from __future__ import annotations

import ssl

import pytest
import trustme

from downhaul import Settings
from downhaul_http import HttpDriver


@pytest.fixture(params=["direct", "library"], autouse=True)
def road(request, monkeypatch):
    """Let each test of the driver run on both roads: its own connections, and those of httpx.

    A test that is about one of them says so: ``@pytest.mark.parametrize("road", ["library"], indirect=True)``.
    """
    if request.param == "library":
        monkeypatch.setattr("downhaul_http._pools.is_mocked", lambda: True)
    return request.param


@pytest.fixture(scope="module")
def ca():
    """An authority."""
    return trustme.CA()


@pytest.fixture(scope="module")
def identity(ca):
    """The TLS of a server that the authority vouches for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def trust(ca):
    """The TLS of who trusts the authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(context)
    return context


@pytest.fixture
async def driver():
    """A driver, closed at the end."""
    driver = HttpDriver()
    yield driver
    await driver.aclose()


@pytest.fixture
def settings():
    """Complete settings, all defaults."""
    return Settings().complete()


@pytest.fixture
def fetch(driver, settings):
    """Open a request, read it whole, return its info and its bytes."""

    async def fetch(request, settings=settings, driver=driver):
        async with driver.open(request, settings) as payload:
            return payload.info, b"".join([block async for block in payload.body])

    return fetch
