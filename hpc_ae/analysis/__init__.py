"""Statistics of latents and errors: pure arithmetic on arrays."""
