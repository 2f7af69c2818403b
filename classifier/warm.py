"""What a training imports, imported by the server that trials are forked from.

It only imports: a forked child of a process that computed hangs, and one of a process that touched
a GPU cannot use it.
"""

from __future__ import annotations

import gc
from importlib import import_module

_MODULES = (
    "torch._dynamo",  # torch.optim imports it at the first step
    "classifier.execution",
    "classifier.surveying",
    "classifier.model.timm_encoder",
    "classifier.model.transformers_encoder",
    "sklearn.model_selection",
    "tqdm",
)

for _name in _MODULES:
    import_module(_name)
# What is here stays: children need not look through it, nor copy the memory that it lies in.
gc.collect()
gc.freeze()
