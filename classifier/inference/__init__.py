"""Using a trained model without training code: the Predictor, and what carries a model to it."""
