"""The folder of a run: checkpoints that are complete or absent, and where they come from."""
