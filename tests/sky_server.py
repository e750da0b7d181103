"""A local HTTP server that answers as SkyServer does: reads TOP, WHERE key > N and ORDER BY, and sends CSV.

`faults` are played one a request, in order: each is a function of the handler and the right answer's text, or None
for no fault. What was asked is kept in `requests`.
"""

from __future__ import annotations

import gzip
import http.server
import json
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

HEADER = ["objid", "ra", "dec", "redshift", "u", "g", "r", "i", "z"]
FIRST_ID = 1237648702984781824
Fault = Callable[["Handler", str], None]


def make_rows(num_rows: int, *, repeat_every: int = 0) -> list[list[str]]:
    """Rows in ascending order of id; with `repeat_every`, each so manieth id has three rows, of several spectra."""
    rows: list[list[str]] = []
    number = 0
    while len(rows) < num_rows:
        number += 1
        times = 3 if repeat_every and number % repeat_every == 0 else 1
        for spectrum in range(times):
            values = [f"{(number * 37 % 36000) / 100:.6f}", f"{number % 170 - 85}.25", f"{1e-5 * (spectrum - 1):.7g}"]
            bands = [f"{19 + band / 7 + (number % 97) / 50:.5f}" for band in range(5)]
            rows.append([str(FIRST_ID + number * 131), *values, *bands])
    return rows[:num_rows]


@dataclass
class Asked:
    """One request: its query, headers, method and time."""

    sql: str
    headers: dict[str, str]
    method: str
    path: str
    seconds: float


@dataclass
class Sky:
    """What the server has and does."""

    rows: list[list[str]]
    header: list[str] = field(default_factory=lambda: list(HEADER))
    faults: list[Fault | None] = field(default_factory=list)
    every: Fault | None = None
    delay_seconds: float = 0.0
    row_cap: int | None = None
    requests: list[Asked] = field(default_factory=list)
    url: str = ""

    def answer(self, sql: str) -> str:
        """The right answer to a query, or SkyServer's message where it would refuse it."""
        top = re.match(r"SELECT\s+(?:DISTINCT\s+)?TOP (\d+) ", sql, re.IGNORECASE)
        if top is None or int(top[1]) > 500_000:
            return "#Table1\nerror_message\nerror: limit is  top 500000 \n"
        order = re.search(r"ORDER BY (?:\w+\.)?(\w+)$", sql)
        place = self.header.index(order[1]) if order else 0
        above = [int(number) for number in re.findall(r"> (-?\d+)", sql)]
        until = [int(number) for number in re.findall(r"<= (-?\d+)", sql)]
        rows = [row for row in self.rows if all(int(row[place]) > number for number in above)]
        rows = [row for row in rows if all(int(row[place]) <= number for number in until)]
        rows = sorted(rows, key=lambda row: int(row[place]))[: int(top[1])]
        return "#Table1\n" + "".join(",".join(row) + "\n" for row in [self.header, *rows[: self.row_cap]])


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    sky: Sky
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """The query is in the address; through a proxy the address is the whole of it."""
        self.reply(parse_qs(urlsplit(self.path).query).get("cmd", [""])[0])

    def do_POST(self) -> None:
        """The query is in a form."""
        form = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.reply(parse_qs(form).get("cmd", [""])[0])

    def reply(self, sql: str) -> None:
        """The right answer, or the next fault."""
        sky = self.sky
        sky.requests.append(Asked(sql, dict(self.headers), self.command, self.path, time.monotonic()))
        time.sleep(sky.delay_seconds)
        fault = sky.faults.pop(0) if sky.faults else sky.every
        (fault or send)(self, sky.answer(sql))

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def handle(self) -> None:
        """A client that goes away is no error."""
        try:
            super().handle()
        except (ConnectionError, ssl.SSLError):
            self.close_connection = True


def send(handler: Handler, text: str | bytes, status: int = 200, **headers: str) -> None:
    """A whole answer."""
    data = text.encode() if isinstance(text, str) else text
    handler.send_response(status)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    for name, value in {"Content-Type": "text/plain", "Content-Length": str(len(data)), **given}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data)


def send_bare(handler: Handler, data: bytes, **headers: str) -> None:
    """An answer without its length, ended by closing the connection, as old servers and proxies do."""
    handler.send_response(200)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(data)
    handler.close_connection = True


def packed(handler: Handler, text: str) -> None:
    """gzip, as asked for."""
    assert "gzip" in handler.headers["Accept-Encoding"]
    send(handler, gzip.compress(text.encode()), Content_Encoding="gzip")


def packed_short(handler: Handler, text: str) -> None:
    """gzip, cut off, without a length that would tell."""
    send_bare(handler, gzip.compress(text.encode())[:-20], Content_Encoding="gzip")


def packed_bomb(handler: Handler, text: str) -> None:
    """Small on the wire, 2 GB unpacked."""
    send(handler, gzip.compress(b"1" * (1 << 20)) * 2048, Content_Encoding="gzip")


def chunked_short(handler: Handler, text: str) -> None:
    """Chunked, and the connection breaks before the last chunk."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    data = text.encode()[: len(text) // 2]
    handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
    handler.close_connection = True


def short_of_length(handler: Handler, text: str) -> None:
    """Fewer bytes than Content-Length says."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(text)))
    handler.end_headers()
    handler.wfile.write(text.encode()[: len(text) // 2])
    handler.close_connection = True


def short_in_a_line(handler: Handler, text: str) -> None:
    """Half of the answer without a length, cut within a value."""
    cut = text.rindex(",", 0, len(text) // 2) + 2
    send_bare(handler, text.encode()[:cut])


def unmarked(handler: Handler, text: str) -> None:
    """Whole, without a length."""
    send_bare(handler, text.encode())


def short_at_a_line(handler: Handler, text: str) -> None:
    """Half of the answer, cut at a line's end: nothing in it tells."""
    send(handler, text[: text.rindex("\n", 0, len(text) // 2) + 1])


def reset(handler: Handler, text: str) -> None:
    """The connection is reset in the middle of the answer."""
    import socket
    import struct

    short_of_length(handler, text)
    handler.wfile.flush()
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def silent(handler: Handler, text: str) -> None:
    """Nothing at all, and the connection is closed."""
    handler.close_connection = True


def slow(handler: Handler, text: str) -> None:
    """A byte now and then, for longer than anyone waits."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(text)))
    handler.end_headers()
    for letter in text[:100]:
        handler.wfile.write(letter.encode())
        time.sleep(0.1)
    handler.close_connection = True


def rate_limited(handler: Handler, text: str) -> None:
    """SkyServer's stored procedure, which answers with a table of one column."""
    message = (
        '"ERROR: Maximum 60 queries allowed per minute. Rejected query: SELECT TOP 10 p.objid, p.ra FROM PhotoObj"'
    )
    send(handler, f"#Table1\nerror_message\n{message}\n")


def html_error(handler: Handler, text: str) -> None:
    """SkyServer's own page, with status 200."""
    send(
        handler,
        "<html><head>\n<title>Skyserver Error</title>\n</head><body bgcolor=white>\n<h2>An error occured</h2>"
        "<H3 BGCOLOR=pink><font color=red><br>Query did not return results successfully, check input and try again"
        " later.</font></H3></BODY></HTML>\n",
        Content_Type="text/html",
    )


def json_error(message: str, status: int = 500) -> Fault:
    """The web service's own error."""
    record = {"ErrorCode": status, "ErrorType": "InternalServerError", "ErrorMessage": message, "LogMessageID": "x"}
    return lambda handler, text: send(handler, json.dumps(record), status, Content_Type="application/json")


def unavailable(seconds: str) -> Fault:
    """The machine in front, with Retry-After."""
    page = (
        "<html><body><h1>503 Service Unavailable</h1>\nNo server is available to handle this request.\n</body></html>"
    )
    return lambda handler, text: send(handler, page, 503, Retry_After=seconds)


def replaced(old: str, new: str) -> Fault:
    """The right answer with something else in it, once."""
    return lambda handler, text: send(handler, text.replace(old, new, 1))


def without(first: int, last: int) -> Fault:
    """The right answer without some of its lines."""

    def fault(handler: Handler, text: str) -> None:
        lines = text.splitlines(keepends=True)
        send(handler, "".join(lines[:first] + lines[last:]))

    return fault


def redirect(target: str, status: int = 302) -> Fault:
    """Elsewhere."""
    return lambda handler, text: send(handler, "", status, Location=target)


@contextmanager
def serve(sky: Sky, certificate: tuple[Path, Path] | None = None) -> Iterator[Sky]:
    """Start a server; with a certificate and its key, over TLS."""
    handler = type("HandlerOfOne", (Handler,), {"sky": sky})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    scheme = "http" if certificate is None else "https"
    sky.url = f"{scheme}://127.0.0.1:{server.server_port}/dr18/SkyServerWS/SearchTools/SqlSearch"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield sky
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)
