from __future__ import annotations

import pytest

from downhaul import Settings
from downhaul_http import HttpDriver


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
