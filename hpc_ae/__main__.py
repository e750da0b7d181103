"""`python -m hpc_ae`, the same as the command `hpc-ae`: the one door from the package to its application."""

from hpc_ae.jobs.main import main

main()
