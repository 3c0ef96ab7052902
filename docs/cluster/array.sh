#!/bin/bash
# A SLURM job array that scans a folder or a list of slides into one folder of maps:
#
#   sbatch --array=1-16 array.sh slides/ maps
#
# Each task scans its shard; a task that is submitted again resumes. Without --shard every task takes
# slides that no other is at, which is even if slides differ much in size; tasks that end while others
# still scan then exit with 75.
#SBATCH --job-name=slidescan
#SBATCH --cpus-per-task=4
#SBATCH --mem=4G
#SBATCH --time=08:00:00
#SBATCH --output=slidescan-%A-%a.log
set -euo pipefail

slides=${1:?usage: sbatch --array=1-N array.sh SLIDES MAPS}
maps=${2:?usage: sbatch --array=1-N array.sh SLIDES MAPS}

# exec: SLURM's SIGTERM at the time limit reaches slidescan itself, which then keeps finished blocks.
exec slidescan heatmap "$slides" --out "$maps" --quiet \
    --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
