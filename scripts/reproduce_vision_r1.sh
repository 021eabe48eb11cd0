#!/usr/bin/env bash
# arXiv 2503.06749 from data to MathVista: import-data -> cold start -> PTST and its ablations -> eval -> report.
#
# You download: Osilly/Vision-R1-cold (COLD: its folder of json files and images), Osilly/Vision-R1-rl (RL: its parquet
# files), AI4Math/MathVista (MATHVISTA: testmini parquet, or its folder), Qwen/Qwen2.5-VL-7B-Instruct (on first use).
# Instead of COLD, DATA_COLD may name a folder that `vsgrpo build-cot` wrote.
# What it costs is estimated in docs/vision_r1.md; the experiments ask for 8 GPUs (LAUNCH="launch.num_processes=4" and so on).
# A second run goes on where the first stopped. ROWS chooses: "rl zero long" (default); the cold start is always made.
set -euo pipefail
RL=${RL:?parquet files of Vision-R1-rl, or of any file of its form}
MATHVISTA=${MATHVISTA:?testmini of MathVista}
OUT=${OUT:-runs}
DATA_RL=${DATA_RL:-data/vision_r1_rl}
DATA_COLD=${DATA_COLD:-data/vision_r1_cold}
ROWS=${ROWS:-rl zero long}
read -r -a LAUNCH <<<"${LAUNCH:-}"
read -r -a GRPO <<<"${GRPO:-}"  # further overrides of GRPO runs
read -r -a EVAL <<<"${EVAL:-}"  # of evaluations
VSGRPO=${VSGRPO:-vsgrpo}
say() { printf '\n== %s\n' "$*" >&2; }

# Train unless it is done; an interrupted run goes on from its last checkpoint.
train() {
  local method=$1 experiment=$2 dir=$3 flag=--overwrite
  shift 3
  if [ -d "$dir/final" ]; then say "$dir/final is there already"; return; fi
  if ls -d "$dir"/checkpoint-* >/dev/null 2>&1; then flag=--resume; fi
  say "train $experiment"
  "$VSGRPO" train "$method" "experiment=$experiment" "output=$dir" "$@" "${LAUNCH[@]}" "$flag"
}

# Score a trained model; its predictions go on where they stopped.
score() {
  say "MathVista: $2"
  "$VSGRPO" eval "experiment=$1" "model=$2/final" "benchmark.path=$MATHVISTA" "output=$2/mathvista" "${EVAL[@]}"
}

if [ ! -f "$DATA_RL/manifest.json" ]; then
  # shellcheck disable=SC2086  # several files
  "$VSGRPO" import-data $RL format=images dataset=vision_r1_rl data.dev_fraction=0 "output=$DATA_RL"
fi
if [ ! -f "$DATA_COLD/manifest.json" ]; then
  COLD=${COLD:?folder of Vision-R1-cold, with its json files and images}
  "$VSGRPO" import-data "$COLD"/*.json format=images "images=$COLD" dataset=vision_r1_cold data.dev_fraction=0 "output=$DATA_COLD"
fi

cold=$OUT/vision_r1_cold
train sft vision_r1_cold "$cold" "data=$DATA_COLD"
score vision_r1_ci "$cold"
trained=("$cold")
for row in $ROWS; do
  case $row in
    rl | rl_3 | long) start=("model.path=$cold/final") ;;
    zero) start=() ;;
    *) echo "ROWS: $row is none of rl rl_3 zero long" >&2; exit 2 ;;
  esac
  dir=$OUT/vision_r1_$row
  train grpo "vision_r1_$row" "$dir" "data=$DATA_RL" "${start[@]}" "${GRPO[@]}"
  score vision_r1_mathvista "$dir"
  trained+=("$dir")
done
say "report"
"$VSGRPO" report "${trained[@]}"
