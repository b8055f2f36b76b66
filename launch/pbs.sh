#!/usr/bin/env bash
# One process for each GPU, on any number of nodes. From the root of the repository, with the arguments of the command in
# ARGUMENTS and the place of the program in SARWMIX (a job does not know the environment of your shell):
#
#   export SARWMIX=$(command -v sarwmix)
#   export ARGUMENTS="pretrain --config=pretrain_bigearthnet_v2:base --config.data.records=records --workdir=runs/base"
#   qsub -l select=2:ncpus=32:mpiprocs=4:ngpus=4 -v ARGUMENTS,SARWMIX launch/pbs.sh
#
# mpiprocs=1 gives one process a node, which uses all its GPUs. PBS sends SIGTERM before it ends the job (qdel -W, or
# preemption): the run is saved, ends with exit code 75, and this script puts a new job into the queue. A `mpirun` of Open
# MPI 4 or 5 must be on the PATH of jobs.
#PBS -N sarwmix
#PBS -l walltime=12:00:00
#PBS -j oe
#PBS -r y
set -uo pipefail
cd "${PBS_O_WORKDIR:-.}" || exit
: "${ARGUMENTS:?give the arguments of sarwmix: export ARGUMENTS=...; qsub -v ARGUMENTS}"
export ARGUMENTS SARWMIX="${SARWMIX:-sarwmix}"
MASTER_ADDR=$(head -n 1 "$PBS_NODEFILE")
export MASTER_ADDR
# PBS may send SIGTERM to mpirun itself, which then gives the ranks one second; here it gives them time to save.
export OMPI_MCA_odls_base_sigkill_timeout=300 PRTE_MCA_odls_base_sigkill_timeout=300
read -r -a arguments <<< "$ARGUMENTS"
# --bind-to none: else a rank and all its readers would share one core, or one part of the host.
mpirun -np "$(wc -l < "$PBS_NODEFILE")" --hostfile "$PBS_NODEFILE" --bind-to none -x MASTER_ADDR -x PATH \
    "$SARWMIX" "${arguments[@]}" &
ranks=$!
trap 'kill -USR1 "$ranks"' TERM USR1  # which mpirun passes on; at SIGTERM it would soon kill the ranks
while :; do  # a signal that the trap handles ends `wait` early
    wait "$ranks"
    code=$?
    kill -0 "$ranks" 2>/dev/null || break
done
if [ "$code" -eq 75 ]; then
    job=$(qstat -f "$PBS_JOBID" | sed ':line; N; $!b line; s/\n\t//g')  # long values are on several lines
    options=()
    for name in select walltime; do
        value=$(sed -n "s/^ *Resource_List.$name = //p" <<< "$job")
        options+=(${value:+-l "$name=$value"})
    done
    qsub "${options[@]}" -v ARGUMENTS,SARWMIX launch/pbs.sh
fi
exit "$code"
