"""README.md of a run folder: a model card."""
