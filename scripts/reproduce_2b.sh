#!/usr/bin/env bash
# The 2B half of arXiv 2504.00883: build-data -> train -> eval -> report, every row of Tables 1 and 2 and the ablations.
#
# You download: Qwen/Qwen2-VL-2B-Instruct (Hugging Face, fetched on first use, or a folder in MODEL), ScanNet v2 scans
# under ScanNet's terms of use (SCANNET), VSI-Bench from nyu-visionx/VSI-Bench (VSIBENCH).
# The paper gives 120 GPU hours for vsGRPO-2B alone; the experiments ask for 8 GPUs (LAUNCH="launch.num_processes=4" and so on).
# A second run goes on where the first stopped. ROWS chooses: "sft dpo v t o kl0 length" (default), e.g. ROWS="v".
set -euo pipefail
cd "$(dirname "$0")/.."
SCANNET=${SCANNET:?folder of ScanNet v2, with scans/ inside}
VSIBENCH=${VSIBENCH:?folder of VSI-Bench}
SIZE=${SIZE:-2b}
OUT=${OUT:-runs}
DATA=${DATA:-data/vsi100k}
ROWS=${ROWS:-sft dpo v t o kl0 length}
MODES=${MODES:-think observe vanilla}
read -r -a LAUNCH <<<"${LAUNCH:-}"
read -r -a GRPO <<<"${GRPO:-}"  # further overrides of GRPO runs; rows t, o, kl0, length ask vLLM servers (docs/engine.md) but for GRPO=rollout.engine=own
read -r -a MODEL <<<"${MODEL:+model.path=$MODEL}"
VSGRPO=${VSGRPO:-vsgrpo}
say() { printf '\n== %s\n' "$*" >&2; }

# vsgrpo METHOD's experiment of a row, and the evaluation modes Table 2 lists for it.
describe() {
  case $1 in
    sft | dpo) echo "$1 table2_${SIZE}_$1 v" ;;
    v) echo "grpo vsgrpo_${SIZE}_v v" ;;
    t | o) echo "grpo vsgrpo_${SIZE}_$1 v $1" ;;
    kl0) echo "grpo ablation_kl0 t" ;;
    length) echo "grpo ablation_length_reward t" ;;
    *) echo "ROWS: $1 is none of sft dpo v t o kl0 length" >&2; return 2 ;;
  esac
}

# Train unless it is done; an interrupted run goes on from its last checkpoint.
train() {
  local method=$1 experiment=$2 dir=$3 flag=--overwrite more=()
  if [ -d "$dir/final" ]; then say "$dir/final is there already"; return; fi
  if ls -d "$dir"/checkpoint-* >/dev/null 2>&1; then flag=--resume; fi
  if [ "$method" = grpo ]; then more=("${GRPO[@]}"); fi
  "$VSGRPO" train "$method" "experiment=$experiment" "data=$DATA" "output=$dir" "${MODEL[@]}" "${LAUNCH[@]}" "${more[@]}" "$flag"
}

say "build-data: VSI-100k from $SCANNET"
"$VSGRPO" build-data source=scannet "source.root=$SCANNET" balance.mode=paper "output=$DATA"

trained=()
for mode in $MODES; do
  say "Table 1: Qwen2-VL-${SIZE^^}, $mode"
  dir=$OUT/table1_${SIZE}_$mode
  "$VSGRPO" eval "experiment=table1_${SIZE}_$mode" "benchmark.path=$VSIBENCH" "output=$dir" "${MODEL[@]}"
done
for row in $ROWS; do
  read -r method experiment modes <<<"$(describe "$row")"
  say "Table 2: $experiment"
  train "$method" "$experiment" "$OUT/$experiment"
  for mode in $modes; do
    dir=$OUT/$experiment/eval_$mode
    "$VSGRPO" eval "experiment=table2_eval_$mode" "model=$OUT/$experiment/final" "benchmark.path=$VSIBENCH" "output=$dir"
  done
  trained+=("$OUT/$experiment")
done
say "report"
"$VSGRPO" report "${trained[@]}"
