"""Fetching from SkyServer: a local server answers as it does, and every way in which it may fail is played."""

from __future__ import annotations

import csv
import datetime
import email.utils
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sky_server
import trustme
from commands import hpc_ae, start
from hypothesis import given, settings
from hypothesis import strategies as st
from sky_server import FIRST_ID, HEADER, Sky, json_error, make_rows, redirect, replaced, serve, unavailable, without

from hpc_ae import open_catalog
from hpc_ae.errors import DamageError, HpcAeError, InputError, StaleError, WorkError
from hpc_ae.fetch import Extraction, fetch
from hpc_ae.files import seal
from hpc_ae.runtime.progress import Progress
from hpc_ae.skyserver import answer
from hpc_ae.skyserver.answer import BadAnswer, Table, read_answer
from hpc_ae.skyserver.client import Manners
from hpc_ae.skyserver.partial import partial_path, record_path
from hpc_ae.skyserver.query import lecture_query, parse_query
from hpc_ae.verify import verify

QUICK = Manners(pause_seconds=0, retries=4, backoff_seconds=0.01, timeout_seconds=3)
LECTURE = (
    "SELECT TOP 255000 p.objid, p.ra, p.dec, s.z AS redshift, p.u, p.g, p.r, p.i, p.z FROM PhotoObj AS p JOIN SpecObj"
    " AS s ON s.bestobjid = p.objid WHERE p.u BETWEEN 0 AND 30 AND p.g BETWEEN 0 AND 30 AND p.r BETWEEN 0 AND 30 AND"
    " p.i BETWEEN 0 AND 30 AND p.z BETWEEN 0 AND 30 AND s.class = 'STAR' AND s.class <> 'UNKNOWN' AND s.class <> 'SKY'"
    " AND s.class <> 'STAR_LATE'"
)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy and no certificates of this machine."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def sky() -> Iterator[Sky]:
    """A server of 1,000 rows; every tenth id has three."""
    with serve(Sky(make_rows(1000, repeat_every=10))) as sky:
        yield sky


def extraction(sky: Sky, num_stars: int | None = None, page_rows: int = 250, **more: Any) -> Extraction:
    """The lecture's query at a server, in small pages."""
    query = parse_query(lecture_query(), "p.objid", "test")
    return Extraction(sky.url, query, num_stars, page_rows, **more)


def read_csv(path: Path) -> list[list[str]]:
    """The rows of a file, the header first."""
    with path.open(newline="") as file:
        return list(csv.reader(file))


def leftovers(out: Path) -> set[str]:
    """What lies beside a file, other than its record."""
    return {path.name for path in out.parent.iterdir()} - {out.name, record_path(out).name}


def test_the_query_is_the_lectures_with_its_id() -> None:
    """The packaged SQL is the issue's text with p.objid in front, and pages add what the paging needs alone."""
    query = parse_query(lecture_query(), "p.objid", "test")
    assert " ".join(lecture_query().split()) == LECTURE
    assert query.top == 255_000
    page = LECTURE.replace("TOP 255000", "TOP 70")
    assert query.page(70) == f"{page} ORDER BY p.objid"
    assert query.page(70, 1237) == f"{page} AND p.objid > 1237 ORDER BY p.objid"
    assert query.column_names() == HEADER


def test_pages_hold_every_row_once(sky: Sky, tmp_path: Path) -> None:
    """Pages of a query whose ids repeat: every row, in order, as the server's own text; the record says so."""
    out = tmp_path / "new" / "stars.csv"
    done = fetch(out, extraction(sky), QUICK)
    assert read_csv(out) == [HEADER, *sky.rows]
    assert done.num_rows == 1000 and done.num_repeated == 1000 - len({row[0] for row in sky.rows})
    assert leftovers(out) == set()
    assert out.stat().st_mode & 0o777 == 0o600
    record = json.loads(record_path(out).read_text())
    assert record["complete"] and record["query"]["url"] == sky.url and "p.objid" in record["query"]["sql"]
    asked = len(sky.requests)
    fetch(out, extraction(sky), QUICK)
    assert len(sky.requests) == asked  # what is there is not asked for again


@settings(max_examples=15, deadline=None)
@given(
    num_rows=st.integers(1, 40),
    page_rows=st.integers(1, 25),
    repeat_every=st.integers(0, 5),
    num_stars=st.one_of(st.none(), st.integers(1, 70)),
    row_cap=st.one_of(st.none(), st.integers(7, 20)),
)
def test_any_page_size(
    tmp_path_factory: pytest.TempPathFactory,
    num_rows: int,
    page_rows: int,
    repeat_every: int,
    num_stars: int | None,
    row_cap: int | None,
) -> None:
    """Whatever the page, the number of rows of one id and a server's own cap: each row once, up to those asked for."""
    out = tmp_path_factory.mktemp("any") / "stars.csv"
    rows = make_rows(num_rows, repeat_every=repeat_every)
    with serve(Sky(rows, row_cap=row_cap)) as sky:
        fetch(out, extraction(sky, num_stars, page_rows), QUICK)
    assert read_csv(out) == [HEADER, *rows[:num_stars]]


FAULTS = {
    "packed": (sky_server.packed, ""),
    "packed_short": (sky_server.packed_short, "cut off, or its compression is damaged"),
    "packed_bomb": (sky_server.packed_bomb, "longer than its rows can be"),
    "chunked_short": (sky_server.chunked_short, "stopped in its answer"),
    "short_of_length": (sky_server.short_of_length, "stopped in its answer"),
    "short_in_a_line": (sky_server.short_in_a_line, "cut off"),
    "short_at_a_line": (sky_server.short_at_a_line, ""),
    "short_after_the_first": (replaced, ""),
    "unmarked": (sky_server.unmarked, ""),
    "reset": (sky_server.reset, "stopped in its answer"),
    "silent": (sky_server.silent, "stopped in its answer"),
    "slow": (sky_server.slow, "takes too long"),
    "rate_limited": (sky_server.rate_limited, "Maximum 60 queries allowed per minute"),
    "html": (sky_server.html_error, "Query did not return results successfully"),
    "timeout": (json_error("Execution Timeout Expired."), "Execution Timeout Expired."),
    "busy": (unavailable("0"), "No server is available to handle this request."),
    "empty": (replaced, "the answer is empty"),
    "error_line": (replaced("1237", "#Error: out of memory\n1237"), "not have one value for each column"),
    "lost_value": (replaced(",19", ""), "not have one value for each column"),
    "other_column": (replaced("redshift", "class"), "other columns than"),
    "no_rows": (without(2, 10_000), "leaves out rows"),
    "lost_first": (without(2, 3), "leaves out rows"),
    "old_rows": (replaced, "rows that were not requested"),
    "not_sorted": (replaced, "not in the order"),
    "too_many": (replaced, "more rows than requested"),
    "binary": (replaced, "not text"),
    "damaged_id": (replaced, "rows that were not requested"),
    "other_id": (replaced, "leaves out rows"),
}


def play(name: str) -> sky_server.Fault:
    """A fault by its name; some depend on the answer."""

    def fault(handler: sky_server.Handler, text: str) -> None:
        lines = text.splitlines(keepends=True)
        if name == "short_after_the_first":
            return sky_server.send_bare(handler, "".join(lines[:3]).encode())
        made: dict[str, str | bytes] = {
            "empty": "",
            "not_sorted": "".join([*lines[:4], *lines[5:6], *lines[4:5], *lines[6:]]) if len(lines) > 6 else text,
            "too_many": "".join([*lines, *lines[-1:] * 200]),
            "binary": b"\xff\xfe" + text.encode(),
            "old_rows": text.replace(lines[2], lines[2].replace(lines[2][:19], str(FIRST_ID))),
            "other_id": text.replace(lines[2][:19], str(int(lines[2][:19]) + 1), 1),
            "damaged_id": text.replace(lines[2][:19], lines[2][:18] + "0", 1),
        }
        sky_server.send(handler, made[name])

    known = FAULTS[name][0]
    return fault if known is replaced else known


def test_a_server_that_caps_below_one_key(tmp_path: Path) -> None:
    """Where a server's own limit hides what follows the rows of one key, that is an error, not an end."""
    rows = [[str(FIRST_ID + number), str(number // 8)] for number in range(40)]
    query = parse_query("SELECT objid, htmid FROM PhotoObj", "htmid", "test")
    with serve(Sky(rows, header=["objid", "htmid"], row_cap=8)) as sky:
        with pytest.raises(WorkError, match="leaves rows out"):
            fetch(tmp_path / "stars.csv", Extraction(sky.url, query, None, 100), QUICK)
        sky.row_cap = None
        fetch(tmp_path / "stars.csv", Extraction(sky.url, query, None, 100), QUICK)
    assert read_csv(tmp_path / "stars.csv") == [["objid", "htmid"], *rows]


@pytest.mark.parametrize("name", FAULTS)
def test_faults_lose_nothing(
    name: str, sky: Sky, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One fault in the midst of the pages, twice: it is named, asked again, and every row is there once."""
    monkeypatch.setattr(answer, "RATE_WINDOW_SECONDS", 0.1)
    sky.rows = make_rows(1000)  # ids do not repeat: what is pending at a page's end is one row
    sky.faults = [None, play(name), None, play(name)]
    manners = replace(QUICK, timeout_seconds=0.8) if name == "slow" else QUICK
    fetch(tmp_path / "stars.csv", extraction(sky), manners)
    assert read_csv(tmp_path / "stars.csv") == [HEADER, *sky.rows]
    said, expected = capsys.readouterr().err, FAULTS[name][1]
    assert expected in said and ("again in" in said) == bool(expected), said


@pytest.mark.parametrize("seed", range(3))
def test_any_mixture_of_faults(seed: int, sky: Sky, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of all answers are faults, drawn by chance: every row is there once; a fault that swaps two rows of one id
    is none.
    """
    monkeypatch.setattr(answer, "RATE_WINDOW_SECONDS", 0.02)
    names = sorted(FAULTS.keys() - {"slow", "damaged_id", "old_rows", "lost_first", "other_id", "packed_bomb"})
    drawn = np.random.default_rng(seed).choice([*names, *[""] * len(names)], 200)
    sky.faults = [play(str(name)) if name else None for name in drawn]
    fetch(tmp_path / "stars.csv", extraction(sky, page_rows=60), replace(QUICK, retries=30, most_backoff_seconds=0.05))
    found = read_csv(tmp_path / "stars.csv")
    assert [row[0] for row in found] == ["objid", *(row[0] for row in sky.rows)]
    assert sorted(found[1:]) == sorted(sky.rows)


def test_first_answer_with_other_columns_is_refused(sky: Sky, tmp_path: Path) -> None:
    """The columns of the lecture's query are known before the first answer."""
    sky.header = ["objid", "ra", "dec", "redshift", "u", "g", "r", "z", "i"]
    with pytest.raises(WorkError, match="other columns than requested"):
        fetch(tmp_path / "stars.csv", extraction(sky), QUICK)
    assert not (tmp_path / "stars.csv").exists()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (json_error("Incorrect syntax near 'FORM'."), "Incorrect syntax near 'FORM'."),
        (json_error("Invalid column name 'umag'.", 400), "Invalid column name 'umag'."),
        (replaced("", "#Table1\nerror_message\nerror: must be a select statement: x\n"), "must be a select statement"),
        (lambda handler, text: sky_server.send(handler, "<h1>Not Found</h1>", 404), "HTTP status 404"),
        (redirect("file:///etc/passwd"), "file:///etc/passwd"),
        (redirect("ftp://example.org/x"), "ftp://example.org/x"),
        (redirect(""), "HTTP status 302"),
    ],
)
def test_final_errors_are_not_asked_again(fault: Any, said: str, sky: Sky, tmp_path: Path) -> None:
    """What cannot get better is one request and one message, with the server's own words."""
    sky.every = fault
    with pytest.raises(HpcAeError, match=re.escape(said)) as caught:
        fetch(tmp_path / "stars.csv", extraction(sky), replace(QUICK, retries=0))
    assert len(sky.requests) == 1
    assert list(tmp_path.iterdir()) == []
    assert "redirect" in str(fault) or caught.value.exit_status == 2


def test_gives_up_with_the_servers_words(sky: Sky, tmp_path: Path) -> None:
    """A server that never recovers: as many requests as said, the message, status 1; later the same call completes."""
    sky.faults = [None, None]
    sky.every = sky_server.html_error
    with pytest.raises(WorkError, match="Query did not return results successfully") as caught:
        fetch(tmp_path / "stars.csv", extraction(sky), QUICK)
    assert "5 tries" in str(caught.value) and len(sky.requests) == 2 + 5
    assert partial_path(tmp_path / "stars.csv").exists()
    sky.every = None
    fetch(tmp_path / "stars.csv", extraction(sky), QUICK)
    assert read_csv(tmp_path / "stars.csv") == [HEADER, *sky.rows]


def test_retry_after_is_honoured(sky: Sky, tmp_path: Path) -> None:
    """As seconds and as a date; one beyond an hour ends the command instead of waiting."""
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=3)
    sky.faults = [unavailable("1"), unavailable(email.utils.format_datetime(moment, usegmt=True))]
    fetch(tmp_path / "stars.csv", extraction(sky, num_stars=10), QUICK)
    times = [asked.seconds for asked in sky.requests]
    assert times[1] - times[0] >= 1.0
    assert times[2] - times[0] >= 1.9  # dates have whole seconds
    sky.faults = [unavailable("86400")]
    with pytest.raises(WorkError, match="86,400 s"):
        fetch(tmp_path / "other.csv", extraction(sky, num_stars=10), QUICK)


def test_is_polite(sky: Sky, tmp_path: Path) -> None:
    """Requests begin a pause apart, one at a time, and name the package; a rate limit is waited out for a minute."""
    sky.delay_seconds = 0.05
    fetch(tmp_path / "stars.csv", extraction(sky), replace(QUICK, pause_seconds=0.2))
    times = [asked.seconds for asked in sky.requests]
    assert min(np.diff(times)) >= 0.19
    assert {asked.headers["User-Agent"].split("/")[0] for asked in sky.requests} == {"hpc_ae"}
    assert not any("Authorization" in asked.headers for asked in sky.requests)
    with pytest.raises(BadAnswer) as caught:
        read_answer(200, '#Table1\nerror_message\n"ERROR: Maximum 60 queries allowed per minute. Rejected query: S"\n')
    assert caught.value.wait_seconds >= 60


@pytest.mark.parametrize("status", [307, 302])
def test_redirects_keep_the_query(status: int, sky: Sky, tmp_path: Path) -> None:
    """An address that has moved is followed, and a long query's form with it."""
    sql = lecture_query() + " AND p.objid NOT IN (" + ", ".join(str(number) for number in range(400)) + ")"
    query = parse_query(sql, "p.objid", "test")
    sky.faults = [redirect("/moved" * 3, status)]
    fetch(tmp_path / "stars.csv", replace(extraction(sky, 300), query=query), QUICK)
    assert {asked.method for asked in sky.requests} == {"POST"}
    assert read_csv(tmp_path / "stars.csv") == [HEADER, *sky.rows[:300]]


def test_redirects_in_a_circle_end(sky: Sky, tmp_path: Path) -> None:
    """Six addresses at most are asked, then it is an error."""
    sky.every = redirect("/moved?cmd=x")
    with pytest.raises(WorkError, match="redirects in a circle"):
        fetch(tmp_path / "stars.csv", extraction(sky), QUICK)
    assert len(sky.requests) == 6


@pytest.mark.parametrize(
    "headers",
    [
        {"Location": "http://[x\x1b[2J", "Retry_After": "\xb2"},
        {"Location": "\\\\host\\x", "Retry_After": "Mon, 99 Foo 99999 99:99:99 GMT"},
        {"Content_Encoding": "\x1b[2J"},
        {"Content_Length": "9" * 5000},
        {"Retry_After": "9" * 400},
    ],
)
@pytest.mark.parametrize("status", [200, 302, 503])
def test_hostile_headers(status: int, headers: dict[str, str], sky: Sky, tmp_path: Path) -> None:
    """Headers that make no sense end in the rows or in one of the package's errors, without control characters."""
    sky.every = lambda handler, text: sky_server.send(handler, text, status, **headers)
    try:
        fetch(tmp_path / "stars.csv", extraction(sky), replace(QUICK, retries=1, timeout_seconds=1))
    except HpcAeError as error:
        assert "\x1b" not in str(error)
    else:
        assert read_csv(tmp_path / "stars.csv") == [HEADER, *sky.rows]


def test_certificates_are_checked(tmp_path: Path) -> None:
    """A server whose certificate nobody vouches for is refused, status 2, nothing sent; with its authority it is read,
    and from https no redirect leads to http.
    """
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    for blob in issued.cert_chain_pems:
        blob.write_to_path(str(tmp_path / "cert.pem"), append=True)
    with serve(Sky(make_rows(50)), (tmp_path / "cert.pem", tmp_path / "key.pem")) as sky:
        words = ["fetch", tmp_path / "stars.csv", "--url", sky.url, "--pause", 0]
        done = hpc_ae(*words)
        assert done.returncode == 2 and "certificate cannot be trusted" in done.stderr, done.stderr
        assert "REQUESTS_CA_BUNDLE" in done.stderr and not sky.requests
        done = hpc_ae(*words, SSL_CERT_FILE=str(tmp_path / "ca.pem"))
        assert done.returncode == 0, done.stderr
        assert read_csv(tmp_path / "stars.csv") == [HEADER, *sky.rows]
        sky.every = redirect(sky.url.replace("https", "http"))
        words[1] = tmp_path / "other.csv"
        done = hpc_ae(*words, REQUESTS_CA_BUNDLE=str(tmp_path / "ca.pem"))
        assert done.returncode == 1 and "is not followed" in done.stderr, done.stderr


def test_proxies_of_the_environment(sky: Sky, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy is asked for the whole address, and NO_PROXY spares it; a password of ~/.netrc stays there."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text("machine sky.example login me password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    proxy = sky.url[: sky.url.index("/dr18")]
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("no_proxy", "")
    far = replace(extraction(sky, 100), url="http://sky.example/SqlSearch")
    fetch(tmp_path / "stars.csv", far, QUICK)
    assert sky.requests[0].path.startswith("http://sky.example/SqlSearch?cmd=SELECT")
    assert "Authorization" not in sky.requests[0].headers
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(WorkError, match="cannot be reached"):
        fetch(tmp_path / "other.csv", extraction(sky, 100), replace(QUICK, retries=1))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    fetch(tmp_path / "other.csv", extraction(sky, 100), QUICK)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "gopher://x/y", "skyserver", "http://", "https://me:pass@host/x"]
)
def test_addresses_that_are_refused(url: str, sky: Sky, tmp_path: Path) -> None:
    """Only http and https, to a host, without a password, which would end in files."""
    with pytest.raises(InputError, match="address"):
        fetch(tmp_path / "stars.csv", replace(extraction(sky), url=url), QUICK)
    assert list(tmp_path.iterdir()) == []


def kept_rows(out: Path) -> int:
    """How many rows a fetch has on disk and on record."""
    try:
        return int(json.loads(record_path(out).read_text())["state"]["num_rows"])
    except FileNotFoundError:
        return 0


@pytest.mark.parametrize("rounds", [7, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_killed_at_any_moment(rounds: int, sky: Sky, tmp_path: Path) -> None:
    """SIGKILL again and again, at other moments each time: it goes on where it was; no row lost, none twice."""
    out = tmp_path / "stars.csv"
    sky.delay_seconds = 0.02
    sky.rows = make_rows(140 * rounds, repeat_every=10)
    words = ["fetch", out, "--url", sky.url, "--page-rows", 40, "--pause", 0, "--all"]
    num_kills = 0
    for number in range(rounds):
        before = kept_rows(out)
        running = start(*words)
        deadline = time.monotonic() + 30
        while running.poll() is None and kept_rows(out) < before + 60 and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.005 * (number % 8))
        num_kills += running.poll() is None
        running.kill()
        running.communicate()
        assert not out.exists() or read_csv(out) == [HEADER, *sky.rows]
    assert num_kills >= rounds // 2
    done = hpc_ae(*words)
    assert done.returncode == 0, done.stderr
    assert read_csv(out) == [HEADER, *sky.rows]
    assert leftovers(out) == set()
    first = [asked.sql for asked in sky.requests if "objid >" not in asked.sql]
    assert len(first) <= 3  # later starts did not begin again


def test_interrupted(sky: Sky, tmp_path: Path) -> None:
    """Ctrl-C is status 130 and says what is kept; the same command completes."""
    out = tmp_path / "stars.csv"
    sky.delay_seconds = 0.05
    words = ["fetch", out, "--url", sky.url, "--page-rows", 40, "--pause", 0]
    running = start(*words)
    while kept_rows(out) < 100:
        assert running.poll() is None
        time.sleep(0.005)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=150)
    assert running.returncode == 130, said
    assert "stars are kept; the same command continues" in said and "Traceback" not in said
    assert not out.exists()
    assert hpc_ae(*words).returncode == 0
    assert read_csv(out) == [HEADER, *sky.rows]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_full_disk(sky: Sky, tmp_path: Path) -> None:
    """One message with the path, status 1; with room the same call completes, without a row lost or twice."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=True)
    try:
        out = disk / "stars.csv"
        with pytest.raises(WorkError, match="the disk is full") as caught:
            fetch(out, extraction(sky, page_rows=100), QUICK)
        assert str(disk) in str(caught.value)
        assert 0 < kept_rows(out) < 1000 and not out.exists()
        subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
        fetch(out, extraction(sky, page_rows=100), QUICK)
        assert read_csv(out) == [HEADER, *sky.rows]
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def begun(sky: Sky, out: Path, **more: Any) -> Extraction:
    """A fetch that stopped after two pages."""
    wanted = extraction(sky, **more)
    sky.faults, sky.every = [None, None], json_error("Invalid object name 'PhotoObj'.")
    with pytest.raises(InputError):
        fetch(out, wanted, QUICK)
    sky.faults, sky.every = [], None
    assert kept_rows(out) > 0
    return wanted


def test_another_query_is_not_mixed_in(sky: Sky, tmp_path: Path) -> None:
    """What was begun with one query is not gone on with by another, unless it is thrown away."""
    out = tmp_path / "stars.csv"
    wanted = begun(sky, out)
    other = replace(wanted, query=parse_query(lecture_query() + " AND p.clean = 1", "p.objid", "test"))
    with pytest.raises(StaleError, match=r"clean = 1") as caught:
        fetch(out, other, QUICK)
    assert caught.value.exit_status == 2
    fetch(out, other, QUICK, restart=True)
    assert read_csv(out) == [HEADER, *sky.rows]
    with pytest.raises(StaleError):
        fetch(out, wanted, QUICK)
    fetch(out, replace(other, page_rows=7), QUICK)  # a page's size decides nothing


def test_damaged_leftovers_are_refused(sky: Sky, tmp_path: Path) -> None:
    """Bytes that have changed since are named; a longer file, as a kill leaves, is cut to what its record says."""
    out = tmp_path / "stars.csv"
    wanted = begun(sky, out)
    whole = partial_path(out).read_bytes()
    for damaged in (whole[:-1], whole[:300] + b"9" + whole[301:], b""):
        partial_path(out).write_bytes(damaged)
        with pytest.raises(DamageError, match="do not match their record"):
            fetch(out, wanted, QUICK)
    record = record_path(out).read_bytes()
    record_path(out).write_bytes(record[:-9])
    with pytest.raises(DamageError, match="--restart"):
        fetch(out, wanted, QUICK)
    record_path(out).write_bytes(record)
    partial_path(out).write_bytes(whole + b"1237648702984781955,half a ro")
    fetch(out, wanted, QUICK)
    assert read_csv(out) == [HEADER, *sky.rows]
    out.write_bytes(out.read_bytes().replace(b"19.", b"18.", 1))
    with pytest.raises(DamageError, match="changed since it was fetched"):
        fetch(out, wanted, QUICK)


def test_record_on_disk(sky: Sky, tmp_path: Path) -> None:
    """Its fields stand in this order, so that older and newer records go on alike; a newer version is refused."""
    out = tmp_path / "stars.csv"
    wanted = begun(sky, out)
    record = json.loads(record_path(out).read_text())
    assert list(record) == [
        *("format", "version", "complete", "query", "num_bytes", "content_digest", "state", "provenance", "digest")
    ]
    assert list(record["query"]) == ["url", "sql", "key", "num_stars", "above", "until"]
    assert (record["query"]["num_stars"], record["query"]["above"]) == (wanted.num_stars, None)
    assert list(record["state"]) == [
        *("num_rows", "num_pages", "num_repeated", "header", "last_key", "pending", "complete")
    ]
    record_path(out).write_text(json.dumps(seal({**record, "version": 2})))
    with pytest.raises(InputError, match="newer version of hpc_ae"):
        fetch(out, wanted, QUICK)
    record_path(out).write_text(json.dumps(seal({**record, "num_bytes": "1"})))
    with pytest.raises(DamageError, match="num_bytes"):
        fetch(out, wanted, QUICK)


def test_killed_between_the_last_page_and_the_name(sky: Sky, tmp_path: Path) -> None:
    """Complete on record but not yet renamed: the next command only renames. Taken away: it is fetched again."""
    out = tmp_path / "stars.csv"
    wanted = extraction(sky)
    fetch(out, wanted, QUICK)
    asked = len(sky.requests)
    out.rename(partial_path(out))
    fetch(out, wanted, QUICK)
    assert len(sky.requests) == asked and read_csv(out) == [HEADER, *sky.rows]
    out.unlink()
    fetch(out, wanted, QUICK)
    assert len(sky.requests) == 2 * asked and read_csv(out) == [HEADER, *sky.rows]


def test_a_file_of_somebody_else_is_not_touched(sky: Sky, tmp_path: Path) -> None:
    """OUT is there without a record, as a file or as a link: refused, unchanged, nothing asked."""
    out = tmp_path / "stars.csv"
    out.write_text("mine")
    with pytest.raises(InputError, match="the file already exists"):
        fetch(out, extraction(sky), QUICK)
    (tmp_path / "link.csv").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="the file already exists"):
        fetch(tmp_path / "link.csv", extraction(sky), QUICK)
    partial_path(tmp_path / "other.csv").symlink_to(out)
    with pytest.raises(HpcAeError):
        fetch(tmp_path / "other.csv", extraction(sky), QUICK)
    assert out.read_text() == "mine" and not sky.requests


def test_two_at_once(sky: Sky, tmp_path: Path) -> None:
    """A second command on the same file is refused while the first one runs, which completes."""
    out = tmp_path / "stars.csv"
    sky.delay_seconds = 0.1
    first = threading.Thread(target=fetch, args=(out, extraction(sky), QUICK))
    first.start()
    while not sky.requests:
        time.sleep(0.005)
    for restart in (False, True):
        with pytest.raises(InputError, match="another command"):
            fetch(out, extraction(sky), QUICK, restart=restart)
    first.join()
    assert read_csv(out) == [HEADER, *sky.rows]


def test_paging_by_htm_within_bounds(tmp_path: Path) -> None:
    """Another key, whose values repeat and may be negative, and bounds on it, as CasJobs-size extractions need."""
    header = ["objid", "htmid", "u"]
    rows = [[str(FIRST_ID + number), str(-12 + number // 4), f"{number}.5"] for number in range(96)]
    query = parse_query("select objid, htmID, u\nfrom PhotoObj -- all\nwhere mode = 1 or mode = 2;", "htmid", "test")
    with serve(Sky(rows, header=header)) as sky:
        fetch(tmp_path / "a.csv", Extraction(sky.url, query, None, 10, None, -1), QUICK)
        fetch(tmp_path / "b.csv", Extraction(sky.url, query, None, 3, -1, None), QUICK)
        assert "WHERE (mode = 1 or mode = 2) AND htmid > " in sky.requests[-1].sql
    assert read_csv(tmp_path / "a.csv") + read_csv(tmp_path / "b.csv")[1:] == [header, *rows]


def test_a_query_without_rows(sky: Sky, tmp_path: Path) -> None:
    """Status 2 and no file, for a table without rows and for SkyServer's older words."""
    for text in ("", "No objects have been found\n"):
        sky.every = (lambda handler, _: sky_server.send(handler, "No objects have been found\n")) if text else None
        with pytest.raises(InputError, match="no rows"):
            fetch(tmp_path / "stars.csv", extraction(sky, above=1 << 62), QUICK)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("sql", "key", "page"),
    [
        ("SELECT a.id FROM t a", "a.id", "SELECT TOP 5 a.id FROM t a WHERE a.id > 3 ORDER BY a.id"),
        ("select distinct top (7) id\r\n\tfrom t;", "id", "select distinct TOP 5 id from t WHERE id > 3 ORDER BY id"),
        (
            "SELECT id, '-- it''s; (' AS [a where], (SELECT TOP 1 x FROM y WHERE z = 1 ORDER BY x) AS x -- no\n"
            "FROM t /* WHERE */ WHERE u > 1 OR (g < 2 AND r > 1) GROUP BY id HAVING count(*) > 1",
            "id",
            "SELECT TOP 5 id, '-- it''s; (' AS [a where], (SELECT TOP 1 x FROM y WHERE z = 1 ORDER BY x) AS x FROM t"
            " WHERE (u > 1 OR (g < 2 AND r > 1)) AND id > 3 GROUP BY id HAVING count(*) > 1 ORDER BY id",
        ),
    ],
)
def test_queries_are_cut_into_pages(sql: str, key: str, page: str) -> None:
    """The user's own text, comments and line ends taken out, with the page's condition where it belongs."""
    assert parse_query(sql, key, "test").page(5, 3) == page


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.sampled_from([" ", "\n", "\t", " -- it's [ WHERE (\n", "/* ; ' ORDER BY */", " /* a\nb */ "]), max_size=9
    )
)
def test_gaps_do_not_matter(gaps: list[str]) -> None:
    """Whatever comments and line ends stand between the words of a query, its pages are the same."""
    words = LECTURE.split(" ")
    spread = [word + (f" {gaps[index % len(gaps)]}" if gaps else " ") for index, word in enumerate(words)]
    assert parse_query("".join(spread), "p.objid", "test") == parse_query(LECTURE, "p.objid", "test")


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("", "not a SELECT"),
        ("DROP TABLE x", "not a SELECT"),
        ("WITH a AS (SELECT 1) SELECT id FROM a", "not a SELECT"),
        ("SELECT id FROM t; DROP TABLE t", "more than one statement"),
        ("SELECT id FROM t ORDER BY id", "ORDER"),
        ("SELECT id INTO mydb.x FROM t", "INTO"),
        ("SELECT id FROM t UNION SELECT id FROM u", "UNION"),
        ("SELECT TOP 10 PERCENT id FROM t", "PERCENT"),
        ("SELECT TOP x id FROM t", "TOP"),
        ("SELECT TOP 0 id FROM t", "TOP"),
        ("SELECT 1", "no FROM"),
        ("SELECT id FROM t WHERE (a = 1", "parentheses"),
        ("SELECT id FROM t WHERE a = 'x", "not closed"),
    ],
)
def test_queries_that_cannot_be_paged(sql: str, said: str) -> None:
    """Each is refused before anything is asked."""
    with pytest.raises(InputError, match=said):
        parse_query(sql, "id", "test")


@pytest.mark.parametrize(
    ("key", "said"), [("p.specobjid", "not among the columns"), ("p.ra", "not an integer"), ("1; DROP", "not the name")]
)
def test_keys_that_do_not_serve(key: str, said: str, sky: Sky, tmp_path: Path) -> None:
    """A key is a selected column of integers: anything else is one message, status 2, after one request at most."""
    sky.answer = lambda sql: "#Table1\n" + ",".join(HEADER) + "\n" + ",".join(sky.rows[0]) + "\n"  # type: ignore[method-assign]
    with pytest.raises(InputError, match=said):
        fetch(tmp_path / "s.csv", replace(extraction(sky), query=parse_query(lecture_query(), key, "test")), QUICK)
    assert len(sky.requests) <= 1


PIECES = [
    "#Table1\n",
    "objid,u\n",
    "1,2\n",
    "<html>",
    "<![x",
    "</script>",
    "error_message\n",
    '"',
    "{",
    '{"ErrorMessage": 3}',
    "\x00",
    "\r",
]


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([200, 404, 429, 500, 503]),
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=8)), max_size=8).map("".join),
)
def test_any_text_is_a_table_or_an_error(status: int, text: str) -> None:
    """Whatever a server sends is a table with one value for each column, or one of the package's errors."""
    try:
        table = read_answer(status, text)
    except HpcAeError as error:
        assert str(error)
    else:
        assert status == 200 and all(len(row) == len(table.header) for row in table.rows)


def test_an_address_that_never_answers(sky: Sky, tmp_path: Path) -> None:
    """No network, or a wrong address: three tries, not all of them, and nothing is left behind."""
    far = replace(extraction(sky), url="http://127.0.0.1:9/SqlSearch")
    with pytest.raises(WorkError, match="3 tries"):
        fetch(tmp_path / "stars.csv", far, QUICK)
    assert list(tmp_path.iterdir()) == []


def test_progress_without_a_total(tmp_path: Path) -> None:
    """Where nobody knows how many rows there are, no share and no time left is made up."""
    with Progress("fetch", 0, "stars", quiet=True) as progress:
        progress.update(1200, "page 3")
        assert re.fullmatch(r"fetch: 1,200 stars, [\d,]+ stars/s, page 3", progress.line())


def test_what_a_server_sends_steers_no_terminal() -> None:
    """Control characters of an error page do not reach the screen, and it is cut."""
    with pytest.raises(BadAnswer) as caught:
        read_answer(500, "<html><script>alert(1)</script>\x1b[2J\x1b]0;owned\x07" + "x" * 10_000)
    assert caught.value.got.isprintable() and len(caught.value.got) < 500 and "alert" not in caught.value.got


def test_a_real_answer_is_read(shared_data: Path) -> None:
    """A raw SkyServer answer with `#Table1`: all rows and columns, ids as text."""
    text = (shared_data / "raw" / "skyserver_table1_header.csv").read_text()
    table = read_answer(200, text)
    assert table.header[:2] == ["objid", "run"] and len(table.rows) == text.count("\n") - 2
    assert table.rows[0][0] == "1237648721229774920"


def test_dialects_of_an_answer() -> None:
    """Byte-order mark, CRLF, quoted fields with commas, lines without a mark: the same table."""
    expected = Table(["objid", "class"], [["1237648721229774920", "STAR, hot"], ["1237648721229774921", ""]])
    plain = 'objid,class\n1237648721229774920,"STAR, hot"\n1237648721229774921,\n'
    for text in (
        plain,
        f"#Table1\n{plain}",
        f"\ufeff#Table1\n{plain}\n",
        f"\r\n#Table1\n{plain}".replace("\n", "\r\n"),
    ):
        assert read_answer(200, text) == expected


def test_fetched_stars_become_a_catalog(sky: Sky, tmp_path: Path) -> None:
    """The command lines as they are typed, from the server to a verified catalog with exact ids and magnitudes."""
    out = tmp_path / "stars.csv"
    done = hpc_ae("fetch", out, "--stars", 900, "--url", sky.url, "--page-rows", 250, "--pause", 0)
    assert done.returncode == 0 and f"hpc-ae ingest {out}" in done.stderr, done.stderr
    done = hpc_ae("ingest", out, "--out", tmp_path / "catalog")
    assert done.returncode == 0, done.stderr
    catalog = open_catalog(tmp_path / "catalog")
    assert catalog.num_stars == 900
    assert catalog["objid"][:].tolist() == [int(row[0]) for row in sky.rows[:900]]
    expected = np.array([row[4:] for row in sky.rows[:900]], np.float64).astype(np.float32)
    np.testing.assert_array_equal(catalog["magnitude"][:], expected)
    assert verify(tmp_path / "catalog").ok


def test_command_line(sky: Sky, tmp_path: Path) -> None:
    """A query of one's own, the SQL shown, and mistakes with status 2."""
    sql = tmp_path / "mine.sql"
    sql.write_text("SELECT p.objid, p.u FROM Star p -- my stars\nWHERE p.r < 17")
    sky.header, sky.rows = ["objid", "u"], [[row[0], row[4]] for row in make_rows(20)]
    done = hpc_ae("fetch", tmp_path / "out.csv", "--sql", sql, "--show-sql", "--above", 7)
    assert done.stdout == "SELECT TOP 50000 p.objid, p.u FROM Star p WHERE p.r < 17 AND p.objid > 7 ORDER BY p.objid\n"
    done = hpc_ae("fetch", tmp_path / "out.csv", "--sql", sql, "--url", sky.url, "--pause", 0)
    assert done.returncode == 0 and read_csv(tmp_path / "out.csv") == [["objid", "u"], *sky.rows], done.stderr
    for words in (
        ["--sql", tmp_path / "no.sql"],
        ["--all", "--stars", 3],
        ["--release", "../x"],
        ["--above=5", "--until=5"],
    ):
        done = hpc_ae("fetch", tmp_path / "new.csv", *words)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "new.csv").exists()
