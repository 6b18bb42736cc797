#!/usr/bin/env bash
# Submits one notebook, says its job's id:  submit.sh STUDY_FOLDER OUTPUTS LOG THREADS MEGABYTES MINUTES GPUS SCRIPT
# Account, partition and the like come from sbatch's own variables (SBATCH_ACCOUNT, SBATCH_PARTITION, SBATCH_QOS, ...);
# NCLIB_SLURM_GPU replaces the request for a GPU ("--gres=gpu:a100:1"; empty: none).
set -euo pipefail
folder=$1 outputs=$2 log=$3 threads=$4 megabytes=$5 minutes=$6 gpus=$7 script=$8

# The launcher may itself be a job, whose limits must not be handed on.
for name in "${!SLURM_@}"; do
  [ "$name" = SLURM_CONF ] || unset "$name"
done

name=${log%.log}
name=${name#"$outputs"/}          # STUDY/RUN/seed0/02_train
file=${name#*/}
mkdir -p "$folder/slurm"
request=()
if [ "$gpus" -gt 0 ]; then
  read -ra request <<< "${NCLIB_SLURM_GPU---gres=gpu:$gpus}"
fi
# The comment is how nclib.study.cluster finds a study's jobs again.
exec sbatch --parsable --job-name="$name" --comment="nclib $folder" --output="$folder/slurm/${file//\//-}-%j.log" \
  --nodes=1 --ntasks=1 --cpus-per-task="$threads" --mem="$megabytes" --time="$minutes" "${request[@]}" "$script"
