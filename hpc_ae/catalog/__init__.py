"""Stars on disk: the format, its files, and the arithmetic of who reads which rows. The only importer of h5py."""
