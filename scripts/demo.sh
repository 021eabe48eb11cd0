#!/usr/bin/env bash
# The main job on the embedded default: demo rooms -> SFT cold start -> GRPO on new rooms -> scores on held-out rooms.
# Four commands of a real user, then one table. `make demo` runs this; a second run goes on where the first stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
VSGRPO=${VSGRPO:-.venv/bin/vsgrpo}
PYTHON=${PYTHON:-$(dirname "$VSGRPO")/python}
OUT=${DEMO_DIR:-runs/demo}
say() { printf '\n== %s\n' "$*" >&2; }
start=$SECONDS

say "1/4 build-data: 200 rooms for the cold start, 2000 new rooms for GRPO, 400 held-out rooms for the scores"
"$VSGRPO" build-data experiment=demo_data source.seed=1 source.num_scenes=200 output="$OUT/data/cold" >&2
"$VSGRPO" build-data experiment=demo_data source.seed=5 source.num_scenes=2000 output="$OUT/data/rl" >&2
"$VSGRPO" build-data experiment=demo_data source.seed=9 source.num_scenes=400 output="$OUT/data/test" >&2

# Train once: a finished run is kept, an interrupted one goes on from its last checkpoint.
train() {
  local method=$1 dir=$2
  shift 2
  if [ -d "$dir/final" ]; then
    say "$dir/final is there already: delete $dir to train it again"
  elif [ -f "$dir/config.yaml" ] && ls -d "$dir"/checkpoint-* >/dev/null 2>&1; then
    "$VSGRPO" train "$method" "$@" output="$dir" --resume >&2
  else
    "$VSGRPO" train "$method" "$@" output="$dir" --overwrite >&2
  fi
}

say "2/4 train sft: a 0.5M-parameter Qwen2-VL learns to answer from 200 labelled rooms"
train sft "$OUT/sft" experiment=demo_sft data="$OUT/data/cold"

say "3/4 train grpo: 64 questions x 8 rollouts a step on rooms it has never seen, rewards only"
train grpo "$OUT/grpo" experiment=demo_grpo model.path="$OUT/sft/final" data="$OUT/data/rl"

say "4/4 eval: both models on the held-out rooms: greedy, sampled, and with the videos of other rooms"
for model in sft grpo; do
  common=(experiment=demo_eval model="$OUT/$model/final" benchmark.path="$OUT/data/test")
  "$VSGRPO" eval "${common[@]}" output="$OUT/$model/eval_greedy" >&2
  "$VSGRPO" eval "${common[@]}" decoding.temperature=1 decoding.num_samples=4 output="$OUT/$model/eval_sampled" >&2
  "$VSGRPO" eval "${common[@]}" video.shuffle=true output="$OUT/$model/eval_shuffled" >&2
done

say "trust report: the GRPO model blind, with grey frames, with the first frame and with another room's video"
"$VSGRPO" eval experiment=demo_eval model="$OUT/grpo/final" benchmark.path="$OUT/data/test" trust=true \
  output="$OUT/grpo/eval_trust" >&2

"$PYTHON" scripts/demo_table.py --constants "$OUT/data/rl/train.jsonl" --rows "$OUT/data/test/train.jsonl" \
  "SFT cold start=$OUT/sft" "GRPO=$OUT/grpo"
say "report: rooms, questions, curves, scores with controls, five answers with their frames; open this file in a browser"
"$PYTHON" scripts/demo_page.py "$OUT"
say "done in $((SECONDS - start)) s; models: $OUT/sft/final $OUT/grpo/final, logs: $OUT/*/log.jsonl"
