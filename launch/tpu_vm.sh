#!/usr/bin/env bash
# Train on all workers of a TPU VM slice; the code and an environment are brought there first.
#
#   NAME=my-slice ZONE=us-east5-a launch/tpu_vm.sh --config configs/vit_ft.py --workdir /bucket/runs/flowers
#
# Data, weights and the run folder have to be where every worker reads them: a bucket that is mounted, or NFS.
# Exit code 75 of the last command means that the same command goes on.
set -euo pipefail

name=${NAME:?set NAME to the name of the TPU VM}
zone=${ZONE:?set ZONE to its zone}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
on_all() {
  gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"
}

gcloud compute tpus tpu-vm scp --recurse --zone="$zone" --worker=all \
  "$root/jtl" "$root/configs" "$root/pyproject.toml" "$root/README.md" "$root/LICENSE" "$name:jtl-code/"
on_all 'cd jtl-code && python3 -m venv .venv && .venv/bin/pip install -q -e ".[tpu]"'
# The workers find each other by the metadata of their slice.
on_all "cd jtl-code && JTL_DISTRIBUTED=jax .venv/bin/python -m jtl.main $(printf '%q ' "$@")"
