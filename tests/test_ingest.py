"""Raw files to a star catalog: every row arrives once, every reason is counted, the same again is skipped."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_files import HEADER, STARS, assert_stars, column, lines, refused, run, shard_bytes, write

from hpc_ae.catalog import identity
from hpc_ae.catalog.catalog import open_catalog
from hpc_ae.catalog.schema import Caution
from hpc_ae.errors import InputError, StaleError
from hpc_ae.ingest import IngestSettings, ingest
from hpc_ae.readers import text

# real files


def test_spectroscopic_csv_arrives_row_by_row(shared_data: Path, tmp_path: Path) -> None:
    """Every star of the lecture's own query arrives in order, with redshifts and generated ids."""
    path = shared_data / "sdss_spectroscopic_stars.csv"
    catalog = run(tmp_path, path, shard_rows=5_000)
    assert catalog.num_stars == 21_692 and catalog.manifest.objid == "generated"
    assert (catalog["objid"][:] == np.arange(21_692)).all()
    for index, band in enumerate("ugriz"):
        assert (catalog["magnitude"][:][:, index] == np.float32(column(path, band))).all()
    assert (catalog["redshift"][:] == np.float32(column(path, "redshift"))).all()
    assert (catalog["ra"][:] == np.float64(column(path, "ra"))).all()
    assert "magnitude_error" not in catalog.columns


def test_parquet_arrives_bit_by_bit(shared_data: Path, tmp_path: Path) -> None:
    """The 290,327 real stars keep ids, positions, magnitudes and errors, over shards that cut row groups."""
    path = shared_data / "sdss_photometric_stars.parquet"
    catalog = run(tmp_path, path, shard_rows=70_001)
    table = pq.read_table(path)
    assert [shard.num_stars for shard in catalog.shards] == [70_001] * 4 + [10_323]
    assert (catalog["objid"][:] == table["objid"].to_numpy()).all()
    assert (catalog["dec"][:] == table["dec"].to_numpy()).all()
    for index, band in enumerate("ugriz"):
        assert (catalog["magnitude"][:][:, index] == table[band].to_numpy().astype(np.float32)).all()
        errors = table[f"err_{band}"].to_numpy().astype(np.float32)
        assert np.array_equal(catalog["magnitude_error"][:][:, index], errors, equal_nan=True)
    assert "redshift" not in catalog.columns


def test_table1_line_is_skipped(shared_data: Path, tmp_path: Path) -> None:
    """A raw SkyServer answer: the first line is no header, ids beyond 2^53 are exact, Err_u is an error."""
    path = shared_data / "raw" / "skyserver_table1_header.csv"
    catalog = run(tmp_path, path)
    assert catalog["objid"][:].tolist() == [int(text) for text in column(path, "objid", skip=1)]
    assert (catalog["magnitude_error"][:][:, 4] == np.float32(column(path, "Err_z", skip=1))).all()
    assert catalog.manifest.objid == "column"


def test_damaged_ids_are_flagged_not_dropped(shared_data: Path, tmp_path: Path) -> None:
    """Every star of the file whose ids a spreadsheet rounded is kept, flagged damaged, and repeated where it is."""
    path = shared_data / "raw" / "skyserver_dr14_mixed_classes.csv"
    catalog = run(tmp_path, path, shard_rows=999)
    ids = [int(float(text)) for text in column(path, "objid")]
    assert catalog["objid"][:].tolist() == ids
    caution = catalog["caution"][:]
    assert (caution & Caution.ID_DAMAGED).all()
    values, counts = np.unique(ids, return_counts=True)
    repeated = np.isin(ids, values[counts > 1])
    assert ((caution & Caution.ID_REPEATED != 0) == repeated).all() and repeated.sum() == 8_910
    assert catalog.manifest.inputs.raw[0].counts == {"id_repeated": 8_910, "id_damaged": 10_000}


def test_mixed_files_are_one_catalog(shared_data: Path, tmp_path: Path) -> None:
    """CSV without ids and Parquet with ids and errors: absent values are NaN, absent ids -1 and flagged."""
    paths = [shared_data / "sdss_spectroscopic_stars.csv", shared_data / "sdss_photometric_stars.parquet"]
    catalog = run(tmp_path, *paths, num_workers=2)
    assert catalog.num_stars == 21_692 + 290_327
    assert (catalog["objid"][:21_692] == -1).all() and (catalog["objid"][21_692:] >= 0).all()
    assert catalog.manifest.flags == {"id_missing": 21_692}
    assert np.isnan(catalog["magnitude_error"][:21_692]).all() and np.isnan(catalog["redshift"][21_692:]).all()


# rows are conserved


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize(("segment", "chunk"), [(64, 64), (100, 1000), (7, 50), (1 << 20, 1 << 22)])
def test_any_segments_hold_every_row_once(
    segment: int, chunk: int, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever segments, chunks and shards are cut, blank lines or not, each row is read once and in order."""
    monkeypatch.setattr(text, "SEGMENT_BYTES", segment)
    monkeypatch.setattr(text, "CHUNK_BYTES", chunk)
    monkeypatch.setattr(text, "TASK_BYTES", 3 * segment)
    rows = [f"{index},1,1,{index % 30},15,15,15,15" + ending * (index % 3 == 0) for index in range(200)]
    content = ending.join([HEADER, *rows])
    for shard_rows in (1, 7, 200, 1000) if segment == 100 else (13,):
        folder = tmp_path / str(shard_rows)
        folder.mkdir()
        catalog = run(folder, content, content + ending, shard_rows=shard_rows, mapping={"objid": ""})
        assert (catalog["objid"][:] == np.arange(400)).all()
        assert (catalog["magnitude"][:][:, 0] == np.arange(400) % 200 % 30).all()


def test_worker_count_does_not_change_a_byte(shared_data: Path, tmp_path: Path) -> None:
    """One process and two write the same shards, gzip and repeated ids included."""
    raw = shared_data / "raw" / "skyserver_dr14_mixed_classes.csv"
    packed = write(tmp_path / "packed.csv", gzip.compress(raw.read_bytes(), 1))
    found = []
    for num_workers in (1, 2):
        out_dir = tmp_path / str(num_workers)
        ingest([raw, packed], out_dir, IngestSettings(shard_rows=1_500), num_workers)
        found.append(shard_bytes(out_dir))
        assert open_catalog(out_dir).manifest.flags["id_repeated"] == 20_000
    assert len(found[0]) == 14 and found[0] == found[1]


def test_repeated_ids_across_files_and_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every star that shares its id with another is flagged, in whatever files, shards and id ranges they lie."""
    monkeypatch.setattr(identity, "RANGE_IDS", 40)
    monkeypatch.setattr(identity, "SAMPLE_STRIDE", 4)
    rng = np.random.default_rng(1)
    ids = rng.integers(-(2**63), 2**63 - 1, 700)
    ids[rng.integers(0, 700, 60)] = ids[rng.integers(0, 700, 60)]
    ids[[3, 650]] = 2**63 - 1
    rows = [f"{objid},1,1,15,15,15,15,15" for objid in ids]
    catalog = run(tmp_path, lines(*rows[:333]), lines(*rows[333:]), shard_rows=50)
    values, counts = np.unique(ids, return_counts=True)
    expected = np.isin(ids, values[counts > 1])
    assert ((catalog["caution"][:] == Caution.ID_REPEATED) == expected).all() and expected.sum() > 60
    entries = catalog.manifest.inputs.raw
    assert [entry.counts["id_repeated"] for entry in entries] == [expected[:333].sum(), expected[333:].sum()]
    assert catalog.manifest.flags == {"id_repeated": expected.sum()}


# policies


BAD = [STARS[0], "2,1,1,-9999,18,17,nan,15", STARS[2], "4,1,1,15,15,31,15,15"]


def test_drop_leaves_bad_rows_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Rows that are not good are left out, counted by reason, and the totals say so."""
    catalog = run(tmp_path, lines(*BAD), lines(*BAD), shard_rows=3, bad="drop")
    assert catalog["objid"][:].tolist() == [1, 3, 1, 3]
    assert (catalog["caution"][:] == Caution.ID_REPEATED).all()
    manifest = catalog.manifest
    assert (manifest.num_rows, manifest.num_dropped, manifest.num_stars) == (8, 4, 4)
    counts = {"non_finite": 1, "sentinel": 1, "out_of_range": 1, "id_repeated": 2}
    assert [entry.counts for entry in manifest.inputs.raw] == [counts, counts]
    assert "8 rows in, 4 stars out, 4 dropped" in capfd.readouterr().err


def test_drop_of_a_whole_shard_leaves_no_gap(tmp_path: Path) -> None:
    """A shard of which nothing is left is not written, and the later ones move up."""
    catalog = run(tmp_path, lines(STARS[0], BAD[1], *STARS[1:], STARS[0]), shard_rows=1, bad="drop")
    assert catalog["objid"][:].tolist() == [1, 2, 3, 1]
    assert [shard.file for shard in catalog.shards] == sorted(shard_bytes(catalog.directory))
    assert catalog["caution"][:].tolist() == [Caution.ID_REPEATED, 0, 0, Caution.ID_REPEATED]


def test_drop_of_every_row_is_refused(tmp_path: Path) -> None:
    """A catalog without stars is not made."""
    assert "no star is left" in refused(tmp_path, lines(BAD[1]), bad="drop")


def test_stop_names_the_first_bad_rows(tmp_path: Path) -> None:
    """The first unusable rows are named by file, row and column, and nothing is published."""
    message = refused(tmp_path, lines(*STARS), lines(*BAD), shard_rows=2, bad="stop", num_workers=2)
    assert f"{tmp_path / 'raw-1'}, row 2: column u is -9999, column i is nan" in message
    assert "row 3" not in message


# the same again


def test_the_same_again_is_skipped_and_another_is_stale(tmp_path: Path) -> None:
    """An equal ingest does nothing; other settings or a changed file stop with what changed."""
    run(tmp_path, lines(*STARS))
    path = tmp_path / "catalog" / "manifest.json"
    before = path.stat().st_mtime_ns
    run(tmp_path, lines(*STARS))
    assert path.stat().st_mtime_ns == before
    with pytest.raises(StaleError, match="shard_rows: 500000 -> 2"):
        run(tmp_path, lines(*STARS), shard_rows=2)
    with pytest.raises(StaleError, match=r"raw\.file 1"):
        run(tmp_path, lines(*STARS[:2]))


def test_debris_of_a_killed_run_is_cleared(tmp_path: Path) -> None:
    """Temporary files and shards without a manifest do not survive the next run; a foreign file stops it."""
    out_dir = tmp_path / "catalog"
    out_dir.mkdir()
    for name in (".shard-raw-00000.tmp-host-1", ".shard-ids-00001.tmp-host-1", "shard-00007.h5"):
        (out_dir / name).write_bytes(b"debris")
    assert_stars(run(tmp_path, lines(*STARS)))
    assert sorted(path.name for path in out_dir.iterdir()) == ["manifest.json", "shard-00000.h5"]
    (tmp_path / "b" / "catalog").mkdir(parents=True)
    write(tmp_path / "b" / "catalog" / "thesis.tex", "x")
    with pytest.raises(InputError, match="something else"):
        run(tmp_path / "b", lines(*STARS))


magnitudes = st.lists(st.floats(0, 30, width=32), min_size=5, max_size=5)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(magnitudes, min_size=1, max_size=40), shard_rows=st.integers(1, 50))
def test_magnitudes_survive_csv(
    rows: list[list[float]], shard_rows: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Random float32 magnitudes written as the shortest text are read back without a changed bit."""
    values = np.array(rows, np.float32)
    body = lines(*(",".join(str(value) for value in row) for row in values), header="u,g,r,i,z")
    catalog = run(tmp_path_factory.mktemp("csv"), body, shard_rows=shard_rows)
    assert (catalog["magnitude"][:] == values).all()
