#!/usr/bin/env bash
# Trains the bundled model from nothing: composes the music, trains the codec, then the language model on its tokens.
# About an hour and a half on one busy core. Interrupted? Add --resume to the step that was cut. Run from the repository root.
set -euo pipefail
cd "$(dirname "$0")/.."
hemiola=.venv/bin/hemiola

$hemiola train codec --config configs/sketch-codec.yaml
$hemiola train musicgen --config configs/sketch-musicgen.yaml
cp out/sketch-musicgen/checkpoint/* src/hemiola/assets/sketch/
$hemiola eval --model sketch --captions 50 -o out/sketch-eval.json
