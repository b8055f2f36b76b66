#!/usr/bin/env bash
# One process for each GPU, on any number of nodes:
#
#   sbatch --nodes=2 --ntasks-per-node=4 --gpus-per-node=4 launch/slurm.sh \
#       pretrain --config=pretrain_bigearthnet_v2:base --config.data.records=records --workdir=runs/base
#
# --ntasks-per-node=1 gives one process a node, which uses all its GPUs. Two minutes before the time limit SLURM sends
# SIGUSR1 to all processes: the run is saved, ends with exit code 75, and this job is put back into the queue.
#SBATCH --job-name=sarwmix
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-8}"  # which srun does not take from the job since SLURM 22.05
srun --kill-on-bad-exit=1 --label "${SARWMIX:-sarwmix}" "$@"
code=$?
if [ "$code" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
