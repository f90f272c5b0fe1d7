"""The report of runs in progress, served on this machine and refreshed: `steadyq watch`."""

import hashlib
import html
import threading
import time
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from steadyq.errors import InputError
from steadyq.store import metrics_csv
from steadyq.store.folder import DIAGNOSTICS

HOST = "127.0.0.1"  # nobody else's business
EVERY = 10.0  # seconds between two looks at the files
WATCHED = (metrics_csv.FILE, DIAGNOSTICS, "run.json")
Build = Callable[[str], str]  # the state -> the page

NOTHING_YET = """<!doctype html><html lang="en" data-watched="{state}"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<meta http-equiv="refresh" content="5"><link rel="icon" href="data:,"><title>steadyq report</title>
<body style="font: 16px/1.5 system-ui, sans-serif; margin: 2rem; overflow-wrap: anywhere">
<h1>Nothing to draw yet</h1><p>{sentence}</p><p>This page looks again by itself.</p></body></html>"""


class Server:
    """Serves one page and its state on localhost; `refresh` builds it anew when the files have changed.

    Args:
        places: run folders, folders of them, files.
        build: makes the page of a state, or raises InputError where there is nothing to draw.
        port: 0 for any that is free.

    Raises:
        InputError: the port is taken.
    """

    def __init__(self, places: Iterable[Path], build: Build, *, port: int) -> None:
        self._places, self._build = list(places), build
        self._state, self._page = "", b""
        try:
            self._http = ThreadingHTTPServer((HOST, port), self._handler())
        except (OSError, OverflowError) as error:
            raise InputError(f"cannot listen on port {port} ({error}); choose another with --port") from None
        self._http.daemon_threads = True
        self.address = f"http://{HOST}:{self._http.server_port}/"

    def refresh(self) -> bool:
        """Build the page if the files are not as they were; whether it did."""
        state = fingerprint(self._places)
        if state == self._state:
            return False
        try:
            page = self._build(state)
        except InputError as error:
            page = NOTHING_YET.format(state=state, sentence=html.escape(str(error)))
        self._page, self._state = page.encode(), state
        return True

    def start(self) -> None:
        """Answer from a thread of its own."""
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Answer no more."""
        self._http.shutdown()
        self._http.server_close()

    def run(self) -> None:
        """Serve and refresh until Ctrl-C."""
        self.start()
        try:
            while True:
                time.sleep(EVERY)
                self.refresh()
        except KeyboardInterrupt:
            pass
        finally:
            self.stop()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = {"/": server._page, "/state": server._state.encode()}.get(self.path.partition("?")[0])
                self.send_response(404 if content is None else 200)
                kind = "text/plain" if self.path.startswith("/state") else "text/html"
                self.send_header("Content-Type", f"{kind}; charset=utf-8")
                self.send_header("Content-Length", str(len(content or b"")))
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, format: str, *arguments: object) -> None:
                """A request every few seconds is nothing to print."""

        return Handler


def fingerprint(places: Iterable[Path]) -> str:
    """A word that changes when a file that the report reads does."""
    found = hashlib.sha256()
    for place in places:
        files = [place] if place.is_file() else sorted(path for name in WATCHED for path in place.rglob(name))
        for path in files:
            try:
                status = path.stat()
            except OSError:  # it went away meanwhile
                continue
            found.update(f"{path}\0{status.st_mtime_ns}\0{status.st_size}\n".encode())
    return found.hexdigest()[:16]
