#!/usr/bin/env bash
# Trains on this host of a TPU slice; the starters run it on every host.
#
#   launch/host.sh --config=configs/mux_bert.py:size=base --workdir=gs://my-bucket/run
#
# It takes the arguments of launch/pretrain.py. SIGTERM is passed on to Python, which saves a checkpoint. The exit
# status is Python's, but 143 after SIGTERM: Python's 0 would be taken for the end of the run.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH="$PWD/.venv/bin:$PATH"
command -v python > /dev/null || { echo "host: python is not installed; launch/install.sh tpu installs it" >&2; exit 2; }

# One run at a time: an earlier one, left by a lost connection, saves and stops first.
exec 9> "$HOME/.mux_jax.lock"
flock --nonblock 9 || { kill -TERM "$(cat "$HOME/.mux_jax.pid")" || true; flock 9; }
echo $$ > "$HOME/.mux_jax.pid"

stopped=
child=
trap 'stopped=1; [ -z "$child" ] || kill -TERM "$child" || true' TERM
python launch/pretrain.py "$@" &
child=$!
[ -z "$stopped" ] || kill -TERM "$child"
status=0
wait "$child" || status=$?
if [ -n "$stopped" ]; then # the signal ended the first wait
  status=0
  wait "$child" || status=$?
  [ "$status" != 0 ] || status=143
fi
exit "$status"
