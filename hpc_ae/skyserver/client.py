"""SkyServer over HTTP, politely: one request at a time, a pause between them, growing pauses after a failure.

Proxies and certificates come from the environment: HTTPS_PROXY, HTTP_PROXY, NO_PROXY; REQUESTS_CA_BUNDLE,
CURL_CA_BUNDLE or SSL_CERT_FILE. Certificates are always checked. No password is read from ~/.netrc.
"""

from __future__ import annotations

import datetime
import email.utils
import gzip
import io
import os
import random
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlencode, urljoin, urlsplit

import requests
import urllib3

from hpc_ae import __version__
from hpc_ae.errors import InputError, WorkError
from hpc_ae.secrets import shared_text
from hpc_ae.skyserver.answer import BadAnswer, Table, clean, read_answer

URL = "https://skyserver.sdss.org/{release}/SkyServerWS/SearchTools/SqlSearch"
_CONNECT_SECONDS = 30.0
_MOST_URL = 1_800  # a longer query is sent as a form: servers cut addresses at 2,048 letters
_MOST_REDIRECTS = 5
_REDIRECTS = (301, 302, 307, 308)
_READ_BYTES = 1 << 16
_FIRST_RETRIES = 2  # of an address that has never answered: more likely it is wrong, or there is no network
_ROW_BYTES, _PAGE_BYTES = 16_384, 1 << 20
_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
Checked = TypeVar("Checked")


@dataclass(frozen=True)
class Manners:
    """How a server is treated: seconds between an answer and the next request, tries after a failure, the first and the
    longest pause before one, seconds that an answer may take, and the longest that a Retry-After is waited for.
    """

    pause_seconds: float = 2.0
    retries: int = 8
    backoff_seconds: float = 4.0
    most_backoff_seconds: float = 300.0
    timeout_seconds: float = 900.0
    most_wait_seconds: float = 3_600.0


class Client:
    """Asks one address; a query's answer is checked before it counts as one."""

    def __init__(self, url: str, manners: Manners) -> None:
        check_url(url)
        self.url, self.manners = url, manners
        self.num_requests = 0
        self._next_start = 0.0
        self._answered = False
        self._session = _Session()
        self._session.auth = _no_password
        self._session.headers["User-Agent"] = f"hpc_ae/{__version__} (star catalogs; hpc-ae fetch)"
        self._session.headers["Accept"] = "text/csv, text/plain, */*;q=0.1"
        self._session.headers["Accept-Encoding"] = "gzip"
        bundle = next((os.environ[name] for name in _CA_VARIABLES if os.environ.get(name)), None)
        self._verify: str | bool = bundle or True

    def ask(self, sql: str, num_rows: int, check: Callable[[Table], Checked]) -> Checked:
        """What `check` makes of the answer to a query of at most num_rows rows.

        Where SkyServer is busy, cuts an answer off, or `check` raises BadAnswer, it is asked again. WorkError when the
        tries are used up; InputError where the query or the address is wrong.
        """
        for attempt in range(self.manners.retries + 1):
            self._wait_turn()
            try:
                return check(self._answer(sql, num_rows))
            except BadAnswer as error:
                self._prepare_retry(attempt, error)
        raise AssertionError("the last try ends in an error or an answer")

    def close(self) -> None:
        """Give the connection back."""
        self._session.close()

    def _wait_turn(self) -> None:
        time.sleep(max(0.0, self._next_start - time.monotonic()))

    def _prepare_retry(self, attempt: int, error: BadAnswer) -> None:
        most = self.manners.retries if self._answered else min(self.manners.retries, _FIRST_RETRIES)
        if attempt == most or error.wait_seconds > self.manners.most_wait_seconds:
            asked = (
                f"{attempt + 1} tries" if error.wait_seconds <= self.manners.most_wait_seconds else "to be left alone"
            )
            asked += f", {error.wait_seconds:,.0f} s" if error.wait_seconds else ""
            raise WorkError(
                error.what,
                where=f"{shared_text(self.url)} ({asked})",
                got=error.got,
                expected=error.expected,
                fix="run the same command again later: what was fetched is kept",
            ) from error
        longest = min(self.manners.most_backoff_seconds, self.manners.backoff_seconds * 2**attempt)
        seconds = max(error.wait_seconds, longest * random.uniform(0.5, 1.0))
        self._next_start = max(self._next_start, time.monotonic() + seconds)
        got = f": {error.got}" if error.got else ""
        print(f"fetch: {error.what}{got}; again in {seconds:.0f} s", file=sys.stderr, flush=True)

    def _answer(self, sql: str, num_rows: int) -> Table:
        self.num_requests += 1
        deadline = time.monotonic() + self.manners.timeout_seconds
        try:
            with self._send(sql) as response:
                self._answered = True
                data = _read_body(response, _PAGE_BYTES + num_rows * _ROW_BYTES, deadline)
                wait = _retry_after(response.headers.get("Retry-After", ""))
                return read_answer(response.status_code, _text(data, response.status_code), wait)
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise InputError("not a valid address", where=shared_text(self.url), got=clean(str(error))) from error
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            if "certificate" in str(error).lower():
                raise _certificate_error(shared_text(self.url), error) from error
            raise BadAnswer("SkyServer cannot be reached, or stopped in its answer", got=_reason(error)) from error
        finally:
            self._next_start = time.monotonic() + self.manners.pause_seconds

    def _send(self, sql: str) -> requests.Response:
        """The answer's head. A redirected form stays a form: requests, like browsers, would drop it."""
        fields = {"cmd": sql, "format": "csv"}
        url, form = f"{self.url}{'&' if '?' in self.url else '?'}{urlencode(fields)}", None
        if len(url) > _MOST_URL:
            url, form = self.url, fields
        limits = (_CONNECT_SECONDS, self.manners.timeout_seconds)
        for _ in range(_MOST_REDIRECTS + 1):
            response = self._session.request(
                "GET" if form is None else "POST",
                url,
                data=form,
                timeout=limits,
                stream=True,
                allow_redirects=False,
                verify=self._verify,
            )
            try:
                target = _next_url(response, form)
            except WorkError:
                response.close()
                raise
            if target is None:
                return response
            response.close()
            url = target
        raise WorkError("the server redirects in a circle", where=shared_text(self.url), got=clean(url))


class _Session(requests.Session):
    """Leaves redirects to `_next_url`: requests reads them even where it is not to follow them, and some break it."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """No answer is one."""
        return None


def _next_url(response: requests.Response, form: dict[str, str] | None) -> str | None:
    """Where a redirect leads, None where an answer is none; only http and https, never from https to http."""
    target = response.headers.get("Location")
    if response.status_code not in _REDIRECTS or not target:
        return None
    allowed = ("https",) if urlsplit(response.url).scheme == "https" else ("http", "https")
    try:
        url = urljoin(response.url, target)
        followed = urlsplit(url).scheme in allowed and (form is not None or bool(urlsplit(url).query))
    except ValueError:
        url, followed = target, False
    if not followed:
        raise WorkError(
            "the server redirects to an address that is not followed",
            where=clean(response.url),
            got=clean(url),
            expected=f"{' or '.join(allowed)}, with the query",
            fix="check --url; nothing was read from there",
        )
    return url


def check_url(url: str) -> None:
    """InputError unless an address is http or https, names a host and has no password in it."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise InputError("not a valid address", where="--url", got=url, expected=URL)
    if parts.username is not None or parts.password is not None:
        raise InputError(
            "a password in the address would end in files and logs", where="--url", expected="an address without one"
        )


def _no_password(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keeps requests from looking into ~/.netrc."""
    return request


def _read_body(response: requests.Response, most_bytes: int, deadline: float) -> bytes:
    """All bytes of an answer, unpacked; BadAnswer where some are missing or it takes too long."""
    chunks, num_bytes = [], 0
    while chunk := response.raw.read1(_READ_BYTES, decode_content=False):
        chunks.append(chunk)
        num_bytes += len(chunk)
        if time.monotonic() > deadline:
            raise BadAnswer(
                "the answer takes too long", got=f"{num_bytes:,} bytes so far", expected="fewer rows a page"
            )
        if num_bytes > most_bytes:
            raise _too_long(most_bytes)
    expected = response.headers.get("Content-Length", "")
    if expected.isdecimal() and (expected.lstrip("0") or "0") != str(num_bytes):
        raise BadAnswer("the answer is cut off", got=f"{num_bytes} bytes", expected=expected[:30])
    packing = response.headers.get("Content-Encoding", "identity").strip().lower()
    if packing in ("identity", ""):
        return b"".join(chunks)
    if packing not in ("gzip", "x-gzip"):
        raise BadAnswer("the answer is compressed in a way that was not requested", got=clean(packing), expected="gzip")
    try:
        data = gzip.GzipFile(fileobj=io.BytesIO(b"".join(chunks))).read(most_bytes + 1)
    except (EOFError, OSError, zlib.error) as error:
        raise BadAnswer("the answer is cut off, or its compression is damaged", got=str(error)[:200]) from error
    if len(data) > most_bytes:
        raise _too_long(most_bytes)
    return data


def _too_long(most_bytes: int) -> BadAnswer:
    return BadAnswer("the answer is longer than its rows can be", expected=f"at most {most_bytes:,} bytes")


def _text(data: bytes, status: int) -> str:
    try:
        return data.decode("utf-8", errors="strict" if status == 200 else "replace")
    except UnicodeDecodeError as error:
        raise BadAnswer("the answer is not text", got=str(error)[:200], expected="CSV in UTF-8") from error


def _retry_after(text: str) -> float:
    """Seconds that a Retry-After header asks for; 0 where there is none or it cannot be read."""
    if text.strip().isdecimal():
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return 0.0
    now = datetime.datetime.now(datetime.UTC)
    return max(0.0, (moment.replace(tzinfo=moment.tzinfo or datetime.UTC) - now).total_seconds())


def _certificate_error(url: str, error: Exception) -> InputError:
    return InputError(
        "the server's certificate cannot be trusted",
        where=url,
        got=_reason(error),
        expected="a certificate of a known authority",
        fix="if a proxy signs for it, set REQUESTS_CA_BUNDLE to the file with its authority",
    )


def _reason(error: BaseException) -> str:
    """The innermost reason of a chain of network errors, on one line."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return clean(f"{type(error).__name__}: {error}")
