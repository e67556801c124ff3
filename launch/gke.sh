#!/usr/bin/env bash
# Trains on all hosts of a TPU slice of the GKE cluster that kubectl points to.
#
#   NAME=my-run ACCELERATOR=tpu-v6e-slice TOPOLOGY=4x4 launch/gke.sh --config=configs/mux_bert.py:size=base --workdir=gs://my-bucket/run
#
# It takes the arguments of launch/pretrain.py. Each host gets a copy of the project, and installs it. A run of that
# name saves a checkpoint and stops first.
#
#   NAME                    of the JobSet
#   ACCELERATOR, TOPOLOGY   of the node pool: its labels gke-tpu-accelerator and gke-tpu-topology
#   SERVICE_ACCOUNT         Kubernetes service account that may write to the workdir (default)
set -euo pipefail

fail() { echo "gke: $*" >&2; exit 2; }
[ -n "${NAME:-}" ] || fail "NAME is needed: a name for the run"
[ -n "${ACCELERATOR:-}" ] || fail "ACCELERATOR is needed: the node pool's label gke-tpu-accelerator, such as tpu-v6e-slice"
[[ ${TOPOLOGY:-} =~ ^[0-9]+(x[0-9]+)+$ ]] || fail "TOPOLOGY is needed: the node pool's label gke-tpu-topology, such as 4x4"
[ $# -gt 0 ] || fail "the arguments of launch/pretrain.py are needed: --config=... --workdir=gs://..."
command -v kubectl > /dev/null || fail "kubectl is not installed; see https://kubernetes.io/docs/tasks/tools"
HOSTS=$((${TOPOLOGY//x/*} / 4))
[ "$HOSTS" -gt 0 ] || fail "TOPOLOGY=$TOPOLOGY has fewer than the 4 chips of a host"
SERVICE_ACCOUNT=${SERVICE_ACCOUNT:-default}
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
tar -czf "$folder/code.tar.gz" --exclude=__pycache__ configs launch mux_jax hatch_build.py pyproject.toml README.md LICENSE
cat > "$folder/run.sh" << END
set -e
mkdir -p mux_jax
tar -xzf /code/code.tar.gz -C mux_jax
bash mux_jax/launch/install.sh tpu
exec bash mux_jax/launch/host.sh $(printf '%q ' "$@")
END

manifest=$(< launch/gke_jobset.yaml)
for name in NAME HOSTS ACCELERATOR TOPOLOGY SERVICE_ACCOUNT; do
  manifest=${manifest//"\${$name}"/"${!name}"}
done
kubectl delete jobset "$NAME" --ignore-not-found --cascade=foreground
kubectl delete configmap "$NAME" --ignore-not-found
kubectl create configmap "$NAME" --from-file="$folder/code.tar.gz" --from-file="$folder/run.sh"
kubectl apply -f - <<< "$manifest"
