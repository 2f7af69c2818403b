"""Sweeps: a search over configurations, one fresh process per trial."""
