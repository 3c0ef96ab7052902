"""An S3 server of the test's own, and a proxy before it that fails on demand."""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BUCKET = "slides"

SECRET = "a-secret-that-is-recorded-nowhere"

_SERVER = f"""
import sys
from moto.server import ThreadedMotoServer
from moto.s3.models import s3_backends
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
s3_backends["123456789012"]["aws"].create_bucket("{BUCKET}", "us-east-1")
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def s3_server() -> Iterator[int]:
    """A moto server in a process of its own, with one bucket; yields its port."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    try:
        lines = iter(process.stdout.readline, "")
        yield int(next(line for line in lines if line.strip().isdigit()))
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


@dataclass(frozen=True, slots=True)
class Request:
    """One request that has arrived."""

    number: int
    """of all, from 1"""
    method: str
    path: str
    """with the query"""

    @property
    def writes(self) -> bool:
        return self.method in ("PUT", "POST", "DELETE")


Fault = Callable[[Request], str | None]
"""What happens to a request: None (it is passed on), "503", "403", "cut" (before it is passed on),
"lost" (it is passed on and its answer is lost), "half" (of its answer arrives), "slow"."""


@dataclass
class Proxy:
    """Passes requests to a server, counts them, and fails as `fault` says."""

    target: int
    fault: Fault = lambda request: None
    requests: list[Request] = field(default_factory=list)
    sent: int = 0
    """bytes of bodies to the server"""
    received: int = 0
    port: int = 0
    delay_s: float = 0.0
    """added to every request, as a distance"""

    def reset(self, fault: Fault = lambda request: None) -> None:
        self.fault, self.requests, self.sent, self.received = fault, [], 0, 0

    def kinds(self) -> Counter[str]:
        return Counter(request.method for request in self.requests)


@contextmanager
def proxied(target: int) -> Iterator[Proxy]:
    """A proxy on loopback before the server at a port."""
    proxy = Proxy(target)
    lock, writing = threading.Lock(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None: ...

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with lock:
                request = Request(len(proxy.requests) + 1, self.command, self.path)
                proxy.requests.append(request)
                proxy.sent += len(body)
            fault = proxy.fault(request)
            time.sleep(proxy.delay_s)
            if fault == "slow":
                time.sleep(0.3)
            if fault in ("503", "403"):
                code = {"503": "SlowDown", "403": "AccessDenied"}[fault]
                self._answer(int(fault), {}, f"<Error><Code>{code}</Code></Error>".encode())
                return
            if fault == "cut":
                self.close_connection = True
                return
            server = http.client.HTTPConnection("127.0.0.1", proxy.target, timeout=30)
            # S3 looks at a condition and writes in one step; moto takes two.
            with writing if request.writes else nullcontext():
                server.request(self.command, self.path, body, dict(self.headers))
                answer = server.getresponse()
                content = answer.read()
            server.close()
            if fault == "lost":
                self.close_connection = True
                return
            proxy.received += len(content)
            self._answer(answer.status, dict(answer.getheaders()), content, half=fault == "half")

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass  # noqa: N815  # http.server's names

        def _answer(
            self, status: int, headers: dict[str, str], body: bytes, half: bool = False
        ) -> None:
            self.send_response_only(status)
            length = headers.get("Content-Length", str(len(body)))
            left_out = ("content-length", "transfer-encoding", "connection")
            for name, value in headers.items():
                if name.lower() not in left_out:
                    self.send_header(name, value)
            self.send_header("Content-Length", length if self.command == "HEAD" else str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[: len(body) // 2] if half else body)
            if half:
                self.close_connection = True

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: Any) -> None: ...  # a client that has gone

    server = Server(("127.0.0.1", 0), Handler)
    proxy.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def environment(port: int) -> dict[str, str]:
    """What names the server and the credentials."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
    }
