"""The process: executors, groups, checkpoints, metrics, progress. The only importer of torch.distributed and mpi4py."""
