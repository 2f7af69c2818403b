"""Whether memory ran out, and what helps."""

from __future__ import annotations

# How the libraries word it where they raise no class of its own.
_SIGNS = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "HIP out of memory",
    "MPS backend out of memory",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "Cannot allocate memory",
)
_WORKER_DIED = ("killed", "exited unexpectedly", "Bus error")
AUTO_BATCH_SIZE = "data.init_args.auto_batch_size"


def out_of_memory(error: BaseException, batch_size: int | None, mode: str) -> str | None:
    """What to say where an error means that memory ran out; None where it means something else.

    Args:
        error: What ended the run.
        batch_size: Of the data module, now; None where it has none.
        mode: train, validate, test, predict or lr_find.
    """
    text = str(error)
    if "DataLoader worker" in text and any(sign in text for sign in _WORKER_DIED):
        return (
            "a DataLoader worker died, most often because memory ran out. Lower "
            "data.init_args.num_workers or data.init_args.batch_size" + _now(batch_size)
        )
    if type(error).__name__ == "OutOfMemoryError" or any(sign in text for sign in _SIGNS[:6]):
        return f"the device's memory is full. {_remedies(batch_size, mode)}"
    if isinstance(error, MemoryError) or any(sign in text for sign in _SIGNS[6:]):
        return (
            "the machine's memory is full. Lower data.init_args.num_workers, or as follows. "
            + _remedies(batch_size, mode)
        )
    return None


def _now(batch_size: int | None) -> str:
    return "" if batch_size is None else f" (now {batch_size})"


def _remedies(batch_size: int | None, mode: str) -> str:
    smaller = f"Lower data.init_args.batch_size{_now(batch_size)}"
    if mode not in ("train", "lr_find"):
        return f"{smaller}, or write trainer.precision: bf16-mixed or 16-mixed"
    return (
        f"{smaller}, and raise trainer.accumulate_grad_batches to keep the effective batch; write "
        "trainer.precision: bf16-mixed or 16-mixed; take a smaller model or a smaller "
        f"model.init_args.image_size; or let {AUTO_BATCH_SIZE}: true find a size that fits"
    )
