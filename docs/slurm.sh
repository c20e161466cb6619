#!/bin/bash
# Workers on Slurm: one for each GPU of a task. docs/clusters.md says how to use it.
#SBATCH --job-name=tuner-worker
#SBATCH --array=0-3
#SBATCH --ntasks=1
#SBATCH --gpus=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=08:00:00
#SBATCH --signal=TERM@120
#SBATCH --output=tuner-worker-%A_%a.log
set -euo pipefail

: "${TUNER_URL:?the address of the server}"
: "${TUNER_TOKEN:?a token with the scope work}"
: "${TUNER_HOME:?a folder on storage that all nodes share, for checkpoints}"

export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
exec srun tuner worker --name "slurm-${SLURM_ARRAY_JOB_ID:-0}-${SLURM_ARRAY_TASK_ID:-0}"
