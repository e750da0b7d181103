"""Whose a file or a directory is, who else may write there, and who could put another in its place.

A directory that others may write to lets them rename what lies in it away and put something else there, whoever owns
that; where it is sticky only the owners of an entry and of the directory can. So each directory on the way to a path
counts, and so does each link that is followed.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpc_ae.errors import InputError

TRUST_VARIABLE = "HPC_AE_TRUST"  # directories, with : between them, whose owner and writers the user trusts
_ANOTHER = "choose a new directory: what others have put into this one stays there, whatever its mode is set to"
_ACCESS_LIST = "system.posix_acl_access"
_ALL_USERS = "4294967295"
_NOBODY = 65534  # in a container of the user's own: the owner of all that lies outside of it
_MOST_LINKS = 40


@dataclass(frozen=True)
class OpenPlace:
    """Where others could put something else in the place of what is meant: a directory, or an entry of it."""

    where: Path
    got: str
    expected: str


def check_private(path: Path, *, follow: bool = True) -> None:
    """InputError where a file or directory that is there belongs to someone else, others may write into it or, without
    `follow`, it is a link.
    """
    try:
        entry = path.stat(follow_symlinks=follow)
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISLNK(entry.st_mode):
        raise InputError("a symbolic link, where a run keeps its own files", where=path, fix=_ANOTHER)
    if entry.st_uid != os.geteuid():
        raise InputError(
            "the directory belongs to someone else" if stat.S_ISDIR(entry.st_mode) else "the file is someone else's",
            where=path,
            got=f"user {entry.st_uid}",
            expected=f"user {os.geteuid()}, yourself: the owner can replace its contents",
            fix="choose another directory",
        )
    if others_may_write(path, entry):
        raise InputError(
            f"other users may write to the {'directory' if stat.S_ISDIR(entry.st_mode) else 'file'}",
            where=path,
            got=f"mode {entry.st_mode & 0o777:04o}",
            expected="0700, or at most 0755",
            fix=_ANOTHER,
        )


def check_place(path: Path) -> None:
    """InputError where others could put another directory in the place of this one, which need not be there yet."""
    if place := open_place(path):
        raise InputError(
            f"other users can put another directory in the place of {path.name}",
            where=place.where,
            got=place.got,
            expected=place.expected,
            fix="a directory of your own below such directories, $HOME for one; or have the sticky bit set there, with "
            f"which everybody replaces only what is theirs: chmod +t {place.where}; or, where you trust everyone who "
            f"may write there: export {TRUST_VARIABLE}={place.where}",
        )


def open_place(path: Path) -> OpenPlace | None:
    """The first place on the way to a path, through all links, where others could put something else; None where they
    cannot. Two system calls a directory.
    """
    trusted = {Path(name).resolve() for name in os.environ.get(TRUST_VARIABLE, "").split(os.pathsep) if name}
    seen: set[Path] = set()
    for directory, entry in _way(path):
        if directory in trusted:
            continue
        itself = directory.lstat()
        is_open = others_may_write(directory, itself)
        if directory not in seen and (place := _open_directory(directory, itself, is_open=is_open)):
            return place
        seen.add(directory)
        if is_open and (place := _foreign_entry(entry)):  # it is sticky: an entry is its owner's to replace
            return place
    return None


def _way(path: Path) -> Iterator[tuple[Path, Path]]:
    """Each directory on the way to a path, and the entry of it that is taken, links followed; as far as it is there."""
    here, waiting, links = Path("/"), list(reversed(path.absolute().parts[1:])), 0
    while waiting:
        name = waiting.pop()
        if name == "..":
            here = here.parent
            continue
        entry = here / name
        yield here, entry
        if entry.is_symlink() and links < _MOST_LINKS:
            links += 1
            target = entry.readlink()
            here = Path("/") if target.is_absolute() else here
            waiting += reversed([part for part in target.parts if part != "/"])
        elif entry.is_dir():
            here = entry
        else:
            return


def _open_directory(directory: Path, entry: os.stat_result, *, is_open: bool) -> OpenPlace | None:
    if is_trusted(entry.st_uid) and not (is_open and not entry.st_mode & stat.S_ISVTX):
        return None
    got = f"owner {_user(entry.st_uid)}, group {_group(entry.st_gid)}, mode {entry.st_mode & 0o7777:04o}"
    return OpenPlace(directory, got, "yours or root's, and written to by nobody else unless it is sticky (1777)")


def _foreign_entry(path: Path) -> OpenPlace | None:
    if not path.is_symlink() and not path.exists():
        return None
    owner = path.lstat().st_uid
    what = "a link" if path.is_symlink() else "a directory"
    return None if is_trusted(owner) else OpenPlace(path, f"{what} of {_user(owner)}", "yours or root's")


def is_trusted(owner: int) -> bool:
    """Whether a user is this one or root, or everyone who is outside of this container."""
    if owner in (0, os.geteuid()):
        return True
    return owner == _NOBODY and _ALL_USERS not in Path("/proc/self/uid_map").read_text()


def others_may_write(path: Path, entry: os.stat_result) -> bool:
    """Whether somebody else than the owner may write; not where the group is this user's own, of which nobody else is a
    member, as many systems set it up. With an access control list the group's bits are those of all whom it names.
    """
    if entry.st_mode & 0o002:
        return True
    return bool(entry.st_mode & 0o020) and (not _is_own_group(entry.st_gid) or _has_access_list(path))


def _is_own_group(group: int) -> bool:
    try:
        user, members = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    own = members.gr_gid == user.pw_gid and members.gr_name == user.pw_name
    return own and user.pw_uid != 0 and set(members.gr_mem) <= {user.pw_name}


def _has_access_list(path: Path) -> bool:
    try:
        return bool(os.getxattr(path, _ACCESS_LIST))
    except OSError:
        return False


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
