#!/usr/bin/env bash
# Qwen3-VL by the recipe of arXiv 2504.00883: build-data -> untrained model's score -> SFT, vsGRPO-V, vsGRPO-T -> scores -> report.
#
# Untrained, the GPD paper's harness gives Qwen3-VL-2B 51.3 and 4B 55.4 on VSI-Bench (ReVSI's gives 8B 57.4): look at ours first.
# You download: Qwen/Qwen3-VL-2B-Instruct (Hugging Face, fetched on first use, or a folder in MODEL), ScanNet v2 scans
# under ScanNet's terms of use (SCANNET), VSI-Bench from nyu-visionx/VSI-Bench (VSIBENCH). SIZE chooses 2b (default), 4b or 8b.
# The experiments ask for 8 GPUs (LAUNCH="launch.num_processes=4" and so on). Never run here.
# A second run goes on where the first stopped. ROWS chooses: "sft v t" (default), e.g. ROWS="v".
set -euo pipefail
cd "$(dirname "$0")/.."
SCANNET=${SCANNET:?folder of ScanNet v2, with scans/ inside}
VSIBENCH=${VSIBENCH:?folder of VSI-Bench}
SIZE=${SIZE:-2b}
MODEL=${MODEL:-Qwen/Qwen3-VL-${SIZE^^}-Instruct}
OUT=${OUT:-runs}
DATA=${DATA:-data/vsi100k}
ROWS=${ROWS:-sft v t}
read -r -a LAUNCH <<<"${LAUNCH:-}"
VSGRPO=${VSGRPO:-vsgrpo}
say() { printf '\n== %s\n' "$*" >&2; }

# Score a model in one mode, with two controls: nothing shown, and nothing but the times of frames.
evaluate() {
  local mode=$1 model=$2 dir=$3
  "$VSGRPO" eval "experiment=table2_eval_$mode" "model=$model" "benchmark.path=$VSIBENCH" "output=$dir" "controls=[blank,timing]"
}

# Train unless it is done; an interrupted run goes on from its last checkpoint.
train() {
  local method=$1 experiment=$2 dir=$3 flag=--overwrite
  if [ -d "$dir/final" ]; then say "$dir/final is there already"; return; fi
  if ls -d "$dir"/checkpoint-* >/dev/null 2>&1; then flag=--resume; fi
  "$VSGRPO" train "$method" "experiment=$experiment" "data=$DATA" "output=$dir" "model.path=$MODEL" "${LAUNCH[@]}" "$flag"
}

say "build-data: VSI-100k from $SCANNET"
"$VSGRPO" build-data source=scannet "source.root=$SCANNET" balance.mode=paper "output=$DATA"
say "untrained: $MODEL"
evaluate v "$MODEL" "$OUT/qwen3_vl_${SIZE}_untrained"

trained=()
for row in $ROWS; do
  case $row in
    sft) method=sft modes=v ;;
    v) method=grpo modes=v ;;
    t) method=grpo modes="v t" ;;
    *) echo "ROWS: $row is none of sft v t" >&2; exit 2 ;;
  esac
  experiment=qwen3_vl_${SIZE}_$row
  say "$experiment"
  train "$method" "$experiment" "$OUT/$experiment"
  for mode in $modes; do
    evaluate "$mode" "$OUT/$experiment/final" "$OUT/$experiment/eval_$mode"
  done
  trained+=("$OUT/$experiment")
done
say "report"
"$VSGRPO" report "${trained[@]}"
