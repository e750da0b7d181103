"""The door from the package to its application: `hpc-ae` and `python -m hpc_ae` are this function."""

from hpc_ae.interpreter import settle_path


def main() -> None:
    """Entry point of the console script. Nothing else is imported before the path is right."""
    settle_path()
    from hpc_ae.jobs.main import main as run

    run()


if __name__ == "__main__":
    main()
