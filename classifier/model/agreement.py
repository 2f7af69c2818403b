"""What the processes of a distributed training know together: one loss, and one problem."""

from __future__ import annotations

import torch
from torch import Tensor, distributed
from torchmetrics import Metric


def first_problem(own: str | None, device: torch.device) -> str | None:
    """The problem of the first process that has one: the same on all of them.

    All processes must call it. It costs one exchange of a number, and nothing with one process.

    Args:
        own: What is wrong in this process; None when nothing is.
        device: Where the number is exchanged: that of the training.

    Returns:
        None where no process has a problem.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return own
    found = torch.tensor(float(own is not None), device=device)
    distributed.all_reduce(found, op=distributed.ReduceOp.MAX)
    if not found.item():
        return None
    problems: list[str | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(problems, own)
    return next(problem for problem in problems if problem is not None)


class MeanLoss(Metric):
    """The mean of a loss over images, over all batches and processes.

    torchmetrics' MeanMetric waits for the device in every step to look for numbers that are none,
    which the steps do themselves, and forgets the weights when told not to look.
    Its states have the same names here, as checkpoints hold them.
    """

    full_state_update = False
    mean_value: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("mean_value", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("weight", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, loss: Tensor, num_images: int) -> None:
        """Count a batch.

        Args:
            loss: Its mean, a scalar.
            num_images: How many it is the mean of.
        """
        self.count(loss, num_images)

    @torch.no_grad()
    def count(self, loss: Tensor, num_images: int) -> None:
        """The same without what torchmetrics does around an update, which costs more than that.

        Args:
            loss: Its mean, a scalar.
            num_images: How many it is the mean of.
        """
        self.__dict__["_update_count"] += 1
        self.__dict__["_computed"] = None
        self.mean_value.add_(loss.float(), alpha=num_images)
        self.weight.add_(num_images)

    def compute(self) -> Tensor:
        """The mean, a scalar."""
        return self.mean_value / self.weight
