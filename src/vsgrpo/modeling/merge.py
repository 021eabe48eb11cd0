"""Turn an adapter folder into a plain model folder."""

import shutil
from pathlib import Path

from vsgrpo.errors import DataError

MANIFEST_NAME = "training_manifest.json"


def merge_adapter(adapter: Path, output: Path, dtype: str = "float32") -> None:
    """Write base + adapter as a model folder that transformers loads alone, with vision.json, lineage and card.

    Args:
        adapter: a saved adapter; adapters merged into its base before it was trained are found in it.
        output: the new folder.
        dtype: of the sum and of the weights written; bfloat16 rounds what was trained.

    Raises:
        ConfigError: an architecture this project does not know.
        DataError: no adapter there, its base is missing, or `output` exists.
    """
    if not (adapter / "adapter_config.json").is_file():
        raise DataError(f"{adapter}: no adapter_config.json in this folder", hint="give the folder of a saved adapter")
    if output.exists():
        raise DataError(f"output={output}: exists", hint="choose another output=DIR")
    # After the checks: these import torch.
    from vsgrpo.modeling.model import load_for_eval
    from vsgrpo.modeling.model_card import write_model_card
    from vsgrpo.modeling.quiet import quiet_libraries
    from vsgrpo.modeling.save import read_vision, save_model

    quiet_libraries()
    bundle = load_for_eval(adapter, dtype=dtype)
    save_model(bundle, output, merge=True, vision=read_vision(adapter))
    if (adapter / MANIFEST_NAME).is_file():
        shutil.copyfile(adapter / MANIFEST_NAME, output / MANIFEST_NAME)
    run_dir = adapter.resolve().parent
    write_model_card(output, run_dir if (run_dir / "config.yaml").is_file() else None, of=adapter)
