"""The command `hpc-ae model export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

ExportFormat = Literal["onnx", "torch-export"]


def model_export(
    model_dir: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="A model directory, such as RUN_DIR/model.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to make: model.onnx, model.pt2.")],
    to: Annotated[ExportFormat, typer.Option(help="onnx, or torch-export for torch.export.load.")],
) -> None:
    """Write a model, scaling included, for other programs: magnitudes in, latents and errors in mag out."""
    from hpc_ae.model_export import export_model

    result = export_model(model_dir, out, to)
    typer.echo(
        f"{out}: {to}, {result.num_bytes:,} bytes; differs from this package's forward pass by at most"
        f" {result.worst_mag:.1e} mag over {result.num_stars:,} stars ({result.checked_with})",
        err=True,
    )
