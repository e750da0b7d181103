"""ROOM skyserver: SDSS's SQL service: queries in pages, its answers and its manners. The only importer of requests."""
