set -e
V=.venv/bin/vsgrpo
PY=.venv/bin/python
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PYTHONPATH=tests/training
$PY - <<'P'
from pathlib import Path
from vsgrpo.modeling.tiny import build_tiny, TinySizes
build_tiny(Path("base"), seed=0, sizes=TinySizes(vision_width=16, vision_heads=2, num_layers=1, hidden_size=32, num_heads=2, num_kv_heads=1, intermediate_size=32, vocab_size=320))
P
$V build-data experiment=demo_data source.seed=1 source.num_scenes=6 source.root=scans output=dataset
T="trainer.num_generations=4 trainer.per_device_train_batch_size=8 trainer.gradient_accumulation_steps=1 trainer.max_completion_length=4 trainer.max_steps=12 trainer.save_steps=2 trainer.learning_rate=0.001 model.path=base model.dtype=float32 model.tune=lora model.lora.r=4 model.lora.alpha=8 model.freeze_vision=true model.merge_on_save=false video.num_frames=4 trainer.beta=0.04 run.seed=0 reward.names=[spread_reward:spread] trainer.save_total_limit=1"
$V train grpo model=tiny data=dataset output=run $T
$PY - $V $T <<'P'
import json, os, signal, subprocess, sys, time
p = subprocess.Popen([sys.argv[1], "train", "grpo", "model=tiny", "data=dataset", "output=stopped", *sys.argv[2:]])
while True:
    time.sleep(0.002)
    try:
        if json.load(open("stopped/run.json"))["checkpoints"]:
            break
    except (OSError, ValueError, KeyError):
        pass
p.send_signal(signal.SIGKILL); p.wait()
P
$V eval model=run/final benchmark=folder benchmark.path=dataset benchmark.split=train output=evaluation decoding.max_new_tokens=4
