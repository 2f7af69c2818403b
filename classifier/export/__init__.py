"""From a checkpoint to files for other programs, each verified against the checkpoint."""
