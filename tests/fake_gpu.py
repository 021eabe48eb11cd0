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
from collections.abc import Callable, Iterator, Sequence
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
        self._backwards: list[Any] = []

    def __enter__(self) -> FakeGpu:
        # A checkpoint compares the devices of what it recomputes: seen by the engine (cpu) and by us (cuda).
        checks = torch.utils.checkpoint._allowed_determinism_checks_to_fns
        self._recompute_checks.append(checks[torch.utils.checkpoint._DEFAULT_DETERMINISM_MODE])
        checks[torch.utils.checkpoint._DEFAULT_DETERMINISM_MODE] = lambda x: (tuple(x.shape), x.dtype)
        self._moves.append(nn.Module.to)
        nn.Module.to = self._module_to  # type: ignore[method-assign, assignment]
        self._backwards.append((BackwardCFunction.apply, BackwardCFunction.saved_tensors))
        _backward_on_gpu(*self._backwards[-1])
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        checks = torch.utils.checkpoint._allowed_determinism_checks_to_fns
        checks[torch.utils.checkpoint._DEFAULT_DETERMINISM_MODE] = self._recompute_checks.pop()
        nn.Module.to = self._moves.pop()  # type: ignore[method-assign]
        BackwardCFunction.apply, BackwardCFunction.saved_tensors = self._backwards.pop()
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
        if name in _FLASH:
            return _map(_FLASH[name](*_map(args, _fetch), **kwargs), put)
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


def _backward_on_gpu(apply: Any, saved: Any) -> None:
    """Hand the backward of a torch.autograd.Function what the engine hands it, as tensors on the GPU."""
    BackwardCFunction.apply = lambda ctx, *grads: apply(ctx, *_map(grads, put))  # type: ignore[method-assign]
    BackwardCFunction.saved_tensors = property(lambda ctx: _map(saved.__get__(ctx), put))  # type: ignore[assignment]


def _flash_calls(q: Tensor, k: Tensor, starts: Sequence[Any], causal: bool, scale: float | None) -> Iterator[Any]:
    """Yield (queries, keys, scores of all heads) of each sequence of a call of varlen flash attention.

    Refuses what CUDA's kernel refuses, and what makes it answer wrongly.
    """
    starts_q, starts_k, most_q, most_k = starts
    if q.dtype not in (torch.float16, torch.bfloat16) or q.shape[-1] % 8 or q.stride(-1) != 1:
        raise DeviceMismatch(f"FlashAttention does not take {q.dtype}, heads of {q.shape[-1]}")
    lengths_q, lengths_k = starts_q.diff().tolist(), starts_k.diff().tolist()
    assert starts_q.dtype == starts_k.dtype == torch.int32 and (len(q), len(k)) == (starts_q[-1], starts_k[-1])
    assert max(lengths_q) <= most_q and max(lengths_k) <= most_k
    assert most_q > 1, "exchanges heads and queries, and returns the lse of several sequences in another order"
    for at_q, at_k, num_q, num_k in zip(starts_q.tolist(), starts_k.tolist(), lengths_q, lengths_k, strict=False):
        queries, keys = slice(at_q, at_q + num_q), slice(at_k, at_k + num_k)
        of_group = k[keys].repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        scores = torch.einsum("qhd,khd->hqk", q[queries].double(), of_group.double()) * (scale or q.shape[-1] ** -0.5)
        if causal:
            scores.masked_fill_(~torch.ones(num_q, num_k, dtype=torch.bool).tril(num_k - num_q), -torch.inf)
        yield queries, keys, scores


def _flash_forward(
    q: Tensor, k: Tensor, v: Tensor, *rest: Any, scale: float | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Stand for `aten._flash_attention_forward` with sequences: (t, H, d) -> out, lse (H, t) in float32, and state."""
    *starts, dropout, causal, _ = rest
    assert not dropout
    out, lse = torch.empty_like(q), torch.empty(q.shape[1], len(q))
    for queries, keys, scores in _flash_calls(q, k, starts, causal, scale):
        of_group = v[keys].repeat_interleave(q.shape[1] // k.shape[1], dim=1).double()
        out[queries] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), of_group).to(q.dtype)
        lse[:, queries] = scores.logsumexp(-1).float()
    return out, lse, torch.zeros(2), torch.zeros(()), torch.zeros(())


def _flash_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *rest: Any, scale: float | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Stand for `aten._flash_attention_backward`: the gradients of q, k and v from the out and lse that are given."""
    *starts, _, causal, _, _ = rest
    assert lse.is_contiguous() and lse.dtype == torch.float32 and grad.dtype == out.dtype == q.dtype
    group, factor = q.shape[1] // k.shape[1], scale or q.shape[-1] ** -0.5
    found = [torch.zeros(part.shape, dtype=torch.float64) for part in (q, k, v)]
    for queries, keys, scores in _flash_calls(q, k, starts, causal, scale):
        p, g = (scores - lse[:, queries, None]).exp(), grad[queries].double()
        of_group = v[keys].repeat_interleave(group, dim=1).double()
        delta = (g * out[queries].double()).sum(-1).T[..., None]
        ds = p * (torch.einsum("qhd,khd->hqk", g, of_group) - delta) * factor
        found[0][queries] = torch.einsum("hqk,khd->qhd", ds, k[keys].repeat_interleave(group, dim=1).double())
        for total, left, right in ((found[1], ds, q[queries]), (found[2], p, g)):
            share = torch.einsum("hqk,qhd->khd", left, right.double())
            total[keys] = share.unflatten(1, (-1, group)).sum(2)
    return tuple(part.to(q.dtype) for part in found)  # type: ignore[return-value]


_FLASH = {"_flash_attention_forward": _flash_forward, "_flash_attention_backward": _flash_backward}
"""Kernels that only CUDA has, by what they promise."""
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
