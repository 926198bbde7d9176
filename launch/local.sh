#!/usr/bin/env bash
# Train in several processes of this machine, one a GPU (or each with fake CPU devices).
#
#   launch/local.sh 4 --config configs/vit_ft.py --workdir runs/flowers
#   DEVICES=4 launch/local.sh 2 --config configs/smoke.py --workdir runs/smoke      # on CPU
#
# Ends with the highest exit code of its processes: 75 means that the same command goes on.
set -euo pipefail

if [[ $# -lt 2 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: ${0##*/} NUM_PROCESSES TRAIN_ARGUMENTS..." >&2
  exit 2
fi
num=$1
shift
port=${PORT:-$((20000 + RANDOM % 20000))}
export JTL_COORDINATOR=127.0.0.1:$port JTL_NUM_PROCESSES=$num
if [[ -n ${DEVICES:-} ]]; then
  export JAX_PLATFORMS=cpu
  export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$DEVICES"
fi

pids=()
for ((id = 0; id < num; id++)); do
  own=(JTL_PROCESS_ID="$id")
  [[ -n ${DEVICES:-} ]] || own+=(JTL_LOCAL_DEVICES="$id")
  env "${own[@]}" "${PYTHON:-python}" -m jtl.main "$@" &
  pids+=("$!")
done
# Each process answers it; all agree at which step they stop.
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT HUP

highest=0
for pid in "${pids[@]}"; do
  while true; do
    code=0
    wait "$pid" || code=$?
    # A signal to this script ends the wait, not the process.
    kill -0 "$pid" 2>/dev/null || break
  done
  ((code <= highest)) || highest=$code
done
exit "$highest"
