"""The report of runs in progress, served on this machine and refreshed: `steadyq watch`."""

import contextlib
import hashlib
import html
import io
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from steadyq.errors import InputError
from steadyq.results.read import RECORD, run_folders
from steadyq.results.untrusted import attempt
from steadyq.store import lock, metrics_csv
from steadyq.store.folder import DIAGNOSTICS
from steadyq.store.state import FAILED

HOST = "127.0.0.1"  # nobody else's business
EVERY = 10.0  # seconds between two looks at the files
PATIENCE = 10.0  # seconds that a reader may take for a request, and for each piece of the page
MOST_READERS = 32  # at once: a thread each
MOST_REQUEST, PIECE = 2**14, 2**16  # bytes of a request, and of a piece of the page
WATCHED = (metrics_csv.FILE, DIAGNOSTICS, RECORD, FAILED)
Build = Callable[[str], str]  # the state -> the page

NOTHING_YET = """<!doctype html><html lang="en" data-watched="{state}"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<meta http-equiv="refresh" content="5"><link rel="icon" href="data:,"><title>steadyq report</title>
<body style="font: 16px/1.5 system-ui, sans-serif; margin: 2rem; overflow-wrap: anywhere">
<h1>Nothing to draw yet</h1><p>{sentence}</p><p>This page looks again by itself.</p></body></html>"""


REFUSED = "this page is for this machine: open {} here, or http://localhost:PORT/ at the other end of a tunnel\n"


class Server:
    """Serves one page and its state on localhost; `refresh` builds it anew when the files have changed.

    Args:
        places: run folders, folders of them, files.
        build: makes the page of a state, or raises InputError where there is nothing to draw.
        port: 0 for any that is free.
        most_readers: so many at once; the next one is told to come again.
        patience: seconds after which a reader who sends or takes nothing is sent away.
        clock: seconds, from any start.

    Raises:
        InputError: the port is taken.
    """

    def __init__(
        self,
        places: Iterable[Path],
        build: Build,
        *,
        port: int,
        most_readers: int = MOST_READERS,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._places, self._build = list(places), build
        self._state, self._page = "", b""
        self._patience, self._clock = patience, clock
        try:
            self._http = _Bounded(most_readers, (HOST, port), self._handler())
        except (OSError, OverflowError) as error:
            raise InputError(f"cannot listen on port {port} ({error}); choose another with --port") from None
        self.address = f"http://{HOST}:{self._http.server_port}/"

    def refresh(self) -> bool:
        """Build the page if the files are not as they were; whether it did. Never an error: a sentence in the page."""
        state = fingerprint(self._places)
        if state == self._state:
            return False
        why = list[str]()
        page = attempt(partial(self._build, state), why, failing="the page cannot be made; the runs are as they were")
        if page is None:
            page = NOTHING_YET.format(state=state, sentence=html.escape(why[0]))
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
            timeout = server._patience

            def handle(self) -> None:
                """Answer a request once it is whole, within a time that does not begin anew with each byte of it."""
                request, end = b"", server._clock() + server._patience
                while not request.endswith((b"\n\r\n", b"\n\n")) and len(request) < MOST_REQUEST:
                    left = end - server._clock()
                    if left <= 0:
                        return
                    self.connection.settimeout(left)
                    piece = self.connection.recv(MOST_REQUEST)
                    if not piece:
                        break
                    request += piece
                self.connection.settimeout(self.timeout)
                self.rfile.close()
                self.rfile = io.BytesIO(request)
                super().handle()

            def do_GET(self) -> None:
                pages = {"/": server._page, "/state": server._state.encode()}
                content, status, kind = pages.get(self.path.partition("?")[0], b""), 200, "text/html"
                if not is_here(self.headers.get_all("Host", [])):
                    status, content = 421, REFUSED.format(server.address).encode()
                elif not content:
                    status = 404
                if status != 200 or self.path.startswith("/state"):
                    kind = "text/plain"
                self.send_response(status)
                self.send_header("Content-Type", f"{kind}; charset=utf-8")
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                for start in range(0, len(content), PIECE):
                    self.wfile.write(content[start : start + PIECE])

            def log_message(self, format: str, *arguments: object) -> None:
                """A request every few seconds is nothing to print."""

        return Handler


class _Bounded(ThreadingHTTPServer):
    """A thread for each reader, and not more than so many; none of them can disturb the others or the terminal."""

    daemon_threads = True
    request_queue_size = 128  # connections that wait for `accept`: a few that come at once are no reason to refuse

    def __init__(self, most_readers: int, *arguments: Any) -> None:
        self._free = threading.BoundedSemaphore(most_readers)
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            with contextlib.suppress(OSError):
                request.send(b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 10\r\n\r\n")
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread was started, to let the next one in
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing to print where a reader has left, or was too slow."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def is_here(hosts: Sequence[str]) -> bool:
    """Whether a request's Host headers name this machine, under any port: it may come through a tunnel.

    A page elsewhere can have its own name point here (DNS rebinding), and would read what we answer; but its name, not
    ours, is in the header.
    """
    return len(hosts) == 1 and re.fullmatch(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?", hosts[0].lower()) is not None


def fingerprint(places: Iterable[Path]) -> str:
    """A word that changes when a file that the report reads does, or when a run begins or ends, however it ends."""
    found = hashlib.sha256()
    for place in places:
        folders = [] if os.path.isfile(place) else run_folders(place, [])
        found.update(bytes(lock.is_held(folder) for folder in folders))
        for path in [folder / name for folder in folders for name in WATCHED] or [place]:
            try:
                status = path.stat()
            except OSError:  # it is not there, or went away meanwhile
                continue
            found.update(os.fsencode(path) + f"\0{status.st_mtime_ns}\0{status.st_size}\n".encode())
    return found.hexdigest()[:16]
