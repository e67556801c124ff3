#!/usr/bin/env bash
# Trains on all hosts of a Cloud TPU slice; starts again after a failure or a preemption.
#
#   TPU_NAME=my-slice ZONE=us-east5-b INSTALL=1 launch/tpu_pod.sh --config=configs/mux_bert.py:size=base --workdir=gs://my-bucket/run
#
# It takes the arguments of launch/pretrain.py. Ctrl-C or SIGTERM saves a checkpoint and stops all hosts.
#
#   TPU_NAME, ZONE                      the slice
#   INSTALL=1                           copy the project to the hosts and install it
#   ACCELERATOR_TYPE, RUNTIME_VERSION   ask for a spot slice of this type where there is none (v6e-64, v2-alpha-tpuv6e)
#   RESTARTS                            how many times to start again (10)
set -euo pipefail

fail() { echo "tpu_pod: $*" >&2; exit 2; }
[ -n "${TPU_NAME:-}" ] || fail "TPU_NAME is needed: the name of the slice"
[ -n "${ZONE:-}" ] || fail "ZONE is needed: the zone of the slice, such as us-east5-b"
[ $# -gt 0 ] || fail "the arguments of launch/pretrain.py are needed: --config=... --workdir=gs://..."
if [ -n "${ACCELERATOR_TYPE:-}" ]; then
  [ -n "${RUNTIME_VERSION:-}" ] || fail "RUNTIME_VERSION is needed with ACCELERATOR_TYPE, such as v2-alpha-tpuv6e"
  [ -n "${INSTALL:-}" ] || fail "INSTALL=1 is needed with ACCELERATOR_TYPE: nothing is installed on a new slice"
fi
command -v gcloud > /dev/null || fail "gcloud is not installed; see https://cloud.google.com/sdk"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

on_hosts() { gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$ZONE" --worker=all --command="$1"; }
queue() { gcloud compute tpus queued-resources "$1" "$TPU_NAME" --zone="$ZONE" "${@:2}"; }

obtain() { # waits for the spot slice; asks for it anew where there is none, or it was preempted
  while true; do
    state=$(queue describe --format='value(state.state)' 2> /dev/null || true)
    echo "tpu_pod: the slice is ${state:-not there}" >&2
    case $state in
      ACTIVE) return ;;
      FAILED | SUSPENDED) queue delete --force --quiet ;;
      '') queue create --node-id="$TPU_NAME" --accelerator-type="$ACCELERATOR_TYPE" \
        --runtime-version="$RUNTIME_VERSION" --spot ;;
      *) sleep 60 ;;
    esac
  done
}

install() {
  tar -czf "$archive" --exclude=__pycache__ configs launch mux_jax hatch_build.py pyproject.toml README.md LICENSE
  gcloud compute tpus tpu-vm scp "$archive" "$TPU_NAME:mux_jax.tar.gz" --zone="$ZONE" --worker=all
  on_hosts 'mkdir -p mux_jax && tar -xzf mux_jax.tar.gz -C mux_jax && bash mux_jax/launch/install.sh tpu'
}

train() {
  set -e
  trap '' INT # Ctrl-C is for `stop` alone
  [ -z "${ACCELERATOR_TYPE:-}" ] || obtain
  [ -z "${INSTALL:-}" ] || install
  on_hosts "exec bash mux_jax/launch/host.sh $(printf '%q ' "$@")"
}

stop() { # the hosts save and end; what does not run there yet is just ended
  on_hosts 'xargs kill -TERM < ~/.mux_jax.pid' || kill "$job" || true
  wait "$job" || true
  echo "tpu_pod: stopped; the same command continues" >&2
  exit 143
}

archive=$(mktemp)
trap 'rm -f "$archive"' EXIT
for ((restart = 0; ; restart++)); do
  train "$@" &
  job=$!
  trap stop INT TERM
  status=0
  wait "$job" || status=$?
  [ "$status" != 0 ] || exit 0
  [ "$restart" -lt "${RESTARTS:-10}" ] || fail "ended with status $status; RESTARTS=${RESTARTS:-10} are used up"
  echo "tpu_pod: ended with status $status; starts again in a minute" >&2
  sleep 60
done
