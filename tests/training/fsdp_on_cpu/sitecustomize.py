"""Lets accelerate run FSDP2 on CPUs, which it turns into plain data parallelism: for tests alone.

Python loads this file at its start where this folder is on PYTHONPATH. It acts in worker processes, and takes away the
parent's refusal of FSDP2 without GPUs.
"""

import os

if "TORCHELASTIC_RUN_ID" in os.environ:
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    from accelerate.state import DistributedType, PartialState
    from transformers import training_args

    from vsgrpo.training import launcher, stages

    PartialState._prepare_backend = lambda self, *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)
    launcher.check_devices = lambda config: None
    training_args.is_torch_bf16_gpu_available = lambda: True
    ours = stages._fixed
    stages._fixed = lambda config: {**ours(config), "use_cpu": False}
else:
    from vsgrpo.launch import start as launch

    launch.check_devices = lambda config: None
