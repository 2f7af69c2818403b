"""What watches a run. The model knows none of it."""
