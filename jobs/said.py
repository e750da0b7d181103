"""What a run says when a stage, and when all of it, has ended."""

from __future__ import annotations

import shlex

from hpc_ae.config import RunConfig
from hpc_ae.jobs.launcher import say
from hpc_ae.layout import PAGE_NAME, RunLayout
from hpc_ae.model.weights import held_out_words, read_model_record


def say_stage(config: RunConfig, stage: str) -> None:
    """After an ingest: what it flagged, and why, by file; after a training: whether the model is good."""
    if stage == "train":
        _say_quality(config)
    if stage != "ingest":
        return
    from hpc_ae.catalog.manifest import read_manifest
    from hpc_ae.catalog.records import StarManifest
    from hpc_ae.readers.tally import describe_counts

    for raw in read_manifest(config.catalog_path, StarManifest).inputs.raw or ():
        for note in raw.notes:
            say(f"  {raw.name}: {note}")
        say(f"  {describe_counts(raw)}")


def _say_quality(config: RunConfig) -> None:
    """After a training: whether the model is good, on stars that it was not trained on."""
    if text := held_out_words(read_model_record(config.layout.model_dir)):
        say(f"  {text}")


def say_result(layout: RunLayout, seconds: float, *, checked: bool) -> None:
    """The last lines of a run: what was checked just now, and where everything is."""
    from hpc_ae.catalog.manifest import read_manifest
    from hpc_ae.catalog.records import EncodingManifest

    manifest = read_manifest(layout.encoding_dir, EncodingManifest)
    num_stars, num_good = manifest.num_stars, manifest.num_good
    run_dir = shlex.quote(str(layout.run_dir))
    counts = f"{num_stars:,} stars in, {num_stars:,} out ({num_good:,} good)"
    if checked:
        say(f"verified: {counts}, every row, id and digest checked")
    else:
        say(f"complete: {counts}, every file is there; to check every row: hpc-ae verify {run_dir}")
    say(f"done in {seconds:.1f} s: report {layout.report_dir / PAGE_NAME}, encoding {layout.encoding_dir}")
