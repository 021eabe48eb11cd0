"""Count what autograd keeps between forward and backward of one microbatch of a small model."""

import functools

import torch

from vsgrpo.memory.shapes import model_shape
from vsgrpo.modeling.logps import logps
from vsgrpo.modeling.model import LoraSettings, load_model, use_gradient_checkpointing
from vsgrpo.modeling.tiny import TinySizes, build_tiny
from vsgrpo.modeling.tree import Prompt, build_trees
from vsgrpo.modeling.vision import VideoFeatures

SIZES = TinySizes(num_layers=4, hidden_size=256, num_heads=4, num_kv_heads=2, intermediate_size=1024)


@functools.cache
def small_model(folder):
    build_tiny(folder, sizes=SIZES)
    return folder


def count_saved(folder, config, video, completion, group, questions):
    """Return the shape of the model and the bytes kept, weights left out, each storage once.

    Prompts have `video` tokens that all questions share, and 20 of their own.
    """
    section, tune = config.trainer, config.model.tune
    torch.set_num_threads(1)
    bundle = load_model(small_model(folder), tune=tune, lora=LoraSettings(r=8), dtype=config.model.dtype, offline=True)
    if section.gradient_checkpointing:
        use_gradient_checkpointing(bundle.model)
    weights = {parameter.untyped_storage().data_ptr() for parameter in bundle.model.parameters()}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    ids = bundle.tokenizer.get_vocab()
    pad = ids["<|video_pad|>"]
    prefix = [1] * (video - 8 - 2) + [ids["<|vision_start|>"], *[pad] * 8, ids["<|vision_end|>"]]
    prompts = [Prompt((*prefix, *range(10 + q, 30 + q)), ("v",)) for q in range(questions)]
    trees = build_trees(prompts, [[range(5, 5 + completion)] * group] * questions, share=True)
    features = {"v": VideoFeatures(torch.zeros(8, 256, dtype=bundle.model.dtype), (2, 4, 4))}
    kept = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with kept, torch.autocast("cpu", dtype=torch.bfloat16, enabled=section.bf16):
        scores = logps(bundle.model, trees, features, layout="tree")
    del scores
    return model_shape(str(folder)), sum(storages.values())
