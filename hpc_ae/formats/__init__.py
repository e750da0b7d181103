"""ROOM formats: tables that other programs read, written block by block, each with a way to read a column back."""
