"""Who may ask: the page itself, by the names that this server was given, and nobody else.

A page of another site must not read slides through the user's browser. So the Host header must name
this server (DNS rebinding gives it the name of another), a foreign Origin is refused, and so is
whatever a browser marks as coming from another site. On the network a token is needed as well.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

METHODS = ("GET", "HEAD")
LONGEST_PATH = 1000
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; "
    "style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""On every answer. The page loads nothing from elsewhere, and no other site may embed it."""


class Guard:
    """Refuses what does not come from the viewer's own page; wraps the ASGI application."""

    def __init__(self, app: ASGIApp, host: str, token: str | None) -> None:
        self.app = app
        self.names = names_of(host)
        self.any_address = host in ("0.0.0.0", "::")
        self.token = token
        self.cookie = hashlib.sha256(token.encode()).hexdigest() if token else ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it in one line."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        answer = self._refusal(scope, headers) or self._sign_in(scope, headers)
        await (answer or self.app)(scope, receive, with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if scope["method"] not in METHODS:
            return refused(405, f"{scope['method']} is not allowed; the viewer only reads")
        if len(scope["path"]) > LONGEST_PATH:
            return refused(414, "the address is too long")
        if not self._knows(host):
            return refused(403, f"this server is not called {host[:100]!r}; see --host")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return refused(403, "a page of another site may not read slides")
        site, mode = headers.get("sec-fetch-site"), headers.get("sec-fetch-mode")
        if site in ("cross-site", "same-site") and mode != "navigate":
            return refused(403, "a page of another site may not read slides")
        return None

    def _knows(self, host: str) -> bool:
        """Whether a Host header names this server; the port may be that of a tunnel."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        if name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.any_address  # an address cannot be rebound, only a name

    def _sign_in(self, scope: Scope, headers: Headers) -> Response | None:
        """Require the token: once in the link, which sets a cookie, then the cookie."""
        if self.token is None:
            return None
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = query.pop("token", [""])[0]
        # The name of the server's port: cookies do not tell ports apart.
        name = f"slidescan-{(scope.get('server') or ('', 0))[1]}"
        if given and hmac.compare_digest(given.encode(), self.token.encode()):
            kept = f"?{urlencode(query, doseq=True)}" if query else ""
            # Relative, so that it works behind a prefix; and the token leaves the address.
            last = scope["path"].rpartition("/")[2]
            answer = RedirectResponse(f"./{last}{kept}", status_code=303)
            answer.set_cookie(name, self.cookie, httponly=True, samesite="strict", path="/")
            return answer
        found = cookie_parser(headers.get("cookie", "")).get(name, "")
        if hmac.compare_digest(found.encode(), self.cookie.encode()):
            return None
        return refused(401, "open the link that slidescan view printed; it holds the token")


def refused(status: int, line: str) -> Response:
    """An error in one line, as every error of the server."""
    headers = {"allow": ", ".join(METHODS)} if status == 405 else None
    return JSONResponse({"error": line}, status, headers)


def names_of(host: str) -> frozenset[str]:
    """The names of this server in a Host header: loopback's, the given one, the machine's."""
    if host in LOOPBACK:
        return LOOPBACK
    own = {socket.gethostname().lower(), socket.getfqdn().lower()}
    return LOOPBACK | {host.lower()} | (own if host in ("0.0.0.0", "::") else set())
