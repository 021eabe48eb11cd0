"""A pretended GPU: real values on the CPU that claim to be on `cuda:0` and refuse what CUDA refuses.

Every torch function called from Python passes `FakeGpu`, which finds

- mismatches: tensors of both devices in one call (CUDA takes CPU scalars and, for reading, CPU indices),
  `.numpy()` of a tensor on the GPU;
- waits: calls for which the host waits for the GPU (`tolist`, `int`, `nonzero`, indexing by a mask, ...);
- copies: from the host to the GPU.

Each is kept with the line of ours that did it. Not reached: what happens inside one torch call (kernels, the autograd
engine's own work), Triton and compiled code, branches on `torch.cuda.is_available()`, data types that
only CUDA lacks.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CUDA = torch.device("cuda", 0)
_WAITS = {
    *("item", "tolist", "is_nonzero", "equal", "allclose", "__bool__", "__int__", "__float__", "__index__"),
    *("__contains__", "__repr__", "nonzero", "argwhere", "masked_select", "bincount", "histc"),
    *("unique", "unique_consecutive", "_unique2", "unique_dim"),
}
"""Functions whose result, or its shape, must be known on the host."""
_INDEXING = {"__getitem__", "__setitem__", "index_put_", "index_put"}
_BOTH_DEVICES = {
    *("copy_", "to", "type_as", "expand_as", "view_as", "reshape_as", "set_", "as_subclass", "_make_subclass"),
    *("__set__", "__get__", "backward", "requires_grad_", "register_hook"),
}
"""Functions that take tensors of two devices."""
_NO_SCALARS = {"cat", "stack", "gather", "index_select", "embedding", "scatter", "matmul", "linear", "index_add"}
"""Functions to which even a CPU scalar is foreign."""


class OnGpu(Tensor):
    """A CPU tensor that stands for one on the GPU; what is computed from it is of this class, too."""


class DeviceMismatch(RuntimeError):
    """What CUDA would refuse."""


class FakeGpu(TorchFunctionMode):
    """Pretend, within a `with` block, that `cuda:0` exists.

    Attributes:
        mismatches, waits, copies: (what, line of ours) -> how often. A mismatch also raises DeviceMismatch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mismatches: Counter[tuple[str, str]] = Counter()
        self.waits: Counter[tuple[str, str]] = Counter()
        self.copies: Counter[tuple[str, str]] = Counter()
        self._recompute_checks: list[Any] = []
        self._moves: list[Any] = []
        self._applies: list[Any] = []

    def __enter__(self) -> FakeGpu:
        # A checkpoint compares the devices of what it recomputes: seen by the engine (cpu) and by us (cuda).
        checks = torch.utils.checkpoint._allowed_determinism_checks_to_fns
        self._recompute_checks.append(checks[torch.utils.checkpoint._DEFAULT_DETERMINISM_MODE])
        checks[torch.utils.checkpoint._DEFAULT_DETERMINISM_MODE] = lambda x: (tuple(x.shape), x.dtype)
        self._moves.append(nn.Module.to)
        nn.Module.to = self._module_to  # type: ignore[method-assign, assignment]
        # The engine hands plain tensors to the backward of our own autograd functions.
        apply = BackwardCFunction.apply
        self._applies.append(apply)
        BackwardCFunction.apply = lambda node, *gradients: apply(node, *_map(gradients, put))  # type: ignore[method-assign]
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        checks = torch.utils.checkpoint._allowed_determinism_checks_to_fns
        checks[torch.utils.checkpoint._DEFAULT_DETERMINISM_MODE] = self._recompute_checks.pop()
        nn.Module.to = self._moves.pop()  # type: ignore[method-assign]
        BackwardCFunction.apply = self._applies.pop()  # type: ignore[method-assign]
        super().__exit__(*raised)

    def clear(self) -> None:
        """Forget what was found."""
        for found in (self.mismatches, self.waits, self.copies):
            found.clear()

    def put(self, model: nn.Module) -> None:
        """Move a model's weights and buffers in place."""
        for module in model.modules():
            for name, weight in module._parameters.items():
                if weight is not None and not isinstance(weight, OnGpu):
                    # No view, or autocast would not keep what it casts.
                    moved: Any = Tensor._make_subclass(OnGpu, weight.detach(), weight.requires_grad)
                    moved._is_param = True
                    module._parameters[name] = moved
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else put(buffer)
        if hasattr(model, "tie_weights"):
            model.tie_weights()  # type: ignore[operator]

    @property
    def _module_to(self) -> Any:
        """`nn.Module.to`, whose C code takes no weights of ours."""

        def to(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
            if _is_cuda(kwargs.get("device", args[0] if args else None)):
                self.put(module)
                return module
            return self._moves[0](module, *args, **kwargs)

        return to

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", str(func))
        if args and isinstance(args[0], OnGpu):
            attribute = getattr(getattr(func, "__self__", None), "__name__", "") if name == "__get__" else name
            if attribute in _ATTRIBUTES:
                return _ATTRIBUTES[attribute]
            if attribute == "grad":
                gradient = func(*args, **kwargs)
                return gradient if gradient is None else put(gradient)
        tensors = _tensors((args, kwargs))
        there = [tensor for tensor in tensors if isinstance(tensor, OnGpu)]
        if name == "to":
            return self._to(func, args, kwargs)
        if name == "cuda":
            return self._to(Tensor.to, (args[0], CUDA), {})
        if there and name == "cpu":
            self.waits[_where(name)] += 1
            return _fetch(func(*args, **kwargs))
        if there and name in ("numpy", "__array__"):
            self._refuse(f"{name} of a tensor on cuda:0")
        if there and name == "backward":
            return self._backward(args, kwargs)
        if _is_cuda(kwargs.get("device")):
            if name in ("tensor", "as_tensor"):
                self.copies[_where(name)] += 1
            return _map(func(*args, **{**kwargs, "device": "cpu"}), put)
        if there and kwargs.get("device") is not None:
            return _map(func(*args, **kwargs), _fetch)
        if there:
            self._check(name, args, kwargs, tensors, there)
        return func(*args, **kwargs)

    def _backward(self, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run the engine so that what it recomputes passes here, too."""
        given = kwargs.get("gradient", args[1] if len(args) > 1 else None)
        root = _fetch(args[0])
        gradient = torch.ones_like(root) if given is None else _fetch(given)
        keep = bool(kwargs.get("retain_graph", False))
        with self:
            run = torch.autograd.Variable._execution_engine.run_backward
            return run((root,), (gradient,), keep, False, (), allow_unreachable=True, accumulate_grad=True)

    def _to(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        tensor, rest = args[0], list(args[1:])
        like = next((value for value in rest if isinstance(value, Tensor)), None)
        target = kwargs.pop("device", None)
        if target is None and rest and isinstance(rest[0], torch.device | str):
            target = rest.pop(0)
        if like is not None:
            target = CUDA if isinstance(like, OnGpu) else torch.device("cpu")
        if target is None or str(target) == "meta":
            return func(tensor, *([target] if target else []), *rest, **kwargs)
        moved = func(_fetch(tensor), *(_fetch(value) for value in rest), **kwargs)
        if not _is_cuda(target):
            if isinstance(tensor, OnGpu):
                self.waits[_where("to cpu")] += 1
            return moved
        if not isinstance(tensor, OnGpu):
            self.copies[_where("to")] += 1
            return put(moved)
        return tensor if moved.data_ptr() == tensor.data_ptr() and moved.dtype == tensor.dtype else put(moved)

    def _check(self, name: str, args: Any, kwargs: Any, tensors: list[Tensor], there: Sequence[Tensor]) -> None:
        if name in _WAITS or (name == "where" and len(args) == 1):
            self.waits[_where(name)] += 1
        if name == "repeat_interleave" and len(there) == 2 and kwargs.get("output_size") is None:
            self.waits[_where(name)] += 1
        if name in _INDEXING:
            index = _tensors(args[1:2])
            if any(tensor.dtype == torch.bool for tensor in index):
                self.waits[_where(name + " by a mask")] += 1
            if any(not isinstance(tensor, OnGpu) for tensor in index):
                self.copies[_where(name + " by a CPU index")] += 1
            if not isinstance(args[0], OnGpu) and any(isinstance(tensor, OnGpu) and tensor.dim() for tensor in index):
                self._refuse(f"{name}: a CPU tensor indexed by one on cuda:0")
        elif name not in _BOTH_DEVICES:
            here = [tensor for tensor in tensors if not isinstance(tensor, OnGpu) and not tensor.is_meta]
            foreign = [tensor for tensor in here if tensor.dim() > 0 or name in _NO_SCALARS]
            if foreign:
                self._refuse(f"{name}: {len(there)} tensors on cuda:0, one of shape {tuple(foreign[0].shape)} on cpu")

    def _refuse(self, what: str) -> None:
        self.mismatches[_where(what)] += 1
        raise DeviceMismatch(what)


_ATTRIBUTES: dict[str, Any] = {"device": CUDA, "is_cuda": True, "is_cpu": False, "get_device": 0}


class CountKernels(TorchDispatchMode):
    """Count the aten calls that launch a kernel: no views, no empty allocations."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.count += not (func.is_view or "empty" in name or name in ("_unsafe_view", "_local_scalar_dense"))
        with torch._C.DisableTorchFunction():  # the call above this one has passed `FakeGpu`
            return func(*args, **(kwargs or {}))


def put(tensor: Tensor) -> Tensor:
    """Return the tensor as one on the GPU."""
    return tensor if isinstance(tensor, OnGpu) else tensor.as_subclass(OnGpu)


def _fetch(value: Any) -> Any:
    return value.as_subclass(Tensor) if isinstance(value, OnGpu) else value


def _is_cuda(device: Any) -> bool:
    return isinstance(device, str | torch.device) and str(device).startswith("cuda")


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, list | tuple):
        return []
    return [tensor for value in values for tensor in _tensors(value)]


def _map(values: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(values, Tensor):
        return change(values)
    if isinstance(values, list | tuple):
        made = [_map(value, change) for value in values]
        return type(values)(*made) if hasattr(values, "_fields") else type(values)(made)
    return values


def _where(what: str) -> tuple[str, str]:
    """Return (what, the nearest line of ours < the nearest line of any library but torch)."""
    frames = [f for f in traceback.extract_stack() if f.filename != __file__ and "/torch/" not in f.filename]
    own = [frame for frame in frames if "/vsgrpo/" in frame.filename]
    near = frames[-1]
    lines = [f"{'/'.join(frame.filename.split('/')[-2:])}:{frame.lineno}" for frame in (*own[-1:], near)]
    return what, " < ".join(dict.fromkeys(lines))
