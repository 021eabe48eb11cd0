#!/usr/bin/env bash
# A taste: 24 embedded rooms -> one GRPO run from random weights -> one page. `make taste` runs this; a second run trains anew.
set -euo pipefail
cd "$(dirname "$0")/.."
VSGRPO=${VSGRPO:-.venv/bin/vsgrpo}
OUT=${TASTE_DIR:-runs/taste}
start=$SECONDS

"$VSGRPO" -q build-data experiment=demo_data source.seed=3 source.num_scenes=24 output="$OUT/data" --overwrite >/dev/null
"$VSGRPO" train grpo experiment=demo_taste data="$OUT/data" output="$OUT/grpo" --overwrite
"$VSGRPO" report "$OUT/grpo"
echo "open $OUT/grpo/report.html in a browser ($((SECONDS - start)) s)" >&2
