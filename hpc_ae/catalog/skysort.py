"""Sort star shards of any number by their place in the sky, in bounded memory: runs, cuts, merged shards.

1. Runs: a few source shards at a time are sorted in memory and left in two hidden files, HEALPix numbers and rows.
2. Cuts: where each new shard begins in each run, found by bisection over the numbers of all runs.
3. Shards: the pieces of one new shard are read from all runs, sorted and written.

Ties keep the order of the source, so the shards are the same for any runs and any number of workers.
Shape letters: N stars, K runs, S new shards.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from hpc_ae.catalog.records import ShardRecord
from hpc_ae.catalog.schema import STAR_FORMAT, columns_of
from hpc_ae.catalog.shard import Arrays, read_shard, write_shard
from hpc_ae.catalog.sky import NO_POSITION, healpix_of, sky_range
from hpc_ae.errors import DamageError, WorkError
from hpc_ae.files import write_error
from hpc_ae.layout import shard_name

Task = TypeVar("Task")
Result = TypeVar("Result")

RUN_ROWS = 2_000_000  # stars of a run: 0.15 GB, twice that while they are sorted
_CUTS = 256  # new shards whose beginnings one task finds
_GATHER_ROWS = 65_536
_RUNS_SHARE = 0.4  # of the progress


class Map(Protocol):
    """Runs a function over tasks, results in task order: a Mapper's `map`."""

    def __call__(self, function: Callable[[Task], Result], tasks: Sequence[Task], /) -> Iterator[Result]:
        """Yield function(task) for each task, in order."""
        ...


@dataclass(frozen=True)
class SkySort:
    """What every task of a sort knows: columns and bands of the shards, where the new ones go, how long they are.

    `mark` is in the names of this run's temporary files; they begin with `.shard-`, so that a next run clears them.
    """

    out_dir: Path
    mark: str
    columns: tuple[str, ...]
    bands: tuple[str, ...]
    shard_rows: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """One star as the files of the runs have it."""
        known = columns_of(STAR_FORMAT)
        widths = {"": (), "B": (len(self.bands),)}
        return np.dtype([(name, known[name].dtype, widths[known[name].width]) for name in self.columns])

    def run_path(self, what: str, index: int) -> Path:
        """The file of the `numbers` or the `rows` of a run."""
        return self.out_dir / f".shard-{what}-{index:05d}{self.mark}"


@dataclass(frozen=True)
class Source:
    """A shard whose stars are to be sorted."""

    path: Path
    num_stars: int


@dataclass(frozen=True)
class _Group:
    """The source shards of one run."""

    run: int
    sources: list[Source]


def sort_shards(
    sort: SkySort, sources: Sequence[Source], run_tasks: Map, *, tell: Callable[[int], None], in_place: bool
) -> list[ShardRecord]:
    """Write the stars of the source shards as new shards in sky order; return their records for the manifest.

    `tell` takes the number of stars done. `in_place`: the sources lie in `out_dir` and are removed as soon as the runs
    have their stars. What is left behind by an error are files that begin with `.shard-` or `shard-`: the caller clears
    them. WorkError where the disk is full or a star was lost, DamageError where a source is not what was recorded.
    """
    total = sum(source.num_stars for source in sources)
    groups = [_Group(index, group) for index, group in enumerate(_groups(sources))]
    checks: list[_Check] = []
    for check in run_tasks(partial(_write_run, sort), groups):
        checks.append(check)
        tell(int(_RUNS_SHARE * sum(check.num_stars for check in checks)))
    if in_place:
        for source in sources:
            source.path.unlink()
    runs = [(index, check.num_stars) for index, check in enumerate(checks) if check.num_stars]
    records: list[ShardRecord] = []
    written: list[_Check] = []
    for record, check in run_tasks(partial(_write_merged, sort), list(_new_shards(sort, runs, total, run_tasks))):
        records.append(record)
        written.append(check)
        tell(int(_RUNS_SHARE * total + (1 - _RUNS_SHARE) * sum(check.num_stars for check in written)))
    if _Check.of_all(checks) != _Check.of_all(written):
        raise WorkError("stars were lost", where=sort.out_dir, got=_Check.of_all(written), expected=f"{total} stars")
    for group in groups:
        for what in ("numbers", "rows"):
            sort.run_path(what, group.run).unlink()
    return records


def _groups(sources: Sequence[Source]) -> list[list[Source]]:
    """The source shards of each run: as many as RUN_ROWS holds, at least one."""
    groups: list[list[Source]] = []
    room = 0
    for source in sources:
        if not groups or source.num_stars > room:
            groups.append([])
            room = RUN_ROWS
        groups[-1].append(source)
        room -= source.num_stars
    return groups


@dataclass(frozen=True)
class _Check:
    """What sorting must not change: the number of stars, and the sums of ids and flags modulo 2^64."""

    num_stars: int
    sums: tuple[int, ...]

    @staticmethod
    def of(rows: Any) -> _Check:
        """Of columns by name."""
        sums = (int(rows[name].astype(np.uint64).sum()) for name in ("objid", "quality", "caution"))
        return _Check(len(rows["objid"]), tuple(sums))

    @staticmethod
    def of_all(checks: Sequence[_Check]) -> _Check:
        """Of all stars of some parts."""
        columns = zip(*(check.sums for check in checks), strict=True)
        return _Check(sum(check.num_stars for check in checks), tuple(sum(column) % 2**64 for column in columns))


def _write_run(sort: SkySort, group: _Group) -> _Check:
    """Sort the stars of some source shards in memory and write their numbers and their rows."""
    rows = np.empty(sum(source.num_stars for source in group.sources), sort.dtype)
    start = 0
    for source in group.sources:
        num = source.num_stars
        for name, values in read_shard(source.path, STAR_FORMAT, sort.columns).items():
            if len(values) != num:
                raise DamageError(
                    "the number of stars in a shard does not match its manifest",
                    where=source.path,
                    got=len(values),
                    expected=num,
                )
            rows[name][start : start + num] = values
        start += num
    numbers = healpix_of(rows["ra"], rows["dec"])
    order = np.argsort(numbers, kind="stable")
    _write(sort.run_path("numbers", group.run), iter([numbers[order]]), numbers.nbytes)
    blocks = (_taken(rows, order[at : at + _GATHER_ROWS]) for at in range(0, len(rows), _GATHER_ROWS))
    _write(sort.run_path("rows", group.run), blocks, rows.nbytes)
    return _Check.of(rows)


def _write(path: Path, parts: Iterator[np.ndarray], num_bytes: int) -> None:
    """Write arrays one after the other to a temporary file (mode 0600)."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    try:
        with open(os.open(path, flags, 0o600), "wb", buffering=0) as file:  # noqa: PTH123
            for part in parts:
                view = np.ascontiguousarray(part).view(np.uint8).data if len(part) else memoryview(b"")
                while view:
                    view = view[file.write(view) :]
    except OSError as error:
        raise write_error(path, num_bytes, error) from error


@dataclass(frozen=True)
class _Piece:
    """The stars of one run that belong to one new shard."""

    run: int
    start: int
    stop: int


@dataclass(frozen=True)
class _NewShard:
    """A shard of the sorted catalog, and what it is put together from."""

    index: int
    pieces: list[_Piece]


def _new_shards(sort: SkySort, runs: Sequence[tuple[int, int]], total: int, run_tasks: Map) -> Iterator[_NewShard]:
    """Each new shard with its pieces of the runs (index, number of stars)."""
    firsts = list(range(sort.shard_rows, total, sort.shard_rows))
    paths = [sort.run_path("numbers", index) for index, _ in runs]
    tasks = [firsts[at : at + _CUTS] for at in range(0, len(firsts), _CUTS)]
    cuts = [row for part in run_tasks(partial(cut_runs, paths), tasks) for row in part.tolist()]
    edges = [[0] * len(runs), *cuts, [num for _, num in runs]]
    for index, (starts, stops) in enumerate(itertools.pairwise(edges)):
        spans = zip(runs, starts, stops, strict=True)
        pieces = [_Piece(run, start, stop) for (run, _), start, stop in spans if start < stop]
        if pieces:
            yield _NewShard(index, pieces)


def cut_runs(paths: Sequence[Path], firsts: Sequence[int]) -> np.ndarray:
    """Where the stars `firsts` of the whole order begin in each run: int64 (S, K).

    `paths` are files of ascending numbers; of equal numbers those of earlier runs come first.
    """
    ranks = np.asarray(firsts, np.int64)
    low, high = np.zeros(len(ranks), np.int64), np.full(len(ranks), NO_POSITION, np.int64)
    while (low < high).any():  # the smallest number that more than `rank` stars do not exceed
        middle = low + (high - low) // 2
        enough = _places(paths, middle, "right").sum(axis=1) > ranks
        low, high = np.where(enough, low, middle + 1), np.where(enough, middle, high)
    below = _places(paths, low, "left")
    equal = _places(paths, low, "right") - below
    missing = (ranks - below.sum(axis=1))[:, None] - (np.cumsum(equal, axis=1) - equal)
    return np.asarray(below + np.clip(missing, 0, equal))


def _places(paths: Sequence[Path], numbers: np.ndarray, side: Any) -> np.ndarray:
    """numpy's searchsorted of numbers (S,) in each file: int64 (S, K). One file is open at a time."""
    found = [np.searchsorted(np.memmap(path, np.int64, mode="r"), numbers, side) for path in paths]
    return np.stack(found, axis=1) if found else np.empty((len(numbers), 0), np.int64)


def _write_merged(sort: SkySort, shard: _NewShard) -> tuple[ShardRecord, _Check]:
    """Read the pieces of a new shard, sort them and write it."""
    numbers = np.concatenate(
        [_read(sort.run_path("numbers", piece.run), np.dtype(np.int64), piece) for piece in shard.pieces]
    )
    arrays = _gathered(sort, shard.pieces, np.argsort(numbers, kind="stable"))
    check = _Check.of(arrays)
    record = write_shard(sort.out_dir / shard_name(shard.index), STAR_FORMAT, arrays, sort.bands, {})
    return record.replaced(healpix=sky_range(numbers)), check


def _gathered(sort: SkySort, pieces: list[_Piece], order: np.ndarray) -> Arrays:
    rows = np.concatenate([_read(sort.run_path("rows", piece.run), sort.dtype, piece) for piece in pieces])
    rows = _taken(rows, order)
    return {name: np.ascontiguousarray(rows[name]) for name in sort.columns}


def _taken(rows: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Whole rows of a structured array (N,) as so many bytes each: 8 times as fast as by its fields."""
    return np.take(rows.view(np.dtype((np.void, rows.dtype.itemsize))), order).view(rows.dtype)


def _read(path: Path, dtype: np.dtype[Any], piece: _Piece) -> np.ndarray:
    """Rows of a run's file; WorkError where it is shorter than it was."""
    num = piece.stop - piece.start
    values = np.fromfile(path, dtype, num, offset=piece.start * dtype.itemsize)
    if len(values) != num:
        raise WorkError("a temporary file has been cut short", where=path, got=len(values), expected=num)
    return values
