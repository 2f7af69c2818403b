"""Several trainings of one configuration: over the folds of its data, or over seeds."""
