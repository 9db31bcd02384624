"""A server on this machine that speaks as much of Cloud Storage's JSON API as Google's own client asks for."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime
import http.server
import itertools
import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path
from typing import Any

import google_crc32c
import pytest

BUCKET = "my-bucket"


@dataclasses.dataclass(frozen=True)
class StoredObject:
    """An object; its generation is another one whenever it is written."""

    content: bytes
    generation: int
    updated: datetime.datetime = dataclasses.field(default_factory=lambda: datetime.datetime.now(datetime.UTC))

    def resource(self, name: str) -> dict[str, Any]:
        return {
            "kind": "storage#object",
            "bucket": BUCKET,
            "name": name,
            "size": str(len(self.content)),
            "generation": str(self.generation),
            "metageneration": "1",
            "updated": self.updated.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "crc32c": self.crc32c,
        }

    @property
    def crc32c(self) -> str:
        return base64.b64encode(google_crc32c.Checksum(self.content).digest()).decode()


class Refused(Exception):
    """A request that is answered by an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ObjectServer:
    """Holds one bucket.

    Attributes:
      objects: {name: object}.
      requests: method and path of each request, oldest first.
      before: called with the method and the name of the object before each request, to refuse it or to keep it waiting.
    """

    def __init__(self) -> None:
        self.objects: dict[str, StoredObject] = {}
        self.requests: list[tuple[str, str]] = []
        self.before: Callable[[str, str], None] = lambda method, name: None
        self._generations = itertools.count(1)
        self._uploads: dict[str, tuple[str, dict[str, str], bytearray]] = {}
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"told": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def below(self, folder: str) -> dict[str, bytes]:
        """{name below a folder: content} of its objects."""
        with self._lock:
            return {
                name.removeprefix(f"{folder}/"): found.content
                for name, found in self.objects.items()
                if name.startswith(f"{folder}/")
            }

    def copy_to(self, folder: Path, of: str) -> Path:
        """Writes the objects below a folder to a folder of this machine."""
        for name, content in self.below(of).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder

    def put(self, name: str, content: bytes, query: dict[str, str]) -> dict[str, Any]:
        with self._lock:
            self._check(name, query)
            self.objects[name] = StoredObject(content, next(self._generations))
            return self.objects[name].resource(name)

    def get(self, name: str) -> StoredObject:
        with self._lock:
            if name not in self.objects:
                raise Refused(404, f"No such object: {BUCKET}/{name}")
            return self.objects[name]

    def delete(self, name: str, query: dict[str, str]) -> None:
        self.get(name)
        with self._lock:
            self._check(name, query)
            del self.objects[name]

    def begin_upload(self, name: str, query: dict[str, str]) -> str:
        upload = str(next(self._generations))
        self._uploads[upload] = (name, query, bytearray())
        return upload

    def continue_upload(self, upload: str, content: bytes, is_last: bool) -> dict[str, Any] | None:
        name, query, so_far = self._uploads[upload]
        so_far += content
        return self.put(name, bytes(so_far), query) if is_last else None

    def _check(self, name: str, query: dict[str, str]) -> None:
        now = self.objects[name].generation if name in self.objects else 0
        if int(query.get("ifGenerationMatch", now)) != now:
            raise Refused(412, "At least one of the pre-conditions you specified did not hold.")


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    told: ObjectServer

    def _answer(self) -> None:
        address = urllib.parse.urlsplit(self.path)
        query = {name: values[0] for name, values in urllib.parse.parse_qs(address.query).items()}
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = re.fullmatch(r"(?:/\w+)?/storage/v1/b/([^/]+)(/o)?(?:/(.+))?", address.path)
        assert parts is not None, self.path
        name = urllib.parse.unquote(parts[3] or query.get("name", ""))
        self.told.requests.append((self.command, self.path))
        try:
            self.told.before(self.command, name)
            if parts[1] != BUCKET:
                raise Refused(404, "The specified bucket does not exist.")
            getattr(self, f"_{self.command.lower()}")(name, query, content, parts[2] is None)
        except Refused as error:
            message = {"error": {"code": error.status, "message": str(error)}}
            self._send(error.status, json.dumps(message).encode())

    do_GET = do_POST = do_PUT = do_DELETE = _answer

    def _get(self, name: str, query: dict[str, str], content: bytes, is_bucket: bool) -> None:
        if is_bucket:
            self._send(200, json.dumps({"kind": "storage#bucket", "name": BUCKET}).encode())
        elif not name:
            with self.told._lock:
                start, end = query.get("prefix", ""), query.get("delimiter")
                found = [
                    (name, stored)
                    for name, stored in self.told.objects.items()
                    if name.startswith(start) and not (end and end in name.removeprefix(start))
                ]
            self._send(200, json.dumps({"items": [stored.resource(name) for name, stored in found]}).encode())
        elif query.get("alt") == "media":
            stored = self.told.get(name)
            headers = {"X-Goog-Hash": f"crc32c={stored.crc32c}", "X-Goog-Generation": str(stored.generation)}
            self._send(200, stored.content, headers)
        else:
            self._send(200, json.dumps(self.told.get(name).resource(name)).encode())

    def _post(self, name: str, query: dict[str, str], content: bytes, is_bucket: bool) -> None:
        if query["uploadType"] == "resumable":
            upload = self.told.begin_upload(json.loads(content)["name"], query)
            bucket = f"{self.told.url}/upload/storage/v1/b/{BUCKET}/o"
            self._send(200, b"", {"Location": f"{bucket}?uploadType=resumable&upload_id={upload}"})
            return
        kind = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        about, _ = BytesParser(policy=HTTP).parsebytes(kind + content).iter_parts()
        name = json.loads(about.get_payload(decode=True))["name"]
        self.told.before("PUT", name)
        # The parser takes line ends for text's: the body is cut out by its boundary.
        boundary = re.search(rb'boundary="?([^";]+)', self.headers["Content-Type"].encode())
        assert boundary is not None
        exact = content.split(b"--" + boundary[1])[2].partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
        self._send(200, json.dumps(self.told.put(name, exact, query)).encode())

    def _put(self, name: str, query: dict[str, str], content: bytes, is_bucket: bool) -> None:
        last, total = re.fullmatch(r"bytes \d+-(\d+)/(\d+|\*)", self.headers["Content-Range"]).groups()  # type: ignore[union-attr]
        resource = self.told.continue_upload(query["upload_id"], content, total == str(int(last) + 1))
        if resource is None:
            self._send(308, b"", {"Range": f"bytes=0-{last}"})
        else:
            self._send(200, json.dumps(resource).encode())

    def _delete(self, name: str, query: dict[str, str], content: bytes, is_bucket: bool) -> None:
        self.told.delete(name, query)
        self._send(204, b"")

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        pass


@contextlib.contextmanager
def serving() -> Iterator[ObjectServer]:
    """A server that Google's client asks instead of Google's, in this process and in those that it starts."""
    server = ObjectServer()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("STORAGE_EMULATOR_HOST", server.url)
        yield server
    server.close()


@pytest.fixture
def object_server() -> Iterator[ObjectServer]:
    """A server of the test's own."""
    with serving() as server:
        yield server
