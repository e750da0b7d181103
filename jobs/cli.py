"""The command line: what a user types. Verbs are imported only when they are asked for, so `--help` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hpc_ae import __version__
from hpc_ae.errors import InputError
from hpc_ae.jobs import cli_inspect as options
from hpc_ae.jobs import cli_query
from hpc_ae.jobs.cli_export import export
from hpc_ae.jobs.cli_fetch import fetch
from hpc_ae.jobs.cli_model import model_export
from hpc_ae.reading import Reading
from hpc_ae.runtime.streams import as_json

if TYPE_CHECKING:
    from hpc_ae.jobs.run import Run
    from hpc_ae.verify import Verification

app = typer.Typer(
    name="hpc-ae",
    help="Train an autoencoder on a star catalog and encode a whole survey with it, on this machine or on Slurm.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
model_app = typer.Typer(help="Import and export models.", no_args_is_help=True)
app.add_typer(model_app, name="model")
app.command()(export)
model_app.command("export")(model_export)
app.command()(cli_query.order)
app.command()(cli_query.query)

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML config; see configs/.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Values that override those of the config.")
]
Workers = Annotated[int, typer.Option(min=1, help="Worker processes.")]
BadRows = Literal["flag", "drop", "stop"]
Order = Literal["input", "healpix"]
ShardRows = Annotated[int, typer.Option(min=1, max=4_000_000, help="Stars in one shard.")]


def _load(path: Path, overrides: list[str] | None) -> Run:
    from hpc_ae.config import load_config
    from hpc_ae.jobs.launched import check_home
    from hpc_ae.jobs.stages import make_run
    from hpc_ae.runtime.ranks import forget_stale_ranks

    if stale := forget_stale_ranks():
        typer.echo(f"note: ignored, as no torchrun has started this process: {', '.join(stale)}", err=True)

    config = load_config(path, overrides)
    if not any(word.startswith("run_dir=") for word in overrides or []):
        check_home(path, config)
    return make_run(config)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hpc_ae {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command; `--debug` is taken off the command line before this."""


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(help="The star catalog to make.")],
    stars: Annotated[int, typer.Option(min=1, help="Number of stars.")],
    seed: Annotated[
        int, typer.Option(min=0, help="The same seed gives the same stars, with any number of workers.")
    ] = 1,
    shard_rows: ShardRows = 500_000,
    bad_rows: Annotated[
        float, typer.Option(min=0.0, max=0.99, help="Fraction of stars with a band set to -9999.")
    ] = 0.0,
    observed: Annotated[bool, typer.Option("--observed", help="Stars whose noiseless magnitudes are known.")] = False,
    workers: Workers = 2,
) -> None:
    """Write a simulated star catalog of realistic SDSS photometry, of any size."""
    from hpc_ae.simulate import SimulateSettings
    from hpc_ae.simulate import simulate as make_catalog

    make_catalog(out, SimulateSettings(stars, seed, bad_rows, shard_rows, observed), workers)


app.command()(fetch)


@app.command()
@options.with_reading
def ingest(
    raw: options.Raw,
    out: Annotated[Path, typer.Option(help="The star catalog to make.")],
    map: options.MapOption = None,
    reading: Reading = Reading(),
    shard_rows: ShardRows = 500_000,
    bad: Annotated[BadRows, typer.Option(help="Unusable rows: flag them, drop them, or stop.")] = "flag",
    order: Annotated[Order, typer.Option(help="Stars as the raw files have them, or by place in the sky.")] = "input",
    workers: Workers = 2,
) -> None:
    """Turn raw files into a star catalog; no row is lost unless --keep or --cuts leave it out or --bad drop drops it,
    unusable ones are flagged with their reasons.
    """
    from hpc_ae.ingest import IngestSettings
    from hpc_ae.ingest import ingest as make_catalog
    from hpc_ae.jobs.stages import expand_paths

    settings = IngestSettings(options.parse_mapping(map or []), shard_rows, bad, reading, order)
    make_catalog(expand_paths(raw), out, settings, workers)


app.command()(options.inspect)


def _run_stage(name: str, run: Run) -> int | None:
    """A stage on this machine with its own ranks (None), or as the rank that another launcher made of this process:
    its exit status.
    """
    from hpc_ae.jobs.adopt import run_adopted
    from hpc_ae.jobs.stages import STAGES

    outcome = run_adopted(run, STAGES[name])
    if outcome is None:
        from hpc_ae.jobs.pipeline import run_stage_here

        run_stage_here(run, STAGES[name])
        return None
    return 0 if outcome == "done" else 130


@app.command()
def train(config: ConfigPath, overrides: Overrides = None) -> int:
    """Train on the star catalog: checkpoints and a model. Goes on from the newest checkpoint."""
    return _run_stage("train", _load(config, overrides)) or 0


@app.command()
def encode(config: ConfigPath, overrides: Overrides = None) -> int:
    """Encode the star catalog with the model, check it completely. Shards that are done are skipped."""
    loaded = _load(config, overrides)
    status = _run_stage("encode", loaded)
    if status is None:
        _run_stage("finalise", loaded)
        return 0
    typer.echo(
        "this rank has ended; when all have, `hpc-ae encode CONFIG` without a launcher finalises the catalog", err=True
    )
    return status


@app.command()
def postprocess(
    config: ConfigPath,
    overrides: Overrides = None,
    compare: Annotated[
        Path | None, typer.Option(metavar="ENCODING", help="Compare the latents with another encoding of these stars.")
    ] = None,
) -> int:
    """Scores of all stars, maps, anomalies and the report of the encoding catalog. The stars are read once."""
    more = [f"postprocess.compare={compare.absolute()}"] if compare else []
    return _run_stage("postprocess", _load(config, [*(overrides or []), *more])) or 0


@app.command()
def run(
    config: ConfigPath,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be started, and start nothing.")] = False,
    no_wait: Annotated[
        bool,
        typer.Option("--no-wait", help="Return when all jobs are submitted, or the local run is in the background."),
    ] = False,
    parsable: Annotated[bool, typer.Option("--parsable", help="Slurm: print only the job ids, one per line.")] = False,
    redo: Annotated[
        list[str] | None, typer.Option(metavar="STAGE", help="Discard this stage's output and what follows.")
    ] = None,
) -> int:
    """All stages that are not done yet, on this machine or as a chain of Slurm jobs."""
    from hpc_ae.jobs.pipeline import run_all, show_plan

    loaded = _load(config, overrides)
    if dry_run:
        return show_plan(loaded, redo or [])
    return run_all(loaded, redo or [], no_wait=no_wait, parsable=parsable)


RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The run_dir of a run.")]
StageName = Annotated[str | None, typer.Argument(metavar="[STAGE]", help="train, encode, ...; by default the newest.")]


@app.command()
def status(
    run_dir: RunDir,
    json: Annotated[bool, typer.Option("--json", help="The status as JSON on standard output.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every two seconds until the run ends.")] = False,
) -> None:
    """How far a run is: stage, job, state, nodes, progress, rate, time left, restarts, and what to type next."""
    from hpc_ae.jobs.status import open_run, run_status, status_of
    from hpc_ae.jobs.watch import show, watch_status

    opened = open_run(run_dir)
    if json:
        typer.echo(as_json(run_status(opened, status_of(opened)).to_json()))
    elif watch:
        watch_status(opened)
    else:
        show(opened)


@app.command()
def logs(
    run_dir: RunDir,
    stage: StageName = None,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Follow the log as it grows, until the stage ends.")
    ] = False,
    rank: Annotated[int | None, typer.Option(min=0, help="The log of this rank; by default of the first.")] = None,
) -> None:
    """What a stage has said: the log of one of its ranks, of its newest launch."""
    from hpc_ae.jobs.status import open_run
    from hpc_ae.jobs.watch import show_log

    show_log(open_run(run_dir), stage, rank, follow=follow)


@app.command()
def cancel(run_dir: RunDir) -> None:
    """End what still runs or waits, later stages first; what a training has done so far is saved."""
    from hpc_ae.jobs.status import cancel_run, open_run

    for line in cancel_run(open_run(run_dir)) or ["nothing was started"]:
        typer.echo(line)


@app.command()
def check(config: ConfigPath, overrides: Overrides = None) -> int:
    """Is a config right: prints it as it would be used; says what is wrong (status 2) or odd about it."""
    from hpc_ae.config import dump_config
    from hpc_ae.jobs.advice import advice

    loaded = _load(config, overrides)
    typer.echo(dump_config(loaded.config), nl=False)
    problems, warnings = advice(loaded)
    _echo_advice(problems, warnings)
    if not problems:
        typer.echo("the config is right" + ("; see the warnings" if warnings else ""), err=True)
    return 2 if problems else 0


def _echo_advice(problems: list[str], warnings: list[str]) -> None:
    for text in problems:
        typer.echo(f"wrong: {text}", err=True)
    for text in warnings:
        typer.echo(f"warning: {text}", err=True)


@app.command()
def init(
    site: Annotated[str | None, typer.Option(metavar="NAME", help="A profile of configs/sites: cpu, gpu, ...")] = None,
    out: Annotated[Path, typer.Option(help="The config to write.")] = Path("hpc_ae.yaml"),
    page: Annotated[bool, typer.Option("--page", help="Print the page on every key instead.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema for editors instead.")] = False,
) -> None:
    """Write a commented starting config with every key."""
    from hpc_ae.jobs.init import config_page, config_schema, write_starting_config

    if page or schema:
        typer.echo(config_page() if page else config_schema(), nl=False)
        return
    write_starting_config(out, site)
    typer.echo(f"{out} is written; next: hpc-ae check {out}; hpc-ae plan {out}; hpc-ae run {out}", err=True)


@app.command()
def doctor(
    run_dir: Annotated[
        Path, typer.Argument(metavar="[RUN_DIR]", help="The directory whose file system is tested.")
    ] = Path(),
    json: Annotated[bool, typer.Option("--json", help="The findings as JSON on standard output.")] = False,
) -> int:
    """Is this machine right: Python, torch, GPUs, MPI, HDF5, compiler, Slurm, file system. Status 1 where it is not."""
    from dataclasses import asdict

    from hpc_ae.jobs.doctor import examine, findings_text

    findings = examine(run_dir)
    typer.echo(as_json({"findings": [asdict(row) for row in findings]}) if json else findings_text(findings))
    return 1 if any(row.level == "fail" for row in findings) else 0


@app.command()
def plan(
    config: ConfigPath,
    overrides: Overrides = None,
    json: Annotated[bool, typer.Option("--json", help="The plan as JSON on standard output.")] = False,
) -> None:
    """What a run will cost: time, memory, disk and node-hours of each stage, from a short calibration here."""
    from hpc_ae.jobs.advice import advice
    from hpc_ae.jobs.plan import Plan, calibrate, count_stars, make_plan, plan_text

    loaded = _load(config, overrides)
    rates = calibrate(loaded.config)
    stages = make_plan(loaded, rates)
    problems, warnings = advice(loaded, stages)
    record = Plan(
        num_stars=count_stars(loaded.config),
        stages=tuple(stages),
        calibration_stars_per_second=rates,
        problems=tuple(problems),
        warnings=tuple(warnings),
    )
    typer.echo(as_json(record.to_json()) if json else plan_text(loaded.config, stages))
    _echo_advice(problems, warnings)


@app.command()
def verify(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A star or encoding catalog, a model, or a run.")],
    stars: Annotated[Path | None, typer.Option(help="The star catalog of an encoding, if it has moved.")] = None,
    json: Annotated[bool, typer.Option("--json", help="The findings as JSON on standard output.")] = False,
    workers: Workers = 2,
) -> int:
    """Check every row, id, digest and link. Exit status 1 where anything is wrong; every finding is named."""
    from hpc_ae.verify import verify as check_all

    result = check_all(directory, stars=stars, num_workers=workers)
    typer.echo(as_json(result.record().to_json()) if json else _findings_text(result))
    return 0 if result.ok else 1


def _findings_text(result: Verification) -> str:
    lines = [f"{found.what}: {found.where}\n  got:      {found.got}" for found in result.findings]
    lines = [
        line + (f"\n  expected: {found.expected}" if found.expected else "")
        for line, found in zip(lines, result.findings, strict=True)
    ]
    verdict = "verified" if result.ok else f"{len(result.findings)} findings"
    return "\n".join([*lines, f"{result.directory}: {result.what}, {result.num_stars:,} stars, {verdict}"])


@model_app.command("import")
def model_import(
    state_dict: Annotated[Path, typer.Argument(help="A plain PyTorch state dict: encoder.0.weight, ...")],
    out: Annotated[Path, typer.Option(help="The model directory to make.")],
    divide: Annotated[float | None, typer.Option(help="Network input = magnitude / DIVIDE.")] = None,
    mean: Annotated[str | None, typer.Option(help="Comma-separated means of the bands, in mag.")] = None,
    std: Annotated[str | None, typer.Option(help="Comma-separated standard deviations of the bands, in mag.")] = None,
    bands: Annotated[str, typer.Option(help="Comma-separated names of the bands.")] = "u,g,r,i,z",
) -> None:
    """Make a model directory of a state dict from elsewhere."""
    from hpc_ae.model_import import import_model

    import_model(state_dict, out, tuple(bands.split(",")), divide=divide, mean=_numbers(mean), std=_numbers(std))


def _numbers(text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(word) for word in text.split(",")]
    except ValueError:
        raise InputError(
            "not a list of numbers", where="--mean, --std", got=text, expected="19.8,18.6,18.1,17.8,17.6"
        ) from None
