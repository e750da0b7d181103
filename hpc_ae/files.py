"""Publish a file complete or not at all, and the digests and JSON forms that all records share."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import socket
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, TextIO

from hpc_ae.errors import DamageError, HpcAeError, InputError, WorkError

TEMP_MARK = ".tmp-"
_READ_BYTES = 1 << 22
_MOST_BYTES = 1 << 28  # of a record: the manifest of 100,000 shards has a quarter of it


def make_dir(path: Path) -> Path:
    """Create a directory (mode 0700) with its parents (at most 0755, whatever the umask is) and return it."""
    try:
        missing = itertools.takewhile(lambda parent: not parent.exists(), path.parents)
        for parent in reversed(list(missing)):
            parent.mkdir(mode=0o755, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot create a directory: {error.strerror}",
            where=path,
            expected="a path that you may write to",
            fix="choose another directory or change its permissions",
        ) from error
    return path


def check_outside(out: Path, directories: Iterable[Path]) -> None:
    """InputError where an output would lie inside a catalog that it is made of."""
    if any(out.resolve().is_relative_to(directory.resolve()) for directory in directories):
        raise InputError("the output lies inside the catalog", where=out, expected="a path outside of it")


def temp_mark() -> str:
    """What the temporary files of this process have in their names."""
    return f"{TEMP_MARK}{socket.gethostname()}-{os.getpid()}"


def publish_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to `path` so that the name appears only when every byte is on disk (mode 0600)."""
    temp_path = path.with_name(f".{path.name}{temp_mark()}")
    try:
        _write_synced(temp_path, data)
        temp_path.replace(path)
        sync_dir(path.parent)
    except OSError as error:
        temp_path.unlink(missing_ok=True)
        raise write_error(path, len(data), error) from error


@contextmanager
def published_text(path: Path) -> Iterator[TextIO]:
    """A text file to write part by part, whose name appears when it is complete and synced (mode 0600).

    InputError where the name is that of something else than a file, which would be replaced.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise InputError("not a file", where=path, expected="a new name, or that of a regular file")
    temp_path = path.with_name(f".{path.name}{temp_mark()}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with open(os.open(temp_path, flags, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123
            yield file
            file.flush()
            os.fsync(file.fileno())
        temp_path.replace(path)
        sync_dir(path.parent)
    except OSError as error:
        written = temp_path.stat().st_size if temp_path.exists() else 0
        temp_path.unlink(missing_ok=True)
        raise write_error(path, written, error) from error
    except BaseException:
        temp_path.unlink(missing_ok=True)
        raise


def write_error(path: Path, num_bytes: int, error: OSError) -> WorkError:
    """The one message for a file that could not be written."""
    full = is_full(error)
    return WorkError(
        "the disk is full" if full else f"cannot write: {error.strerror}",
        where=path,
        expected=f"room for {num_bytes} bytes" if full else "a directory that you may write to",
        fix="free some space and run the same command again; finished work is kept" if full else "check the directory",
    )


def is_full(error: OSError) -> bool:
    """Whether a disk or a quota has no room left."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _write_synced(path: Path, data: bytes | memoryview) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        view = memoryview(data).cast("B")
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_dir(path: Path) -> None:
    """Make renames inside a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_debris(directory: Path) -> None:
    """Remove the temporary files that killed writers left; call it only while no writer is alive."""
    if directory.is_dir():
        for path in directory.glob(f".*{TEMP_MARK}*"):
            path.unlink(missing_ok=True)


@contextmanager
def open_regular(path: Path, *, most_bytes: int | None = None, follow: bool = False) -> Iterator[BufferedReader]:
    """A file of unknown origin, opened for reading: a regular one of at most `most_bytes`, through no link but with
    `follow`. DamageError for all others: a named pipe would be waited for, a device has no end. OSError as of `open`.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a socket
            raise _not_regular(path, path.lstat().st_mode) from error
        raise
    with os.fdopen(descriptor, "rb") as file:
        entry = os.fstat(descriptor)
        if not stat.S_ISREG(entry.st_mode):
            raise _not_regular(path, entry.st_mode)
        if most_bytes is not None and entry.st_size > most_bytes:
            expected = f"at most {most_bytes:,} bytes"
            raise DamageError(
                "the file is too large to be what it should be",
                where=path,
                got=f"{entry.st_size:,} bytes",
                expected=expected,
            )
        yield file


def read_regular(path: Path, most_bytes: int = _MOST_BYTES) -> bytes:
    """All bytes of such a file."""
    with open_regular(path, most_bytes=most_bytes) as file:
        return file.read(most_bytes)


def _not_regular(path: Path, mode: int) -> DamageError:
    kinds = ((stat.S_ISLNK, "a symbolic link"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISDIR, "a directory"))
    got = next((name for is_kind, name in kinds if is_kind(mode)), "a device or a socket")
    fix = "put the file itself there"
    return DamageError("not a regular file", where=path, got=got, expected="a regular file", fix=fix)


@dataclass(frozen=True)
class Written:
    """A file that a record names: its digest and, where the record says, its size."""

    path: Path
    digest: str
    num_bytes: int | None = None


def missing_files(files: Iterable[Written]) -> list[Path]:
    """Those that are not there."""
    return [file.path for file in files if not file.path.is_file()]


def check_unchanged(files: Iterable[Written], record_path: Path, fix: str) -> None:
    """DamageError for the first file that is there and not what its record says: by its size and, where it is younger
    than the record, by its digest.
    """
    recorded_at = record_path.stat().st_mtime_ns
    for file in files:
        entry = file.path.stat() if file.path.is_file() else None
        if entry is None:
            continue
        if file.num_bytes not in (None, entry.st_size):
            got, expected = f"{entry.st_size} bytes", f"{file.num_bytes} bytes"
        elif entry.st_mtime_ns > recorded_at and digest_file(file.path) != file.digest:
            got, expected = f"another content, younger than {record_path.name}", file.digest
        else:
            continue
        raise DamageError(
            "a file has changed since it was written", where=file.path, got=got, expected=expected, fix=fix
        )


def digest_bytes(data: bytes | memoryview) -> str:
    """`sha256:<hex>` of some bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_file(path: Path, *, most_bytes: int | None = None, follow: bool = True) -> str:
    """`sha256:<hex>` of a regular file, read in bounded memory; see `open_regular`."""
    digest = hashlib.sha256()
    with open_regular(path, most_bytes=most_bytes, follow=follow) as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
    return "sha256:" + digest.hexdigest()


def canonical_json(value: Any) -> bytes:
    """The one JSON form that digests are taken of: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def seal(record: dict[str, Any]) -> dict[str, Any]:
    """Return `record` with a `digest` of its own canonical JSON (taken without that field)."""
    body = {key: value for key, value in record.items() if key != "digest"}
    return {**body, "digest": digest_bytes(canonical_json(body))}


def json_bytes(value: Any) -> bytes:
    """The indented JSON that files hold."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def publish_json(path: Path, value: Any) -> None:
    """Publish `value` as indented JSON."""
    publish_bytes(path, json_bytes(value))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def read_json(path: Path, *, sealed: bool = False) -> dict[str, Any]:
    """Read a JSON object; with `sealed`, check its own digest (DamageError where it does not hold)."""
    try:
        record = json.loads(read_regular(path), parse_constant=_refuse_constant)
        canonical_json(record)
    except FileNotFoundError:
        raise InputError("there is no such file", where=path) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DamageError("the file is not readable JSON", where=path, got=str(error)[:200]) from error
    if not isinstance(record, dict):
        raise DamageError("the file is not a JSON object", where=path, got=type(record).__name__)
    if sealed and seal(record).get("digest") != record.get("digest"):
        raise _broken_seal(path, record)
    return record


def _broken_seal(path: Path, record: dict[str, Any]) -> DamageError:
    return DamageError(
        "the record does not match its own digest: it was altered or damaged",
        where=path,
        got=seal(record)["digest"],
        expected=record.get("digest", "a field digest"),
        fix="make it again, or restore it from a copy",
    )


def inspect_json(path: Path) -> tuple[dict[str, Any] | None, list[HpcAeError]]:
    """A sealed record as far as it can be read (None where it cannot), and everything that is wrong with it."""
    try:
        record = read_json(path)
    except HpcAeError as error:
        return None, [error]
    if seal(record)["digest"] != record.get("digest"):
        return record, [_broken_seal(path, record)]
    if read_regular(path) != json_bytes(record):
        return record, [
            DamageError(
                "the file is not byte for byte what was written, although its contents are the same", where=path
            )
        ]
    return record, []
