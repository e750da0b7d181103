"""Files appear complete or not at all, and records say when they were altered."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpc_ae.errors import DamageError, InputError, WorkError
from hpc_ae.files import (
    TEMP_MARK,
    canonical_json,
    digest_bytes,
    digest_file,
    inspect_json,
    make_dir,
    publish_bytes,
    publish_json,
    read_json,
    remove_debris,
    seal,
)


def names_in(directory: Path) -> list[str]:
    """Names of the files in a directory."""
    return sorted(path.name for path in directory.iterdir())


# A writer that stops where it is told: before the bytes are synced, or between sync and rename.
WRITER = """
import os, sys, time
from pathlib import Path
from hpc_ae.files import publish_bytes
def stop(*_):
    print("ready", flush=True)
    time.sleep(60)
setattr(os, sys.argv[2], stop)
publish_bytes(Path(sys.argv[1]), b"new" * 1000)
"""


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("moment", ["write", "fsync", "replace"])
def test_killed_writer_leaves_no_final_file(tmp_path: Path, moment: str, old: bytes | None) -> None:
    """A writer killed at any point leaves the old file or none, and debris that is cleared."""
    path = tmp_path / "shard-00000.h5"
    if old is not None:
        path.write_bytes(old)
    with subprocess.Popen([sys.executable, "-c", WRITER, path, moment], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
        writer.send_signal(signal.SIGKILL)
    assert (path.read_bytes() if path.exists() else None) == old
    debris = [name for name in names_in(tmp_path) if name != path.name]
    assert len(debris) == 1 and TEMP_MARK in debris[0]
    remove_debris(tmp_path)
    assert names_in(tmp_path) == ([path.name] if old else [])


def test_published_file(tmp_path: Path) -> None:
    """A published file has its bytes, nobody else may read it, and nothing else is left."""
    path = tmp_path / "x.bin"
    for data in (b"", b"a" * 10_000_000, memoryview(b"b")):
        publish_bytes(path, data)
        assert path.read_bytes() == bytes(data)
    assert path.stat().st_mode & 0o777 == 0o600 and names_in(tmp_path) == ["x.bin"]


def test_planted_link_is_not_written_through(tmp_path: Path) -> None:
    """A symbolic link under the temporary name is refused, not followed; one under the final name is replaced."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    path = tmp_path / "x.bin"
    path.symlink_to(victim)
    publish_bytes(path, b"mine")
    assert victim.read_bytes() == b"precious" and not path.is_symlink()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    mount_dir = make_dir(tmp_path / "tiny")
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small tmpfs")
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(mount_dir)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if mounted.returncode:
        pytest.skip(f"cannot mount a small tmpfs: {mounted.stderr.strip()}")
    yield mount_dir
    subprocess.run(["umount", str(mount_dir)], check=True)


def test_full_disk(tiny_disk: Path) -> None:
    """A full disk is one error with path and bytes; the old file stays, no debris does, and a rerun completes."""
    path = tiny_disk / "x.bin"
    publish_bytes(path, b"old")
    filler = tiny_disk / "filler"
    filler.write_bytes(b"f" * 40_000)
    with pytest.raises(WorkError, match=r"the disk is full[\s\S]*x\.bin[\s\S]*50000 bytes") as caught:
        publish_bytes(path, b"n" * 50_000)
    assert caught.value.exit_status == 1
    assert path.read_bytes() == b"old" and names_in(tiny_disk) == ["filler", "x.bin"]
    filler.unlink()
    publish_bytes(path, b"n" * 50_000)
    assert path.stat().st_size == 50_000


def test_directory_that_is_not_there(tmp_path: Path) -> None:
    """Writing into a directory that is not there, or over one, is a WorkError with the path."""
    with pytest.raises(WorkError, match=r"cannot write[\s\S]*nowhere"):
        publish_bytes(tmp_path / "nowhere" / "x", b"")
    (tmp_path / "dir" / "full").mkdir(parents=True)
    with pytest.raises(WorkError, match="cannot write"):
        publish_bytes(tmp_path / "dir", b"")
    assert names_in(tmp_path) == ["dir"]


def test_made_directories_are_private(tmp_path: Path) -> None:
    """A made directory is 0700; a path under a file is wrong input."""
    assert make_dir(tmp_path / "a").stat().st_mode & 0o777 == 0o700
    assert make_dir(tmp_path / "a") == tmp_path / "a"
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot create a directory"):
        make_dir(tmp_path / "file" / "x")


def test_digests(tmp_path: Path) -> None:
    """The digest of a file is that of its bytes, also where it is longer than a read."""
    path = tmp_path / "x"
    path.write_bytes(b"abc" * 3_000_000)
    assert digest_file(path) == digest_bytes(path.read_bytes())
    assert digest_bytes(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_canonical_form() -> None:
    """Order of keys does not matter to a digest, order of lists does; NaN has no JSON."""
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()
    assert seal({"a": 1, "b": 2})["digest"] == seal({"b": 2, "a": 1, "digest": "old"})["digest"]
    assert seal({"a": [1, 2]})["digest"] != seal({"a": [2, 1]})["digest"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


def test_sealed_record_round_trip(tmp_path: Path) -> None:
    """A sealed record is read back; a changed or missing field breaks the seal; so does taking the seal away."""
    path = tmp_path / "x.json"
    record = seal({"ids": [2**60 + 1], "mean": 0.1 + 0.2, "name": "é"})
    publish_json(path, record)
    assert read_json(path, sealed=True) == record and inspect_json(path) == (record, [])
    for changed in ({**record, "mean": 0.3}, {**record, "more": 1}, {"ids": [1]}, {"digest": None}):
        publish_json(path, changed)
        assert read_json(path) == changed
        with pytest.raises(DamageError, match="does not match its own digest"):
            read_json(path, sealed=True)
        assert inspect_json(path)[0] == changed and len(inspect_json(path)[1]) == 1


def test_same_record_in_other_bytes(tmp_path: Path) -> None:
    """A flip that JSON does not see (1e-05 to 1E-05) keeps the seal, and is found all the same."""
    path = tmp_path / "x.json"
    publish_json(path, seal({"rate": 1e-05}))
    path.write_bytes(path.read_bytes().replace(b"1e-05", b"1E-05"))
    assert read_json(path, sealed=True)["rate"] == 1e-05
    assert [error.what[:31] for error in inspect_json(path)[1]] == ["the file is not byte for byte w"]


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff{}", b"[" * 100_000, b'{"a": NaN}', b'{"a": Infinity}', b'{"a": "\\udc00"}', b"[]", b"1"]
)
def test_what_is_no_record(tmp_path: Path, data: bytes) -> None:
    """A file that is no JSON object is damage that names it, never another exception."""
    path = tmp_path / "x.json"
    path.write_bytes(data)
    for sealed in (False, True):
        with pytest.raises(DamageError, match=r"x\.json"):
            read_json(path, sealed=sealed)
    assert inspect_json(path)[0] is None


def test_no_record(tmp_path: Path) -> None:
    """A record that is not there is wrong input."""
    with pytest.raises(InputError, match="there is no such file"):
        read_json(tmp_path / "x.json")
