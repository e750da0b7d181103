"""The network: scaling, autoencoder, files. Knows nothing of catalogs."""
