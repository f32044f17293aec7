"""The hosts that records may make us ask: those of an allow list; without one, whatever has a public address.

What a record names is asked for from inside of our network. A name is looked up once, and the address that was checked
is the one that is connected to, at each redirect anew.
"""

import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from huggingface_hub import constants

from data.media.reference import Downloads
from data.web import httpx

# Networks of IPv6 whose last 32 bits are an address of IPv4: translated (RFC 6052) and compatible ones (RFC 4291).
HOLD_IPV4 = (IPv6Network("64:ff9b::/96"), IPv6Network("::/96"))
NOT_PUBLIC = (IPv6Network("64:ff9b:1::/48"),)  # translates to private addresses (RFC 8215)
PORTS = {"http": 80, "https": 443}


class NotAllowed(Exception):
    """A host that records may not make us ask; says why, and what to do."""


def checked_client(limits: Downloads, timeout: float, max_redirects: int) -> httpx.Client:
    """Return a client that asks no host but those that `limits` allow, through redirects, too. Raises NotAllowed."""
    transport = CheckedTransport(Hosts(limits.hosts))
    return httpx.Client(transport=transport, follow_redirects=True, max_redirects=max_redirects, timeout=timeout)


@lru_cache(1)
def certificates() -> ssl.SSLContext:
    """Return what certificates are checked with: reading it takes longer than most requests."""
    return httpx.create_ssl_context()


class CheckedTransport(httpx.BaseTransport):
    """Connects to the addresses that were checked, or to the proxy that the environment names."""

    def __init__(self, hosts: "Hosts"):
        self.hosts, self.inner = hosts, httpx.HTTPTransport(verify=certificates())
        self.proxies: dict[str, httpx.HTTPTransport] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request to the first of its host's addresses that takes it."""
        if (proxy := proxy_for(request.url)) is not None:
            self.hosts.check_ahead(request.url)
            if proxy not in self.proxies:
                self.proxies[proxy] = httpx.HTTPTransport(verify=certificates(), proxy=proxy)
            return self.proxies[proxy].handle_request(request)
        name, problem = request.url.raw_host.decode("ascii"), httpx.ConnectError("no address")
        for address in self.hosts.addresses(request.url):
            pinned = httpx.Request(
                request.method,
                request.url.copy_with(host=address),
                headers=request.headers,
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": name},  # certificates are those of the name
            )
            try:
                return self.inner.handle_request(pinned)
            except httpx.ConnectError as error:
                problem = error
        raise problem

    def close(self) -> None:
        """Close the connections."""
        for transport in (self.inner, *self.proxies.values()):
            transport.close()


def proxy_for(url: httpx.URL) -> str | None:
    """Return the proxy that the environment names for an address, HTTPS_PROXY and NO_PROXY, as other programs do."""
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if not proxy or url.scheme not in PORTS or proxy_bypass(url.host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


class Hosts:
    """Patterns of names of hosts that may be asked; None: all that have a public address."""

    def __init__(self, patterns: tuple[str, ...] | None):
        self.patterns = patterns

    def addresses(self, url: httpx.URL) -> list[str]:
        """Return the addresses of a host that may be connected to.

        Raises NotAllowed, httpx.UnsupportedProtocol, ConnectError and InvalidURL.
        """
        if url.scheme not in PORTS:
            raise httpx.UnsupportedProtocol(f"{url.scheme!r} is neither http nor https")
        is_named = self._is_named(url)
        found = list(dict.fromkeys(look_up(url)))
        allowed = [address for address in found if is_named or is_public(address)]
        if not allowed:
            raise NotAllowed(
                f"{url.host} is at {found[0]}, which is no public address; "
                "if you trust the data, allow it in media_hosts"
            )
        return allowed

    def check_ahead(self, url: httpx.URL) -> None:
        """Raise NotAllowed for what a proxy, which looks names up by itself, shall not be asked for."""
        with suppress(httpx.ConnectError):  # a name that it alone may know
            self.addresses(url)

    def _is_named(self, url: httpx.URL) -> bool:
        """Tell whether the list, or the setting that says where the hub is, names a host; without a list none is."""
        hub = urlsplit(constants.ENDPOINT)
        if (url.host, url.port or PORTS.get(url.scheme)) == (hub.hostname, hub.port or PORTS.get(hub.scheme)):
            return True
        if self.patterns is None:
            return False
        name = url.host.lower().rstrip(".")
        if any(fnmatchcase(name, pattern.lower().rstrip(".")) for pattern in self.patterns):
            return True
        raise NotAllowed(f"{url.host} is not in media_hosts; add it if you trust the data")


def look_up(url: httpx.URL) -> Iterator[str]:
    """Yield the addresses of a host, as the system gives them."""
    try:
        found = socket.getaddrinfo(url.raw_host.decode("ascii"), url.port or PORTS[url.scheme], type=socket.SOCK_STREAM)
    except OSError as error:
        raise httpx.ConnectError(str(error)) from error
    except (ValueError, OverflowError) as error:  # of IDNA; of a port
        raise httpx.InvalidURL(f"no host can be named so ({error})") from error
    return (str(each[4][0]) for each in found)


def is_public(address: str) -> bool:
    """Tell the addresses of the internet from those of this machine and the networks around it."""
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address) and (inner := _ipv4_in(found)) is not None:
        return is_public(str(inner))
    return found.is_global and not found.is_multicast and not any(found in network for network in NOT_PUBLIC)


def _ipv4_in(address: IPv6Address) -> IPv4Address | None:
    if any(address in network for network in HOLD_IPV4):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
