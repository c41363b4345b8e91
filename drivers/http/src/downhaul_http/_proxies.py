"""From the URL of a proxy to the proxy of httpx."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

from downhaul import ProxyError

if TYPE_CHECKING:
    import ssl


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
