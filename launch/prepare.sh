#!/usr/bin/env bash
# A record set in parts, on SLURM or PBS, and a job that puts them together when all parts are done:
#
#   launch/prepare.sh 16 bigearthnet-v2 --input DOWNLOAD --out records/bigearthnet_v2 --workers 8
#
# Options of sbatch or qsub for both jobs go into OPTIONS, such as OPTIONS="--time=2:00:00 --cpus-per-task=8". A part that
# failed is done again by the same command, which leaves finished work as it is.
set -euo pipefail
parts=${1:?number of parts, then the arguments of sarwmix prepare}
shift
program=$(command -v "${SARWMIX:-sarwmix}") || {
    echo "no sarwmix on the PATH; give SARWMIX=PLACE" >&2
    exit 2
}  # a job need not have the PATH of this shell
command="$(printf '%q ' "$program" prepare "$@")"
read -r -a options <<< "${OPTIONS:-}"
if command -v sbatch > /dev/null; then
    job=$(sbatch --parsable "${options[@]}" --array="1-$parts" --wrap="$command --shard=auto")
    sbatch "${options[@]}" --dependency="afterok:${job%%;*}" --wrap="$command --merge"
elif command -v qsub > /dev/null; then
    begin="cd $(printf '%q' "$PWD") && $command"
    job=$(qsub "${options[@]}" -J "1-$parts" -v "SARWMIX_PARTS=$parts" <<< "$begin --shard=auto")
    qsub "${options[@]}" -W "depend=afterok:$job" <<< "$begin --merge"
else
    echo "neither sbatch nor qsub is here; run the parts as: $command --shard=1/$parts" >&2
    exit 2
fi
