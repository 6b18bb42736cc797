#!/usr/bin/env bash
# What became of a job, in Snakemake's words: success, failed or running.  status.sh JOB
# squeue needs no accounting database, but forgets a job minutes after its end; sacct (where there is one) does not.
job=${1%%;*}                      # "id;cluster" where there are several
state=$(squeue --noheader --states=all --jobs="$job" --format=%T 2>&1)
case $state in
  *"Invalid job id"* | "") state=$(sacct --noheader --allocations --jobs="$job" --format=State 2> /dev/null) ;;
  *error*) echo running; exit ;;  # Slurm does not answer just now
esac
read -r state _ <<< "$state"
case $state in
  COMPLETED) echo success ;;
  PENDING | RUNNING | CONFIGURING | COMPLETING | SUSPENDED | STOPPED | RESIZING | SIGNALING | STAGE_OUT) echo running ;;
  REQUEUED | REQUEUE_FED | REQUEUE_HOLD | SPECIAL_EXIT | RESV_DEL_HOLD) echo running ;;
  *) echo failed ;;               # CANCELLED, FAILED, NODE_FAIL, OUT_OF_MEMORY, PREEMPTED, TIMEOUT, unknown
esac
