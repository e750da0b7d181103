"""Passes over a survey: an encoding beside its stars, shard by shard, in parallel, and what they add up to."""
