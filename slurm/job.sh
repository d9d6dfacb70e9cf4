# shellcheck shell=bash
# What the batch scripts of this folder share; each of them sources it. Wants ROOT, the checkout.
umask 077
SLURMTUNE_STARTED=$(date +%s.%N)
# One number for all hosts of this attempt, never used twice: a requeued job keeps its id.
SLURMTUNE_ATTEMPT=$(od -An -N3 -tx1 /dev/urandom | tr -d ' \n')
export SLURMTUNE_STARTED SLURMTUNE_ATTEMPT HDF5_USE_FILE_LOCKING=FALSE
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
# Since Slurm 22.05 srun does not inherit --cpus-per-task from sbatch.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
# Weights are fetched before by launch/prefetch.py: HF_HUB_OFFLINE=0 in the environment lets jobs ask the hub.
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1} HF_HUB_DISABLE_TELEMETRY=1
trap : TERM  # scancel and preemption send it here too: the step saves what it has, and this script says its exit code

if [ -z "${PYTHON:-}" ]; then
  PYTHON=$ROOT/.venv/bin/python
  [ -x "$PYTHON" ] || PYTHON=$(command -v python3)
fi

# python_command WORD...: the words as one command line, quoted
python_command() { printf '%q ' "$PYTHON" -u "$@"; }

# stage_once ARGUMENT...: RUN, the sweep's directory, made by the job's first start; a requeued job finds it again.
stage_once() {
  note=$PWD/.slurmtune-$SLURM_JOB_ID
  [ -s "$note" ] || eval "${CONTAINER:-} $(python_command "$ROOT/launch/submit.py" "$@" --stage-only)" > "$note" || {
    status=$?
    rm -f "$note"
    exit "$status"
  }
  RUN=$(cat "$note")
}

# run_step COMMAND: one step, one task a host. A lost task or host must not end the others: the supervisors decide.
run_step() {
  status=0  # --export: a site or a person may have jobs that hand nothing of their environment on
  if [ -n "${CONTAINER:-}" ]; then  # in it there is no scontrol and no squeue
    export SLURMTUNE_REQUEUE_WISH=$RUN/jobs/.requeue-$SLURM_JOB_ID
    [ -n "${SLURM_JOB_END_TIME:-}" ] || SLURM_JOB_END_TIME=$(date -d "$(SLURM_TIME_FORMAT=standard squeue -h -j "$SLURM_JOB_ID" -o %e)" +%s || true)
    export SLURM_JOB_END_TIME
  fi
  eval "srun --export=ALL --unbuffered --ntasks-per-node=1 --wait=0 --kill-on-bad-exit=0 --no-kill ${LOG:+--output=$(printf '%q' "$LOG")} ${CONTAINER:-} $1" || status=$?
}

# without_a_step: whether a further try makes sense. SLURM 22.05 starts a job that was queued again while a host of it was
# dying without the GPUs that it gave it ("Unable to create step ... Invalid generic resource"); the next start has them.
without_a_step() {
  local tries=$RUN/jobs/.without-step-$SLURM_JOB_ID
  [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] && echo >> "$tries" && [ "$(wc -l < "$tries")" -le 3 ]
}

# in_vain: whether the job has started three times without an attempt that got as far as the journal.
in_vain() {
  local begun
  begun=$(grep '"type": "attempt_started"' "$RUN/journal.jsonl" 2>/dev/null | grep -c "\"job\": \"$SLURM_JOB_ID\"" || true)
  [ $((${SLURM_RESTART_COUNT:-0} + 1 - begun)) -ge 3 ]
}

# exit_as_the_attempt: srun's own status tells of any task that was lost; what counts is how rank 0 says that it ended.
# Where it could not say so (a full disk), it ends with 100 more than that; srun's own 1 and 2 are of a lost task or host.
exit_as_the_attempt() {
  local said folders
  if [ -n "${SLURMTUNE_REQUEUE_WISH:-}" ] && rm "$SLURMTUNE_REQUEUE_WISH" 2>/dev/null; then
    scontrol requeue "$SLURM_JOB_ID" && sleep 30
  fi
  # shellcheck disable=SC2012  # the names are ours
  said=$(ls -t "$RUN"/attempts/*"$SLURMTUNE_ATTEMPT"*/exit.json 2>/dev/null | head -n 1 || true)
  if [ -n "$said" ]; then
    [ -z "${note:-}" ] || [ "$status" != 0 ] || rm -f "$note"
    exit "$(sed -n 's/.*"code": *\([0-9]*\).*/\1/p' "$said")"
  fi
  folders=$(ls -d "$RUN"/attempts/*"$SLURMTUNE_ATTEMPT"*/ 2>/dev/null || true)
  case ${folders:+$status} in 100 | 10[1-7] | 175) exit $((status - 100)) ;; esac
  if [ -n "$folders" ] && ! in_vain && scontrol requeue "$SLURM_JOB_ID" 2>/dev/null; then
    echo "slurmtune: the attempt's supervisor was killed; job $SLURM_JOB_ID is queued again" >&2
    sleep 30  # until SLURM ends this script
  elif [ -z "$folders" ] && without_a_step && scontrol requeue "$SLURM_JOB_ID" 2>/dev/null; then
    echo "slurmtune: SLURM gave no step to job $SLURM_JOB_ID, which it had queued again; it is queued once more" >&2
    sleep 30
  elif [ -z "$folders" ]; then
    echo "slurmtune: srun started no attempt on $RUN; submit it again by launch/submit.py --resume $RUN" >&2
  else
    echo "slurmtune: the attempt ended without a word, and job $SLURM_JOB_ID is not queued again; see the logs in" \
      "$RUN/submitit, then go on by launch/submit.py --resume $RUN" >&2
  fi
  exit 4
}
