"""Count what autograd keeps of one microbatch of a small model, and what is alive at the peak of each phase."""

import functools
import weakref
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vsgrpo.families import BUILT, model_shape
from vsgrpo.families.family import TinySizes
from vsgrpo.modeling.bundle import MediaFeatures, use_gradient_checkpointing
from vsgrpo.modeling.load import LoraSettings, load
from vsgrpo.modeling.logps import logps
from vsgrpo.modeling.rollout import rollout
from vsgrpo.modeling.sampling import Sampling
from vsgrpo.modeling.tiny import build_tiny
from vsgrpo.modeling.tree import Prompt, build_trees
from vsgrpo.modeling.vision import FeatureStore
from vsgrpo.video.budget import Medium
from vsgrpo.video.loader import VideoInputs

SIZES = TinySizes(
    vision_depth=2, vision_width=512, num_layers=4, hidden_size=256, num_heads=4, num_kv_heads=2, intermediate_size=1024
)


class Alive(TorchDispatchMode):
    """Counts the bytes of all storages that operators make, from when they are made until they are freed.

    Attributes:
        peak: most bytes alive at a time; `given` tensors are left out, and what operators allocate inside is not seen.
    """

    def __init__(self, given: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in given}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._note(leaf.untyped_storage())
        return out

    def _note(self, storage):
        place, size = storage._cdata, storage.nbytes()
        if place not in self._sizes and size:
            self._sizes[place] = size
            self._now += size
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._freed, place)

    def _freed(self, place):
        self._now -= self._sizes.pop(place, 0)


@functools.cache
def small_model(folder, path):
    """Build a model of the family of a value of model.path."""
    build_tiny(folder, sizes=SIZES, family=BUILT[path].model_type)
    return folder


def count_saved(folder, config, video, completion, group, questions):
    """Return the shape of the model and the bytes kept, weights left out, each storage once.

    Prompts have `video` tokens that all questions share, and 20 of their own.
    """
    bundle, _, trees, features = small_work(folder, config, video, completion, group, questions)
    weights = {parameter.untyped_storage().data_ptr() for parameter in bundle.model.parameters()}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    kept = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with kept, torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.trainer.bf16):
        scores = logps(bundle.model, trees, features, layout="tree")
    del scores
    return model_shape(str(folder)), sum(storages.values())


def small_work(folder, config, video, completion, group, questions, shared=True):
    """Return the model, prompts, trees and features of one microbatch; without `shared` each question has its video."""
    section, tune = config.trainer, config.model.tune
    torch.set_num_threads(1)
    bundle = load(
        small_model(folder, config.model.path),
        tune=tune,
        lora=LoraSettings(r=8),
        dtype=config.model.dtype,
        offline=True,
    )
    if section.gradient_checkpointing:
        use_gradient_checkpointing(bundle.model)
    ids = bundle.tokenizer.get_vocab()
    pad = ids["<|video_pad|>"]
    prefix = [1] * (video - 8 - 2) + [ids["<|vision_start|>"], *[pad] * 8, ids["<|vision_end|>"]]
    names = ["v" if shared else f"v{q}" for q in range(questions)]
    prompts = [Prompt((*prefix, *range(10 + q, 30 + q)), (name,)) for q, name in enumerate(names)]
    trees = build_trees(prompts, [[range(5, 5 + completion)] * group] * questions, share=True)
    width = model_shape(str(folder)).feature_width
    medium, zeros = Medium("video", (1, 4, 8), 8), torch.zeros(8, width, dtype=bundle.model.dtype)
    features = {name: MediaFeatures(zeros.clone(), medium) for name in names}
    return bundle, prompts, trees, features


def peaks(folder, config, video, completion, group, questions, videos):
    """Return the shape of the model and the peak of bytes alive in rollout, update and tower (of `videos` videos)."""
    bundle, prompts, trees, features = small_work(folder, config, video, completion, group, questions, shared=False)
    model, half = bundle.model, config.trainer.bf16
    given = [*model.parameters(), *model.buffers(), *(item.tensor for item in features.values())]
    found = {}
    keys = [(prompt.videos[0], number) for prompt in prompts for number in range(group)]
    with Alive(given) as alive, torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        sampling = Sampling(seed=0, step=0, max_new_tokens=completion, eos_ids=())
        rollout(model, prompts, features, keys, sampling, layout="tree")
    found["rollout"] = alive.peak
    with Alive(given) as alive:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            rows = logps(model, trees, features, entropy=True, layout="tree")
        torch.cat([score for score, _ in rows]).mean().backward()
        del rows
    found["update"] = alive.peak
    blank = VideoInputs("0", torch.zeros(8, 3, 112, 112, dtype=torch.uint8), Medium("video", (4, 8, 8), 64))
    with Alive(given) as alive, torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        FeatureStore(bundle).features([replace(blank, key=str(number)) for number in range(videos)])
    found["vision"] = alive.peak
    return model_shape(str(folder)), found
