"""A file that grows page by page and appears under its name when it is complete; a killed writer's goes on.

`OUT.partial` holds the rows so far, `OUT.fetch.json` says how many bytes of it count, their digest, and where to go on.
The record is published after the bytes are on disk, so that what it says is always there; what lies behind is cut off.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import os
from pathlib import Path
from types import TracebackType

from hpc_ae.errors import DamageError, InputError, StaleError
from hpc_ae.files import TEMP_MARK, digest_file, make_dir, publish_json, read_json, seal, sync_dir, write_error
from hpc_ae.provenance import Provenance
from hpc_ae.skyserver.records import FETCH_FORMAT, FetchQuery, FetchRecord, FetchState

_READ_BYTES = 1 << 22
_RESTART = "--restart discards it and starts over"


def record_path(out: Path) -> Path:
    """Where the record of a fetched file lies."""
    return out.with_name(f"{out.name}.fetch.json")


def partial_path(out: Path) -> Path:
    """Where its rows are until it is complete."""
    return out.with_name(f"{out.name}.partial")


class PartialFile:
    """The growing file of one query, held by one process. `state` is how far it is on disk.

    `restart` throws away what an earlier process has left.
    """

    def __init__(self, out: Path, query: FetchQuery, *, restart: bool = False) -> None:
        self.out, self.query, self.restart = out, query, restart
        self.state = FetchState()
        self.num_bytes = 0
        self._digest = hashlib.sha256()
        self._descriptor = -1
        self._provenance = Provenance.now({})

    def __enter__(self) -> PartialFile:
        make_dir(self.out.parent)
        self._descriptor = self._lock()
        try:
            for path in self.out.parent.glob(f".{glob.escape(record_path(self.out).name)}{TEMP_MARK}*"):
                path.unlink(missing_ok=True)  # a killed writer's
            self._resume()
        except BaseException:
            os.close(self._descriptor)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not record_path(self.out).exists():  # nothing was kept: leave nothing behind
            partial_path(self.out).unlink(missing_ok=True)
        os.close(self._descriptor)

    def _lock(self) -> int:
        """The open file, locked: a lock that its process cannot leave behind."""
        path = partial_path(self.out)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise write_error(path, 0, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino != path.stat().st_ino:  # its last writer has just completed it
                raise BlockingIOError
        except (BlockingIOError, FileNotFoundError):
            os.close(descriptor)
            raise InputError(
                "another command is fetching into this file", where=self.out, fix="wait for it, or choose another OUT"
            ) from None
        return descriptor

    def _resume(self) -> None:
        path = record_path(self.out)
        if self.restart:
            path.unlink(missing_ok=True)
        if not path.exists():
            os.ftruncate(self._descriptor, 0)
            return
        try:
            record = read_record(self.out, self.query)
        except DamageError as error:
            raise DamageError(
                error.what, where=error.where, got=error.got, expected=error.expected, fix=_RESTART
            ) from error
        size = os.fstat(self._descriptor).st_size
        if record.complete and size == 0 and record.num_bytes != 0:
            path.unlink()  # OUT was made and has been taken away since: begin again
            return
        self._take_up(record, size)

    def _take_up(self, record: FetchRecord, size: int) -> None:
        left = self.num_bytes = record.num_bytes
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        while left and (chunk := os.read(self._descriptor, min(left, _READ_BYTES))):
            self._digest.update(chunk)
            left -= len(chunk)
        if left or self.digest != record.content_digest:
            raise DamageError(
                "the rows fetched so far do not match their record",
                where=partial_path(self.out),
                got=f"{size:,} bytes, {self.digest}",
                expected=f"{record.num_bytes:,} bytes, {record.content_digest}",
                fix=_RESTART,
            )
        os.ftruncate(self._descriptor, self.num_bytes)
        self.state = record.state

    @property
    def digest(self) -> str:
        """Of the bytes so far."""
        return "sha256:" + self._digest.hexdigest()

    def append(self, data: bytes, state: FetchState) -> None:
        """Add bytes and say where to go on; both are on disk when this returns. WorkError where there is no room."""
        try:
            view = memoryview(data)
            os.lseek(self._descriptor, self.num_bytes, os.SEEK_SET)
            while view:
                view = view[os.write(self._descriptor, view) :]
            os.fsync(self._descriptor)
        except OSError as error:
            os.ftruncate(self._descriptor, self.num_bytes)
            raise write_error(partial_path(self.out), len(data), error) from error
        self._digest.update(data)
        self.num_bytes += len(data)
        self.state = state
        record = FetchRecord(
            complete=state.complete,
            query=self.query,
            num_bytes=self.num_bytes,
            content_digest=self.digest,
            state=state,
            provenance=self._provenance,
        )
        publish_json(record_path(self.out), seal(record.to_json()))

    def discard(self) -> None:
        """Leave nothing behind."""
        for path in (record_path(self.out), partial_path(self.out)):
            path.unlink(missing_ok=True)

    def publish(self) -> None:
        """Give the complete file its name; InputError where something of that name has come up meanwhile."""
        if self.out.exists() or self.out.is_symlink():
            raise InputError("the file already exists", where=self.out, fix="move it away and run this command again")
        try:
            partial_path(self.out).replace(self.out)
            sync_dir(self.out.parent)
        except OSError as error:
            raise write_error(self.out, 0, error) from error


def read_record(out: Path, query: FetchQuery) -> FetchRecord:
    """The record beside `out`; StaleError where it is of another query, DamageError where it cannot be trusted."""
    path = record_path(out)
    values = read_json(path, sealed=True)
    if values.get("format") != FETCH_FORMAT:
        raise InputError("not a record of this format", where=path, got=values.get("format"), expected=FETCH_FORMAT)
    record = FetchRecord.parse(values, path)
    if changed := _changed(record.query, query):
        raise StaleError(
            "this file was begun with another query",
            where=path,
            got="; ".join(changed)[:400],
            expected="the same query",
            fix="choose another OUT, or --restart to discard what was fetched",
        )
    return record


def _changed(recorded: FetchQuery, wanted: FetchQuery) -> list[str]:
    """What differs, each value from where it begins to."""
    found = []
    before, now = recorded.to_json(), wanted.to_json()
    for key in sorted(now):
        old, new = str(before[key]), str(now[key])
        if old != new:
            differing = (i for i, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1])
            same = max(0, next(differing, min(len(old), len(new))) - 20)
            found.append(f"{key}: {old[same:][:120]} -> {new[same:][:120]}")
    return found


def is_complete(out: Path, query: FetchQuery) -> FetchRecord | None:
    """The record where `out` is there, whole and of this query; None where it is not there.

    InputError where something else is there, DamageError where its bytes have changed.
    """
    if not out.exists() and not out.is_symlink():
        return None
    if not record_path(out).exists():
        raise InputError("the file already exists", where=out, fix="choose another OUT, or move the file away")
    record = read_record(out, query)
    digest = digest_file(out)
    if not record.complete or digest != record.content_digest:
        raise DamageError(
            "the file has changed since it was fetched",
            where=out,
            got=digest,
            expected=record.content_digest,
            fix="move it away and run the same command again",
        )
    return record
