#!/bin/bash
# One vLLM server on each GPU that is named, on ports PORT, PORT + 1, ...; a server that dies is started again.
# Usage: MODEL=runs/x/final HOST=127.0.0.1 PORT=8000 scripts/slurm/servers.sh 0 1 -- serve.max_model_len=12288
# VSGRPO_VLLM_PYTHON names the Python of vLLM's environment (docs/engine.md). Logs: server-PORT.log in LOGS (.).
set -euo pipefail
GPUS=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do GPUS+=("$1"); shift; done
shift || true

serve() {  # a wrong setting (exit code 2) stays wrong
  local code
  while true; do
    code=0
    CUDA_VISIBLE_DEVICES=$1 vsgrpo serve model="$MODEL" serve.host="${HOST:-127.0.0.1}" serve.port="$2" "${@:3}" || code=$?
    if [ $code -eq 2 ]; then return; fi
    sleep "${PAUSE:-5}"
  done
}

set -m  # each server has a process group of its own
port=${PORT:-8000}
PIDS=()
stop() { for pid in "${PIDS[@]}"; do kill -- "-$pid" 2>/dev/null || true; done; }
trap stop EXIT
trap 'exit 143' TERM
for gpu in "${GPUS[@]}"; do
  serve "$gpu" "$port" "$@" >>"${LOGS:-.}/server-$port.log" 2>&1 &
  PIDS+=($!)
  port=$((port + 1))
done
wait
