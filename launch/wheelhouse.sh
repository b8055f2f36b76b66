#!/usr/bin/env bash
# All wheels of an offline install, for a cluster without the internet.
#
#   with the internet:     launch/wheelhouse.sh wheels cuda13      (extras: cuda12, cuda13, tensorboard, test; or none)
#   on the cluster:        python3 -m venv venv && venv/bin/pip install --no-index --find-links wheels "sarwmix_jax[cuda13]"
#
# Run it with the Python version and on the kind of machine (Linux, processor) of the cluster. wheels/LIST names what it
# took.
set -euo pipefail
target=${1:?folder for the wheels}
extras=${2:-}
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$target"
"${PYTHON:-python3}" -m pip wheel --wheel-dir "$target" "$root${extras:+[$extras]}"
(cd "$target" && ls ./*.whl | sed 's|^\./||') > "$target/LIST"
echo "$(wc -l < "$target/LIST") wheels, $(du -sh "$target" | cut -f1) in $target"
