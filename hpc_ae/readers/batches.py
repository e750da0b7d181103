"""The rows of a piece of a raw file, whatever its format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from hpc_ae.readers.fits import read_fits
from hpc_ae.readers.hdf5_rows import read_hdf5
from hpc_ae.readers.parquet import read_parquet
from hpc_ae.readers.raw_file import Batches, Piece, RawFile, Scan
from hpc_ae.readers.text import Stretch, count_rows, count_tasks, cut_text, read_text, scan_text

RunTasks = Callable[[Callable[[Stretch], list[int]], Sequence[Stretch]], Iterable[list[int]]]
_READERS = {"csv": read_text, "parquet": read_parquet, "fits": read_fits, "hdf5": read_hdf5}


def read_batches(piece: Piece) -> Batches:
    """The rows of a piece, batch by batch: (first row in the file, columns by the names of `piece.raw.wanted`)."""
    return _READERS[piece.raw.kind](piece)


def scan_all(raws: Sequence[RawFile], run: RunTasks) -> list[Scan]:
    """Count the rows of all files, with `run` in parallel also within a file: it gives the results of its tasks in
    order.
    """
    tasks = {index: count_tasks(raw) for index, raw in enumerate(raws) if raw.num_rows < 0}
    counts = iter(run(count_rows, [task for index in tasks for task in tasks[index]]))
    scans = []
    for index, raw in enumerate(raws):
        if raw.num_rows >= 0:
            scans.append(Scan(raw, raw.num_rows))
        else:
            scans.append(scan_text(raw, [num for _ in tasks[index] for num in next(counts)]))
    for _ in counts:  # let the workers finish
        pass
    return scans


def scan_head(raw: RawFile) -> Scan:
    """A scan of the whole file where its format tells the number of rows, of the first segment of a text."""
    if raw.num_rows >= 0:
        return Scan(raw, raw.num_rows)
    short = cut_text(raw)
    return scan_text(short, [num for task in count_tasks(short) for num in count_rows(task)])
