"""Bytes of device memory that one process of a training run needs, by arithmetic.

Exact: weights, gradients, optimizer state. By rule: what a forward and backward keeps, and working memory of tower and
rollout; tests/memory compares both with the bytes alive on a CPU. `OVERHEAD` and `MARGIN` are ours.
Nothing here was measured on a GPU.

Legend: H width of the language model, I of its MLP, K of its keys, E and M of the tower and its MLP, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from vsgrpo.config.train import TrainConfig
from vsgrpo.config.trainer import DpoSection, GrpoSection, TrainerSection
from vsgrpo.devices import logps_chunk
from vsgrpo.families.family import ModelShape
from vsgrpo.memory.load import Load

GIB = 2**30
OVERHEAD = 1.0 * GIB
"""Bytes of libraries and their workspaces (ours)."""
CPU_OVERHEAD = 1.25 * GIB
"""The same in main memory, where all that Python imports counts: 1.13 GiB before the model loads, and the trainer's."""
MARGIN = 0.1
"""Share that allocators lose to fragments (ours)."""
CPU_HEAP = 0.6
"""Share of a phase that glibc's heap holds on top of it: an aligned block that was freed does not fit the next request
of its size. Peaks of small_lm's LoRA passes were 1.6 times those with every block mapped apart
(MALLOC_TOP_PAD_=131072, which is slower)."""
ENGINE_BUCKET = 500_000_000
"""Numbers that DeepSpeed 0.19 gathers before it reduces gradients (its default reduce_bucket_size)."""
LIVE_PARAMETERS = 1_000_000_000
"""Parameters that ZeRO-3 keeps gathered at most while it trains (its default stage3_max_live_parameters)."""
LOGIT_BYTES = 8
"""Per logit of the chunk that is scored: float32, and its exponential (`modeling.head`)."""
DRAW_BYTES = 14
"""Per logit that is drawn from: model's type 2, float 4, without suppressed tokens 4, with noise 4."""


@dataclass(frozen=True)
class Estimate:
    """Bytes on the device of one process.

    Attributes:
        state: by name; there all the time once the first update is done.
        phases: by name, on top of it, one at a time.
        on_cpu: main memory is the device's.
    """

    state: dict[str, int]
    phases: dict[str, int]
    load: Load
    trained: int
    parameters: int
    on_cpu: bool = False

    @property
    def fixed(self) -> int:
        """Bytes without which nothing can be trained: the state, features apart."""
        return sum(size for name, size in self.state.items() if name != "cached features")

    @property
    def largest_phase(self) -> str:
        return max(self.phases, key=lambda name: self.phases[name])

    @property
    def total(self) -> int:
        """All of it in the largest phase, with overhead and margin."""
        overhead, heap = (CPU_OVERHEAD, CPU_HEAP) if self.on_cpu else (OVERHEAD, 0.0)
        state, phase = sum(self.state.values()), self.phases[self.largest_phase]
        return int(overhead + (1 + MARGIN) * state + (1 + MARGIN + heap) * phase)


def estimate(config: TrainConfig, section: TrainerSection, shape: ModelShape, load: Load) -> Estimate:
    """Add up the bytes of one stage."""
    state = _state(config, section, shape)
    if config.video.feature_cache == "memory" and config.model.freeze_vision:
        width = 2 if _half(config, section) else weight_bytes(config)
        state["cached features"] = load.tokens.dataset * shape.feature_width * width
    gathered = _gathered(config, section, shape)
    phases = {"update": gathered["update"] + update_bytes(config, section, shape, load)}
    videos = load.buffer_videos or load.trees
    phases["vision"] = gathered["rollout"] + tower_bytes(
        config, shape, videos, load.tokens.patches, _act(config, section)
    )
    if isinstance(section, GrpoSection):
        own = config.rollout_engine(section) == "own"  # else a server has the cache, and here are weights to be sent
        phases["rollout"] = gathered["rollout"] + (rollout_bytes(shape, load, _act(config, section)) if own else 0)
        if section.gpd_weight > 0:
            phases["teacher"] = gathered["update"] + reference_bytes(config, section, shape, load)
    trained = trained_parameters(config, shape)
    return Estimate(state, phases, load, trained, shape.num_parameters(), config.launch.on_cpu)


def trained_parameters(config: TrainConfig, shape: ModelShape) -> int:
    """Count what the optimizer updates."""
    model = config.model
    if model.tune == "lora":
        return shape.lora_parameters(model.lora.r, model.lora.targets)
    return shape.language_parameters() if model.freeze_vision else shape.num_parameters()


def weight_bytes(config: TrainConfig) -> int:
    """Return the bytes of one weight as it is held, adapters apart."""
    return 2 if config.weight_dtype() == "bfloat16" else 4


def _half(config: TrainConfig, section: TrainerSection) -> bool:
    return section.bf16 or config.model.dtype == "bfloat16"


def _act(config: TrainConfig, section: TrainerSection) -> int:
    return 2 if _half(config, section) else 4


def _state(config: TrainConfig, section: TrainerSection, shape: ModelShape) -> dict[str, int]:
    """Return the bytes that stay: weights, gradients, optimizer, reference, the engine's buffers.

    PEFT keeps an adapter in float32. DeepSpeed casts all to bfloat16 where trainer.bf16 is set, keeps a float32 master
    copy with the optimizer's moments and sums gradients in float32, all in parts. Elsewhere trained weights, gradients
    and moments are float32; autocast keeps a bfloat16 copy of weights in a pass.
    """
    launch = config.launch
    parts, profile = launch.num_processes, launch.profile
    trained = trained_parameters(config, shape)
    frozen = shape.num_parameters() - (trained if config.model.tune == "full" else 0)
    engine = profile.startswith("zero")
    own = 4 if config.model.tune == "lora" else weight_bytes(config)
    each = weight_bytes(config)
    if engine and section.bf16:
        own = each = 2
    weights = frozen * each + trained * own
    gradients = trained * 4
    optimizer = trained * (4 + 4 * section.num_moments if engine else section.num_moments * own)
    if profile in ("zero3", "zero3_offload", "fsdp2"):
        weights //= parts
    if engine or profile == "fsdp2":
        gradients, optimizer = gradients // parts, optimizer // parts
    if profile == "zero3_offload":
        weights = gradients = optimizer = 0
    state = {"weights": weights, "gradients": gradients, "optimizer": optimizer}
    needs_reference = isinstance(section, GrpoSection | DpoSection) and section.beta > 0
    if needs_reference and config.model.tune == "full":
        casts = config.autocasts(section) and (engine or profile == "fsdp2")
        state["reference"] = shape.num_parameters() * (2 if casts else each)
    if engine:
        state["engine buffers"] = min(ENGINE_BUCKET, trained) * own
    elif profile == "ddp":
        state["engine buffers"] = trained * own
    if config.autocasts(section) and weight_bytes(config) == 4 and not engine and profile != "fsdp2":
        state["weights in bfloat16"] = 2 * shape.language_parameters()
    return state


def _gathered(config: TrainConfig, section: TrainerSection, shape: ModelShape) -> dict[str, int]:
    """Return the bytes of weights that sharded launches gather: all for a rollout, some while training."""
    size, profile = _act(config, section), config.launch.profile
    if profile in ("zero3", "zero3_offload"):
        live = min(LIVE_PARAMETERS, shape.num_parameters())
        return {"rollout": shape.num_parameters() * size, "update": live * size}
    if profile == "fsdp2":
        return {"rollout": shape.num_parameters() * size, "update": 2 * shape.layer_parameters() * size}
    return {"rollout": 0, "update": 0}


def update_bytes(config: TrainConfig, section: TrainerSection, shape: ModelShape, load: Load) -> int:
    """Return what forward and backward of one microbatch keep, and the work of the head and in one layer's backward.

    Gradient checkpointing keeps the input of each layer, and one layer's activations while that layer is recomputed.
    """
    act = _act(config, section)
    layer = layer_bytes(config, section, shape, load)
    if shape.delta:
        layer = max(layer, delta_bytes(config, section, shape, load))
    stream = load.update_tokens * shape.hidden * act
    logits = head_bytes(config, section, shape, load)
    total = saved_bytes(config, section, shape, load)
    # The backward pass of one layer needs half as much again; the logits are gone by then.
    if section.gradient_checkpointing:
        total += stream + max(logits, layer + layer // 2)
    else:
        total += max(logits, layer // 2)
    if not config.model.freeze_vision:
        tower = shape.tower
        total += load.trees * load.tokens.patches * tower.depth * act * (9 * tower.width + 4 * tower.mlp)
    return total


def head_bytes(config: TrainConfig, section: TrainerSection, shape: ModelShape, load: Load) -> int:
    """Return the logits of one chunk, the gradient of each predicting row, and that of a trained weight in float32."""
    rows = load.completions * load.tokens.completion
    chunk = min(rows, section.logps_chunk or logps_chunk(config.launch.on_cpu, shape.vocab))
    act = _act(config, section)
    table = shape.vocab * shape.hidden * (4 if act == 4 else 4 + act) if config.model.tune == "full" else 0
    return chunk * shape.vocab * LOGIT_BYTES + rows * shape.hidden * 2 * act + table


def saved_bytes(config: TrainConfig, section: TrainerSection, shape: ModelShape, load: Load) -> int:
    """Return what autograd keeps of a microbatch between forward and backward, logits apart (tests count it)."""
    stream = load.update_tokens * shape.hidden * _act(config, section)
    if section.gradient_checkpointing:
        return (shape.layers + 1) * stream
    layers = shape.attention_layers * layer_bytes(config, section, shape, load)
    if shape.delta:
        layers += shape.delta.layers * delta_bytes(config, section, shape, load)
    return layers + 3 * stream


def delta_bytes(config: TrainConfig, section: TrainerSection, shape: ModelShape, load: Load) -> int:
    """Return what autograd keeps of one block with gated DeltaNet in place of attention.

    By the library's own code, which reads 64 tokens at once in float32; the kernels of fla keep less. Per token: the
    inputs of the convolution and of its activation; seven of keys and four of values for each value head; four rows of
    matrices of 64 x 64; twice the state, once per 64 tokens.
    """
    delta = shape.delta
    assert delta is not None
    keys, state = delta.value_heads * delta.key_head, delta.value_heads * delta.key_head * delta.value_head
    mixer = 2 * delta.mixed_width * _act(config, section)
    mixer += 4 * (7 * keys + 4 * delta.value_width + 4 * 64 * delta.value_heads + 2 * state // 64)
    others = replace(shape, heads=0, kv_heads=0, qk_norm=False)  # norms and MLP are as in blocks with attention
    return layer_bytes(config, section, others, load) + load.update_tokens * mixer


def layer_bytes(config: TrainConfig, section: TrainerSection, shape: ModelShape, load: Load) -> int:
    """Return what autograd keeps of one block of the language model.

    Per token: the inputs of both norms in float32 (8 H bytes), and of those of queries and keys where they have them;
    queries, keys, values and the result of attention; the inputs of linear layers that are trained or carry LoRA, one
    copy each where they are cast (float32 by autocast, or to the float32 of an adapter without it); three of the MLP.
    The tree's kernels copy keys and values of shared nodes to the blocks or leaves that attend to them.
    """
    act, hidden, mlp = _act(config, section), shape.hidden, shape.mlp
    query, keys = shape.query_width, shape.kv_width
    lora = config.model.tune == "lora"
    targets = set(config.model.lora.targets) if lora else {"q_proj", "gate_proj", "o_proj", "down_proj"}
    autocasts = config.autocasts(section)
    adapter_casts = lora and not autocasts and weight_bytes(config) == 2
    casts = adapter_casts or (autocasts and weight_bytes(config) == 4)
    each, inputs = 4 if adapter_casts else act, 0
    for names, width in (({"q_proj", "k_proj", "v_proj"}, hidden), ({"gate_proj", "up_proj"}, hidden)):
        wanted = names & targets
        copies = (len(wanted) if lora else len(names)) if casts else bool(wanted)
        inputs += copies * width * each
    inputs += ("o_proj" in targets) * query * each + ("down_proj" in targets) * mlp * each
    norms = 8 * hidden + (0 if lora else 2 * hidden * weight_bytes(config))
    if shape.qk_norm:
        norms += 4 * (query + keys) + (0 if lora else (query + keys) * weight_bytes(config))
    attention = (2 * query + 2 * keys) * act
    per_token = norms + inputs + attention + 3 * mlp * act
    # CUDA's fused kernels take grouped queries only without a mask: keys are repeated for every head, or the mask is,
    # where that is less.
    copied_width = 2 * (keys if config.launch.on_cpu else query) * act
    return load.update_tokens * per_token + _copied_keys(section, load, config.launch.on_cpu, act == 2) * copied_width


def _copied_keys(section: TrainerSection, load: Load, on_cpu: bool, half: bool) -> int:
    """Count the keys that the tree's kernels copy: once per question (block) or per completion (split)."""
    tokens, kernel = load.tokens, section.prefix_attention
    if load.layout == "plain" or kernel in ("dense", "flex", "merge") or (kernel == "auto" and on_cpu):
        return 0
    question, leaf = tokens.text if load.questions > 1 else 0, tokens.completion
    prefix = tokens.prompt - question
    width = question + load.group * leaf
    blocks, leaves = load.trees * load.questions, load.completions
    copied = {"block": blocks * (prefix + width), "split": leaves * (prefix + question + leaf)}
    if kernel != "auto":
        return copied[kernel]
    # As modeling.tree_masks.choose_kernel on a GPU: scores computed, and what a copied key and merging cost.
    block = blocks * (prefix + width) * (width + 150)
    split = blocks * (prefix + question) * (question + 150) + leaves * (prefix + question + leaf) * (leaf + 150)
    merge = blocks * width * prefix + leaves * leaf * (question + leaf / 2) + 20_000_000 if half else math.inf
    return min((merge, 0), (block, copied["block"]), (split, copied["split"]))[1]


def tower_bytes(config: TrainConfig, shape: ModelShape, videos: int, patches: int, act: int) -> int:
    """Return the working memory of a tower that runs without gradients, and the features of all its videos.

    It takes one video of `patches` patches in a call, all of them where ZeRO-3 shards a tower that is trained.

    Per patch: its pixels in float32 and, where that is another one, in the tower's type; residual, norm and its float32
    result, 14 E bytes; three of the MLP's width. The processor needs three and a half times the pixels of all patches,
    in main memory.
    """
    tower = shape.tower
    pixels = tower.patch_values * (4 if act == 4 else 4 + act)
    in_one_call = config.launch.profile.startswith("zero3") and not config.model.freeze_vision
    at_once = videos * patches if in_one_call else patches
    working = at_once * (pixels + 14 * tower.width + 3 * tower.mlp * act)
    if config.launch.on_cpu:
        working = max(working, at_once * tower.patch_values * 14)
    return working + videos * patches // tower.merge**2 * shape.feature_width * act


def rollout_bytes(shape: ModelShape, load: Load, act: int) -> int:
    """Return the larger of reading a buffer's prompts and of drawing its last tokens, each with its key-value cache.

    A recurrent layer keeps one state per completion, whatever its length, and one layer's twice while it is replaced.
    """
    token = 2 * shape.kv_width * shape.attention_layers * act
    reading = load.prefill_tokens * (token + _reading_bytes(shape, act))
    drawing = load.cached_tokens * token + load.drawn * shape.vocab * DRAW_BYTES
    if shape.delta:
        drawing += load.drawn * (shape.delta.layers + 1) * shape.delta.state_bytes
    return max(reading, drawing)


def reference_bytes(config: TrainConfig, section: TrainerSection, shape: ModelShape, load: Load) -> int:
    """Return the working memory of a forward without gradient: it reads, and scores a chunk at a time."""
    reading = load.scored_tokens * _reading_bytes(shape, _act(config, section))
    return reading + head_bytes(config, section, shape, load)


def _reading_bytes(shape: ModelShape, act: int) -> int:
    """Return what reading takes per token: residual stream, attention, a norm in float32, three of the MLP's width."""
    return 7 * shape.hidden * act + 8 * shape.hidden + 3 * shape.mlp * act
