"""Raw files of other people's formats, read in bounded memory. The only importer of pyarrow."""
