#!/usr/bin/env bash
# Everything that needs a CUDA device, in one go: the tests (those marked gpu and the equalities, which use the device
# when there is one), then the benchmark. Results go to the folder given, or to outputs/gpu.
#
#   scripts/check_gpu.sh [FOLDER]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-outputs/gpu}
mkdir -p "$out"
python -c 'import torch; torch.cuda.is_available() or exit("error: torch sees no CUDA device")'
python -m pytest -m gpu 2>&1 | tee "$out/gpu_tests.log"
python -m pytest tests/invariant tests/unit/test_attention.py tests/unit/test_loss.py 2>&1 | tee "$out/invariants.log"
python scripts/benchmark.py train --mixed --json "$out/benchmark.json" 2>&1 | tee "$out/benchmark.log"
