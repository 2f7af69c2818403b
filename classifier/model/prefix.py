"""The part of a network that comes first and stays frozen: computed once, then left out.

What a frozen encoder makes of an image does not change from epoch to epoch. `FrozenPrefix` finds by
running the network where its frozen part ends, and then does the two halves on their own. It knows
no architecture: it watches which modules run, and which outputs depend on a trainable parameter,
and uses no cut that further runs do not confirm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from classifier.model.freezing import modes_kept
from classifier.model.outputs import like, mapped, tensor_of, zeros
from classifier.model.prefix_digest import digest_of

_TOLERANCE = 1e-5
_MOST_TRIED = 6  # places to cut at, from the last one on


class _Call(NamedTuple):
    """One run of a module: what it took and gave, and when it began and ended."""

    name: str
    module: nn.Module
    entered: int
    left: int
    inputs: tuple[Any, ...]
    output: Any


class _Reached(Exception):  # noqa: N818  (a way out, not an error)
    """Ends a run early."""

    def __init__(self, value: Any) -> None:
        self.value = value


class FrozenPrefix:
    """The two halves of a network that is frozen up to somewhere. Made by `find`.

    Attributes:
        cut: Name of the module whose output ends the prefix.
    """

    def __init__(self, network: nn.Module, calls: list[_Call], last: _Call, images: Tensor) -> None:
        self.cut = last.name
        self._network = network
        self._last = last.module
        self._image_size = tuple(images.shape[-2:])
        before = [call for call in calls if call.left <= last.left]
        # The outermost ones are enough: what is within them does not run either.
        inner = {
            c.entered for o in before for c in before if o.entered < c.entered and c.left < o.left
        }
        outer = [call for call in before if call.entered not in inner]
        self._outer = [(call.name, call.module) for call in outer]
        self._around = [network, *(call.module for call in _around(last, calls))]
        self._zeros = {c.module: like(c.output, len(images)) for c in outer if c is not last}
        # The form of the output, without its values and what they were made from.
        self._output = mapped(last.output, lambda tensor: tensor.detach()[:0])
        self._tail: nn.Module | None = None

    @classmethod
    def find(cls, network: nn.Module, images: Tensor) -> FrozenPrefix | None:
        """The longest frozen prefix; None where nothing is frozen or nothing can be cut off.

        Args:
            network: In the mode in which it is trained. It keeps its modes.
            images: (N, 3, H, W) with N of at least 2, normalised, on the network's device.
        """
        if all(parameter.requires_grad for parameter in network.parameters()):
            return None
        with torch.random.fork_rng(devices=[]):  # layers are tried in training too
            return cls._found(network, images)

    @classmethod
    def _found(cls, network: nn.Module, images: Tensor) -> FrozenPrefix | None:
        with modes_kept(network), torch.inference_mode(False), torch.enable_grad():
            network.eval()
            calls = _trace(network, images)
        trained = {m for m in network.modules() if any(p.requires_grad for p in m.parameters())}
        blocked: list[_Call] = []  # modules that look at what is within them once more
        tried = 0
        for last in sorted(calls, key=lambda call: -call.left):
            if tried == _MOST_TRIED or not _can_end(last, calls, trained, len(images)):
                continue
            if any(call.entered < last.entered and last.left < call.left for call in blocked):
                continue
            tried += 1
            prefix = cls(network, calls, last, images)
            for prefix._tail in dict.fromkeys((_tail(network, calls, last), None)):
                if prefix._is_steady(images):
                    if prefix._is_whole(images):
                        return prefix
                    blocked += _around(last, calls)[-1:]
        return None

    def is_frozen(self) -> bool:
        """Whether all of it still is."""
        return not any(p.requires_grad for _, module in self._outer for p in module.parameters())

    def encode(self, images: Tensor) -> Tensor:
        """What the prefix makes of normalised images (N, 3, H, W): (N, ...), without gradients."""
        return self._run_until(self._last.register_forward_hook(_leave_with_output), images)

    def finish(self, features: Tensor) -> Tensor:
        """Logits (N, num_classes) of what `encode` gave for N images."""
        if self._tail is not None:
            logits: Tensor = self._tail(features)
            return logits
        # The network runs as ever, but for the modules of the prefix: the last one gives the
        # features, those before it zeros of the right shape, which nothing behind it looks at.
        images = features.new_zeros((), dtype=torch.float32)
        with self._left_out(features):
            logits = self._network(images.expand(len(features), 3, *self._image_size))
        return logits

    def digest(self) -> str:
        """Equal for prefixes that make the same of an image: weights, architecture and code."""
        parts = [(name, module, True) for name, module in self._outer]
        parts += [(f"around {n}", module, False) for n, module in enumerate(self._around)]
        return digest_of(self._network, self.cut, parts)

    @contextmanager
    def _left_out(self, features: Tensor) -> Iterator[None]:
        given = {m: zeros(shape, features) for m, shape in self._zeros.items()}
        given[self._last] = mapped(self._output, lambda _: features)
        try:
            for module, output in given.items():
                module.forward = _giving(output)
            yield
        finally:
            for module in given:
                module.__dict__.pop("forward", None)

    def _run_until(self, hook: Any, images: Tensor) -> Tensor:
        """Run the network up to a hook that leaves it; what the hook was given."""
        try:
            with torch.no_grad():
                self._network(images)
        except _Reached as reached:
            found = tensor_of(reached.value)
            assert found is not None
            return found
        finally:
            hook.remove()
        raise RuntimeError(f"{self.cut} did not run")

    def _is_steady(self, images: Tensor) -> bool:
        """Whether nothing in it is random in training, as dropout is."""
        with modes_kept(self._network), torch.inference_mode(False):
            trained = [self._reaching(images) for _ in range(2)]
            self._network.eval()
            evaluated = self.encode(images)
        return all(torch.equal(found, evaluated) for found in trained)

    def _is_whole(self, images: Tensor) -> bool:
        """Whether the halves do what the network does, for other images than those of the trace."""
        images = torch.cat([images.flip(-1), images[:1]])
        with modes_kept(self._network), torch.inference_mode(False), torch.no_grad():
            self._network.eval()
            expected = self._network(images)
            features = self.encode(images)
            try:
                found = self.finish(features)
            except (RuntimeError, ValueError, TypeError, AttributeError, LookupError):
                return False  # what is left out is looked at once more
        scale = max(1.0, float(expected.abs().max()))
        return torch.allclose(expected, found, rtol=0.0, atol=_TOLERANCE * scale)

    def _reaching(self, images: Tensor) -> Tensor:
        """What arrives where `finish` begins."""
        if self._tail is None:
            return self.encode(images)
        return self._run_until(self._tail.register_forward_pre_hook(_leave_with_input), images)


# Watching


def _trace(network: nn.Module, images: Tensor) -> list[_Call]:
    names = {module: name for name, module in network.named_modules() if name}
    began: dict[nn.Module, list[int]] = {}
    calls: list[_Call] = []
    clock = iter(range(10**9))

    def enter(module: nn.Module, _: Any) -> None:
        began.setdefault(module, []).append(next(clock))

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        entered = began[module].pop()
        calls.append(_Call(names[module], module, entered, next(clock), inputs, output))

    handles = [module.register_forward_pre_hook(enter) for module in names]
    handles += [module.register_forward_hook(leave) for module in names]
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _can_end(last: _Call, calls: list[_Call], trained: set[nn.Module], num_images: int) -> bool:
    """Whether all that ran up to the end of a call is frozen, and the call gave a row an image."""
    output = tensor_of(last.output)
    if output is None or output.requires_grad or not output.is_floating_point():
        return False
    if output.ndim < 2 or len(output) != num_images:
        return False
    if sum(call.module is last.module for call in calls) != 1:
        return False
    done = {call.module for call in calls if call.left <= last.left}
    again = any(call.module in done for call in calls if call.left > last.left)
    return not again and not done & trained


def _around(last: _Call, calls: list[_Call]) -> list[_Call]:
    """The modules that a call is part of, the outermost first."""
    found = [call for call in calls if call.entered < last.entered and call.left > last.left]
    return sorted(found, key=lambda call: call.entered)


def _tail(network: nn.Module, calls: list[_Call], last: _Call) -> nn.Module | None:
    """The module that takes the end of the prefix as it is, and holds all that is trained."""
    trained = {id(p) for p in network.parameters() if p.requires_grad}
    for call in calls:
        alone = call.entered > last.left and len(call.inputs) == 1
        if alone and call.inputs[0] is last.output and call.module is not last.module:
            held = {id(p) for p in call.module.parameters()}
            runs = sum(other.module is call.module for other in calls)
            if trained <= held and runs == 1:
                return call.module
    return None


def _giving(output: Any) -> Callable[..., Any]:
    def forward(*_: Any, **__: Any) -> Any:
        return output

    return forward


def _leave_with_output(module: nn.Module, inputs: Any, output: Any) -> None:
    raise _Reached(output)


def _leave_with_input(module: nn.Module, inputs: Any) -> None:
    raise _Reached(inputs[0])
