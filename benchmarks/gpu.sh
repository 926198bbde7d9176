#!/usr/bin/env bash
# Everything that is to be known of one NVIDIA card, unattended, in under 9 minutes, with no network: the tests
# marked gpu, jtl beside PyTorch, end to end, and XLA's settings one by one. Leaves one JSON record.
#
#   benchmarks/gpu.sh [--out FILE] [--seconds 520] [--small]
#
# PYTHON chooses the interpreter. WHEELS names a folder of wheels for packages that the machine lacks; they are
# unpacked beside this run and nowhere else.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}

if [[ -n "${WHEELS:-}" ]]; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  "$python" -m pip install -q --no-index --no-deps --target "$site" "$WHEELS"/*.whl
  export PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$site"
fi
# The CPU beside the card, for the numbers that the card's are compared with.
if command -v nvidia-smi >/dev/null; then
  export JAX_PLATFORMS="${JAX_PLATFORMS:-cuda,cpu}"
fi
"$python" -m benchmarks.gpu "$@"
