#!/usr/bin/env bash
# Trains the bundled model from nothing: composes the music, trains the codec, then its decoder twice more, at last
# against discriminators, and the language model on the codec's tokens, first in short parts and then in whole pieces.
# About five hours on two cores, going by its stages. Interrupted? Add --resume to the step that was cut.
# Run it in a checkout where `make test` has installed what training needs.
set -euo pipefail
cd "$(dirname "$0")/.."
hemiola=.venv/bin/hemiola
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

for part in codec codec-decoder codec-adversarial; do
  $hemiola train codec --config configs/sketch-$part.yaml
done
for part in musicgen musicgen-long; do
  $hemiola train musicgen --config configs/sketch-$part.yaml
done
cp out/sketch-musicgen/checkpoint/* src/hemiola/assets/sketch/
$hemiola eval --model sketch --captions 200 -o out/sketch-eval.json
