#!/usr/bin/env bash
# A blend from nothing, offline and on a CPU, in some minutes: composes pairs whose truth is known, looks at what each loss
# moves, trains, tells how far the windows are from the truth, and blends two clips that the training never saw.
# The codec is the bundled sketch-24khz, which knows synthetic music alone; recordings want facebook/encodec_24khz.
#
#   runs/blend-cpu.sh                               everything goes to out/blend-cpu
#   STEPS=200 PAIRS=192 runs/blend-cpu.sh           more of it; FOLDER, VALID_PAIRS, BATCH and VALIDATE_EVERY likewise
#   runs/blend-cpu.sh recipe.decode_seconds=0.5     any key of the config, as section.key=value
#
# Interrupted? Run it again: what is done stays done.
set -euo pipefail
cd "$(dirname "$0")/.."
hemiola=${HEMIOLA:-.venv/bin/hemiola}
folder=${FOLDER:-out/blend-cpu}
steps=${STEPS:-40}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc)}

settings=(
  run.accelerator=cpu
  run.folder="$folder/run"
  run.steps="$steps"
  run.batch="${BATCH:-4}"
  run.validate_every_steps="${VALIDATE_EVERY:-10}"
  run.checkpoint_every_steps="${VALIDATE_EVERY:-10}"
  run.log_every_steps=1
  data.folder="$folder/pairs"
  data.synthetic.pairs="${PAIRS:-64}"
  data.synthetic.valid_pairs="${VALID_PAIRS:-16}"
  "$@"
)
config=(--config configs/blend-planted.yaml)

echo "codec: sketch-24khz, the bundled one (unless codec.path says otherwise)"
echo "== what each loss moves, by the size of its gradients"
$hemiola train blend audit "${config[@]}" "${settings[@]}"

echo "== training for $steps steps"
$hemiola train blend "${config[@]}" --auto-resume "${settings[@]}"

echo "== windows of held-out pairs beside the truth; with 24 s clips chance is 4.9 s and 0.13"
awk -F, '
  NR == 1 { for (i = 1; i <= NF; i++) column[$i] = i; next }
  $column["valid/lag_median_seconds"] != "" {
    printf "after %4d steps: median lag error %5.2f s, tempi within 5 %%: %.2f, loss %.3f\n", $column["step"] + 1,
      $column["valid/lag_median_seconds"], $column["valid/tempo_right"], $column["valid/loss"]
  }' "$folder/run/metrics.csv"

echo "== a blend of two clips that the training never saw"
clips=$folder/pairs/clips
$hemiola blend "$clips/valid-000000-input.flac" "$clips/valid-000000-target.flac" \
  --checkpoint "$folder/run/checkpoint" -o "$folder/blend" --pictures --force
echo "hear $folder/blend/blend-1.wav, see blend-1.png beside it, and $folder/run/validation for what training heard"
