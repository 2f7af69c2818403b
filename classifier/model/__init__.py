"""Encoders, freezing, optimizers and the LightningModule that joins them."""
