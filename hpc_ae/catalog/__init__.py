"""Stars on disk: the format, its files, what of them is read as arrays, tables and Arrow."""
