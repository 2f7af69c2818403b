"""Several runs on the same images: which is better, and is it more than chance."""
