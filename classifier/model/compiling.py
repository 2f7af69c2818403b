"""torch.compile for the training: in place, tried before the first step."""

from __future__ import annotations

import logging
import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from classifier.errors import ConfigError
from classifier.model.options import MODEL

log = logging.getLogger(__name__)

COMPILE = f"{MODEL}.compile"


def compile_mode(compile: bool | str) -> str | None:
    """The mode of torch.compile that `compile` asks for; None for none.

    Args:
        compile: False, True, or a mode.

    Raises:
        ConfigError: torch has no such mode.
    """
    if isinstance(compile, bool):
        return "default" if compile else None
    from torch._inductor import list_mode_options

    modes = list(list_mode_options())
    if compile not in modes:
        raise ConfigError(
            COMPILE, "must be true, false or a mode of torch.compile", got=compile,
            remedy=f"The modes are {', '.join(modes)}", name=compile, options=modes,
        )  # fmt: skip
    return compile


class Compiling(Callback):
    """Compiles the network for as long as a training lasts, its validation included.

    The names of its weights stay what they are, and so do checkpoints. A batch of another size,
    such as the last one, makes torch compile once more, for any size; one image alone is a case of
    its own. Evaluation of a checkpoint is not compiled: it would wait longer than it gains.

    Args:
        mode: As `compile_mode` gives it.
    """

    def __init__(self, mode: str) -> None:
        self.mode = mode

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compile, and run a batch through.

        Raises:
            ConfigError: it cannot be compiled here.
        """
        network: Any = pl_module.network
        if pl_module.prefix is not None:
            # Its halves are cut out of the network by hooks, which compiled code does not see.
            log.info("compile: the frozen layers run once, and what is left is not compiled")
            return
        network.compile(mode=self.mode)
        images = _images(trainer, pl_module)
        started = time.monotonic()
        self._try(trainer, pl_module, images)
        seconds = time.monotonic() - started
        log.info(
            "compile (%s): the network was compiled in %.0f s for batches of %d; the first step of "
            "the training compiles its backward pass", self.mode, seconds, len(images),
        )  # fmt: skip

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave the network as it was: hooks and later evaluations find it uncompiled."""
        if stage == "fit" and pl_module.network is not None:
            release(pl_module.network)

    def _try(self, trainer: Any, model: L.LightningModule, images: Tensor) -> None:
        precision = trainer.precision_plugin
        model.eval()
        try:
            with torch.inference_mode(), precision.forward_context():
                model(precision.convert_input(images.to(model.device)))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # Of dynamo, of inductor, of a compiler that is missing: they have no class in common.
            release(model.network)
            reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
            raise ConfigError(
                COMPILE, f"the network cannot be compiled here ({reason.rstrip('.:')})",
                got=self.mode, remedy="Write compile: false; on a CPU torch needs a C++ compiler",
            ) from error  # fmt: skip
        finally:
            model.train()


def release(network: Any) -> None:
    """Let a network run as before `compile`, which torch has no public word for."""
    network._compiled_call_impl = None


def _images(trainer: Any, model: Any) -> Tensor:
    """A batch as validation has it, or training where there is none; zeros where neither tells."""
    data: Any = getattr(trainer, "datamodule", None)
    if not (hasattr(data, "stage") and hasattr(data, "has_validation")):
        return torch.zeros(2, 3, *model.preprocessing.size)
    stage = data.stage("val" if data.has_validation() else "train")
    image: Tensor = stage[0][0]
    size = min(getattr(data, "batch_size", 2), len(stage))
    return image.expand(size, *image.shape).contiguous()
