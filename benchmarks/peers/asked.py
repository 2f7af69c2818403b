"""What the trainings of the peers are asked for: the same words for all of them."""

import argparse


def arguments(description: str | None) -> argparse.Namespace:
    """Of the command line.

    Args:
        description: Text of --help.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("images", help="folder with train/ and val/, a sub-folder for each class")
    parser.add_argument("size", type=int, help="of the images, in pixels")
    parser.add_argument("batch", type=int)
    parser.add_argument("epochs", type=int)
    parser.add_argument("--model", default="resnet18", help="of timm")
    parser.add_argument("--bf16", action="store_true", help="mixed precision")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--tuned", action="store_true", help="channels_last and a fused optimizer")
    return parser.parse_args()
