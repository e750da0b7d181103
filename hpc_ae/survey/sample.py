"""A bounded sample of a survey's usable stars: what windows, scores and clusters are fitted to before all are read.

Every star where there are no more than asked for; else evenly spaced rows of evenly spaced chunks of every shard.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from hpc_ae.analysis.tally import usable_rows
from hpc_ae.catalog.shard import CHUNK_ROWS, Arrays
from hpc_ae.runtime.executor import Mapper
from hpc_ae.survey.pairs import ShardPair, Survey

MOST_STARS = 1 << 20
_CHUNK_STARS = 1 << 14  # taken of one chunk: reading the rest of it costs more than the stars are worth


def read_sample(mapper: Mapper, survey: Survey, most: int = MOST_STARS) -> Arrays:
    """All columns of at most `most` stars with quality 0 and finite values, in the order of the catalog."""
    num = survey.encoding.num_stars
    wanted = [int(offset) if num <= most else int(offset) * most // num for offset in survey.encoding.offsets]
    spans = zip(survey.pairs, itertools.pairwise(wanted), strict=True)
    tasks = [_Part(pair, stop - start) for pair, (start, stop) in spans]
    parts = list(mapper.map(_sample_shard, tasks))
    names = parts[0] if parts else ()
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


@dataclass(frozen=True)
class _Part:
    """How many stars to take of a shard."""

    pair: ShardPair
    num: int


def _sample_shard(part: _Part) -> Arrays:
    parts = [_sample_rows(part.pair, first, stop, take) for first, stop, take in _chunks(part.pair, part.num)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _chunks(pair: ShardPair, num: int) -> list[tuple[int, int, int]]:
    """(first row, one past the last, number of rows to take) of the chunks to read; one of no rows at the least."""
    num_chunks = -(-pair.num_stars // CHUNK_ROWS)
    num_read = min(num_chunks, max(1, -(-num // _CHUNK_STARS)))
    shift = pair.first_row // CHUNK_ROWS  # else every shard would give its first rows
    chosen = sorted({(index * num_chunks // num_read + shift) % num_chunks for index in range(num_read)})
    spans = [(chunk * CHUNK_ROWS, min((chunk + 1) * CHUNK_ROWS, pair.num_stars)) for chunk in chosen]
    total = sum(stop - first for first, stop in spans)
    above = np.cumsum([0, *(stop - first for first, stop in spans)]) * min(num, total) // max(1, total)
    return [(*span, int(high - low)) for span, (low, high) in zip(spans, itertools.pairwise(above), strict=True)]


def _sample_rows(pair: ShardPair, first: int, stop: int, take: int) -> Arrays:
    arrays = pair.read(slice(first, stop))
    places = np.arange(take) * (stop - first) // max(1, take)
    arrays = {name: values[places] for name, values in arrays.items()}
    usable = usable_rows(arrays)
    return {name: values[usable] for name, values in arrays.items()}
