"""The application: what a user types and what Slurm runs. The only importer of submitit and typer."""
