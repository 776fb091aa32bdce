"""Training: the recipe of a run, its stages, their loop, batches and checkpoints."""
