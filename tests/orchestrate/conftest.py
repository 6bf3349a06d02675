"""What several tests need: that nothing of a user's own file stays for the next test; a chat that can be posted to."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from training import extensions


@pytest.fixture
def own_files() -> Iterator[None]:
    """Whatever is imported in the test is forgotten after it."""
    before = [(registry, dict(registry.entries)) for registry in extensions.registries()]
    loaded = dict(extensions._loaded)
    yield
    for registry, entries in before:
        registry.entries.clear()
        registry.entries.update(entries)
    extensions._loaded.clear()
    extensions._loaded.update(loaded)


@pytest.fixture
def chat() -> Iterator[SimpleNamespace]:
    """A server that keeps what is posted, and answers as it is told to."""
    heard = SimpleNamespace(said=[], answer=200)

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            heard.said.append((self.path, self.headers["Content-Type"], json.loads(body)))
            self.send_response(heard.answer)
            self.end_headers()

        def log_message(self, *words: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hook)
    heard.address = f"http://127.0.0.1:{server.server_port}/services/secret"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield heard
    server.shutdown()
