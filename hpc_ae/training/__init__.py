"""Training in rooms of its own: the data, the loop, the publication of the model."""
