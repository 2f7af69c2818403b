"""Train, evaluate and use an image classifier from one YAML file: `python main.py --help`."""

from classifier.entry import console, main

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(console())
