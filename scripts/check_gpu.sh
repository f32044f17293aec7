#!/usr/bin/env bash
# Everything that needs a CUDA device, in under nine minutes: the tests marked gpu, the real command (interrupted,
# continued, merged, asked), and the tables of a training step. Results go to FOLDER: results.json, table.md, logs.
#
#   scripts/check_gpu.sh [--dry] [--wheels WHEELS] [FOLDER]
#
# --dry runs the same on a CPU with tiny shapes, so that no typo waits for a GPU. WHEELS is a folder that
# scripts/offline_wheels.py made, for a machine with PyTorch and transformers but without a network.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
options=() out=$root/outputs/gpu wheels=
while [ $# -gt 0 ]; do
    case $1 in
        --dry) options+=(--dry) ;;
        --wheels) wheels=$2; shift ;;
        -*) echo "error: $1 is no option of check_gpu.sh" >&2; exit 2 ;;
        *) out=$1 ;;
    esac
    shift
done
mkdir -p "$out"
out=$(cd "$out" && pwd)
if [ -n "$wheels" ]; then
    python3 -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$out/site" "$wheels"/*.whl
    export PYTHONPATH="$out/site${PYTHONPATH:+:$PYTHONPATH}"
fi
cd "$root"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec python3 scripts/gpu_check.py "$out" ${options[@]+"${options[@]}"}
