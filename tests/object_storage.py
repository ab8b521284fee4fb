"""An S3 server (moto) in this process, whose faults a test switches on."""

import contextlib
import os
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

ANSWERS = {
    "unavailable": ("503 Slow Down", "SlowDown", "Please reduce your request rate."),
    "forbidden": ("403 Forbidden", "InvalidAccessKeyId", "The access key does not exist."),
}


@dataclass
class Server:
    """A server that keeps objects in memory.

    Attributes:
        url: where it listens.
        fault: slow, unavailable, forbidden, reset or half; empty for none.
        times: how many more requests have the fault.
        only: which requests have it, by method and path.
        ignores_conditions: whether an object is created where there is one.
        requests: (method, path with query, bytes of the answer) of all requests.
    """

    url: str = ""
    fault: str = ""
    times: int = 0
    only: Callable[[str, str], bool] = lambda method, path: True
    ignores_conditions: bool = False
    requests: list[tuple[str, str, int]] = field(default_factory=list)

    def fail(self, fault: str, times: int, method: str, ending: str = "") -> None:
        """Let some of the next requests with this method and end of the path fail."""
        self.fault, self.times = fault, times
        self.only = lambda got, path: got == method and path.endswith(ending)

    def bucket(self) -> str:
        """The URL of a new bucket."""
        import boto3

        name = f"bucket-{uuid.uuid4().hex[:12]}"
        boto3.client("s3", endpoint_url=self.url).create_bucket(Bucket=name)
        self.requests.clear()
        return f"s3://{name}"

    def count(self, method: str, part: str = "") -> int:
        """Number of requests so far."""
        return sum(got == method and part in path for got, path, _ in self.requests)


class _Faulty:
    """A WSGI application with faults before those of another one."""

    def __init__(self, inner: Any, server: Server) -> None:
        self._inner, self._server, self._lock = inner, server, threading.Lock()

    def __call__(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        server = self._server
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        with self._lock:
            fault = server.fault if server.times and server.only(method, path) else ""
            server.times -= bool(fault)
        if fault == "slow":
            time.sleep(0.5)
        if fault in ANSWERS:
            status, code, text = ANSWERS[fault]
            start(status, [("Content-Type", "application/xml")])
            return [f"<Error><Code>{code}</Code><Message>{text}</Message></Error>".encode()]
        if fault == "reset":
            connection = environ["werkzeug.socket"]
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(connection.detach())
            raise ConnectionResetError
        if server.ignores_conditions:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        body = b"".join(self._inner(environ, start))
        query = environ.get("QUERY_STRING", "")
        server.requests.append((method, f"{path}?{query}" if query else path, len(body)))
        return [body[: len(body) // 2]] if fault == "half" else [body]


@contextlib.contextmanager
def serving(port: int = 0) -> Iterator[Server]:
    """A server that listens on this machine."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *_: Any) -> None: ...

    server = Server()
    app = _Faulty(DomainDispatcherApplication(create_backend_app), server)
    listener = make_server("127.0.0.1", port, app, threaded=True, request_handler=Quiet)
    server.url = f"http://127.0.0.1:{listener.server_port}"
    thread = threading.Thread(target=listener.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()


def credentials(url: str) -> dict[str, str]:
    """The environment variables of a user of this server."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "a secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.fixture(scope="module")
def s3() -> Iterator[Server]:
    """A server, and the environment with which everything finds it."""
    pytest.importorskip("moto.server", reason="pip install -e '.[s3-server]'")
    s3fs = pytest.importorskip("s3fs")
    with serving() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in credentials(server.url).items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()  # of another module's server
        yield server
