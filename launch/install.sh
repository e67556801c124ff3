#!/usr/bin/env bash
# Installs the project on this machine, in .venv beside launch/.
#
#   launch/install.sh tpu|cuda13
set -euo pipefail

case ${1:-} in
  tpu | cuda13) ;;
  *) echo "install: which accelerator? launch/install.sh tpu, or cuda13" >&2; exit 2 ;;
esac
command -v python3 > /dev/null || { echo "install: python3 is not installed" >&2; exit 2; }

cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ ! -x .venv/bin/python ]; then
  if python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    python3 -m venv .venv
  else # as on Cloud TPU VMs, which have Python 3.10
    python3 -m pip install --quiet --user uv
    python3 -m uv venv --quiet --seed --python 3.12 .venv
  fi
fi
.venv/bin/python -m pip install --quiet -e ".[$1,train]" gcsfs # gcsfs reads and writes gs://
