#!/usr/bin/env bash
# Several processes on this machine, without a scheduler: one for each GPU or, with PROCESSES=N, N of them.
#
#   launch/local.sh pretrain --config=pretrain_bigearthnet_v2:base --config.data.records=records --workdir=runs/base
#   PROCESSES=2 launch/local.sh finetune ...
#
# One process can use all GPUs of a machine by itself (plain `sarwmix pretrain ...`); several are for tests of what a
# cluster does, and where reading and decoding keep one process busy. The first failure ends all; the exit code is that of the
# first process, by number, that has another than 0.
set -uo pipefail
gpus=$(ls /proc/driver/nvidia/gpus 2>/dev/null | wc -l)
processes=${PROCESSES:-$((gpus > 0 ? gpus : 1))}
port=${PORT:-$((61440 + $$ % 4000))}
numbers=()
trap 'kill -TERM "${numbers[@]}" 2>/dev/null' TERM INT HUP
for ((number = 0; number < processes; number++)); do
    devices=()
    if ((gpus && gpus % processes == 0)); then
        share=$((gpus / processes))
        devices=("--devices=$(seq -s, $((number * share)) $((number * share + share - 1)))")
    fi
    "${SARWMIX:-sarwmix}" "$@" --coordinator="127.0.0.1:$port" --processes="$processes" --process="$number" \
        "${devices[@]}" &
    numbers+=($!)
done
result=0
for number in "${numbers[@]}"; do
    while :; do  # a signal that the trap handles ends `wait` early
        wait "$number"
        code=$?
        kill -0 "$number" 2>/dev/null || break
    done
    ((result)) || result=$code
done
exit "$result"
