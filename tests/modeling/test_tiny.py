import subprocess
import sys

import pytest
import torch
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from vsgrpo.families.family import TinySizes
from vsgrpo.modeling.tiny import SPECIAL_TOKENS, build_tiny


def test_same_seed_writes_the_same_bytes_and_leaves_the_global_random_state(tiny_folder, tmp_path):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    build_tiny(tmp_path / "again", seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    files = sorted(path.name for path in tiny_folder.iterdir())
    assert "model.safetensors" in files and "chat_template.jinja" in files
    for name in files:
        assert (tmp_path / "again" / name).read_bytes() == (tiny_folder / name).read_bytes(), name


@pytest.mark.integration
def test_every_process_of_several_writes_the_whole_model(tiny_folder, tmp_path):
    # Whichever comes first builds it; the library's `save_pretrained` writes weights and config on process 0 alone.
    script = (
        "import sys, pathlib, torch.distributed as dist\n"
        "from torch.testing._internal.distributed.fake_pg import FakeStore\n"
        "from vsgrpo.modeling.tiny import build_tiny\n"
        "dist.init_process_group('fake', store=FakeStore(), rank=1, world_size=2)\n"
        "build_tiny(pathlib.Path(sys.argv[1]), seed=0)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "second")], check=True)
    for file in tiny_folder.iterdir():
        assert (tmp_path / "second" / file.name).read_bytes() == file.read_bytes(), file.name


def test_another_seed_gives_other_weights_and_sizes_are_free(tiny_folder, tmp_path):
    build_tiny(tmp_path / "wide", seed=1, sizes=TinySizes(hidden_size=128, num_layers=1))
    wide = Qwen2VLForConditionalGeneration.from_pretrained(tmp_path / "wide", local_files_only=True)
    assert wide.config.text_config.rope_parameters["mrope_section"] == [4, 6, 6]  # head width 32, half is 16
    assert len(wide.model.language_model.layers) == 1


def test_tokenizer_splits_digits_and_round_trips_any_text(tiny):
    tokenizer = tiny.tokenizer
    assert [tokenizer.decode([i]) for i in tokenizer("24.37")["input_ids"]] == ["2", "4", ".", "3", "7"]
    for text in ("How many chair(s) are in this room?", "naïve café 房间 12 m²\n\n  x"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_special_tokens_are_single_ids_at_the_end_in_qwen_order(tiny):
    ids = tiny.tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    assert ids == list(range(len(tiny.tokenizer) - len(SPECIAL_TOKENS), len(tiny.tokenizer)))
    assert tiny.model.config.text_config.vocab_size == len(tiny.tokenizer)
    assert tiny.model.config.video_token_id == tiny.processor.video_token_id == ids[-1]
    assert tiny.model.generation_config.eos_token_id == tiny.tokenizer.convert_tokens_to_ids(
        ["<|im_end|>", "<|endoftext|>"]
    )


def test_chat_template_renders_parts_by_type_even_when_null_filled(tiny):
    messages = [
        {
            "role": "user",
            "content": [
                {"type": "video", "video": "x", "text": None, "image": None},
                {"type": "image", "video": None, "text": None, "image": "y"},
                {"type": "text", "video": None, "text": "Why?", "image": None},
            ],
        },
        {"role": "assistant", "content": "4"},
    ]
    assert tiny.processor.apply_chat_template(messages, tokenize=False) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|><|vision_start|><|image_pad|><|vision_end|>Why?"
        "<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n"
    )
    own = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert tiny.processor.apply_chat_template(own, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_processor_loads_offline_with_video_processor(tiny_folder):
    processor = Qwen2VLProcessor.from_pretrained(tiny_folder, local_files_only=True)
    assert processor.video_processor.patch_size == 14 and processor.video_processor.temporal_patch_size == 2
