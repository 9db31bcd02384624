"""A cluster of Kubernetes for tests: its interface, as far as our requests go."""

from __future__ import annotations

import http.server
import json
import threading
from typing import Any


class ClusterApi:
    """A server on this machine that the client of Kubernetes takes for a cluster's.

    Attributes:
      answer: to every request.
      status: of every answer.
      requests: method, path and body of each.
    """

    def __init__(self) -> None:
        self.answer: Any = {}
        self.status = 200
        self.requests: list[tuple[str, str, Any]] = []
        told = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                told.requests.append((self.command, self.path, json.loads(self.rfile.read(length) or "null")))
                content = json.dumps(told.answer).encode()
                self.send_response(told.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_DELETE = do_POST

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def client(self) -> Any:
        from kubernetes import client

        configuration = client.Configuration(host=f"http://127.0.0.1:{self.server.server_port}")
        configuration.proxy = None
        return client.ApiClient(configuration)
