"""Which proxy stands between the driver and an origin."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from downhaul import ProxyError

if TYPE_CHECKING:
    import ssl

    from downhaul import Settings


def proxy_for(url: str, settings: Settings) -> str:
    """Return the URL of the proxy for *url*, credentials included, or "" for none.

    The environment (``https_proxy``, ``all_proxy``, ``no_proxy``) counts only with ``Settings(environment=True)`` and
    where the settings name no proxy themselves.
    """
    if settings.proxy or not settings.environment:
        return settings.proxy or ""
    parts = urlsplit(url)
    proxies = getproxies()
    if proxy_bypass(parts.netloc.rpartition("@")[2]):
        return ""
    proxy = proxies.get(parts.scheme) or proxies.get("all") or ""
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"


def client_proxy(url: str, trust: ssl.SSLContext | None) -> httpx.Proxy | None:
    """Return the proxy at *url* as httpx wants it, or None for ""; raises ProxyError for what is no proxy's URL.

    *trust* is for a proxy that is reached by TLS.
    """
    if not url:
        return None
    failure = None
    try:
        proxy = httpx.Proxy(url)
    except (httpx.InvalidURL, ValueError) as reason:
        failure = ProxyError(
            "the URL of the proxy cannot be read"
            if isinstance(reason, httpx.InvalidURL)
            else "a proxy is reached by http, https, socks5 or socks5h"
        )
    if failure is not None:
        raise failure
    if proxy.url.scheme == "https":
        proxy.ssl_context = trust
    return proxy
