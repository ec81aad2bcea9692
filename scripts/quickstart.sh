#!/usr/bin/env bash
# Set-up and the main job on a fresh machine: generate the practice set, train, test, export.
set -euo pipefail
source "$(dirname "$0")/set_up.sh"

animals() { .venv/bin/python -m animals_pl "$@"; }

echo; echo "== train on the practice set"
animals fit --config configs/quickstart.yaml
run=$(ls -dt checkpoints/quickstart/version_* | head -1)

echo; echo "== test on images that the training has not seen"
animals test --ckpt_path "$run/best.ckpt"

echo; echo "== export"
animals export --ckpt_path "$run/best.ckpt" --output "$run/model.onnx"

cat <<END

done. What to open next:
  $run/curves.png                        loss and accuracy over the epochs
  .venv/bin/tensorboard --logdir checkpoints    curves, images, confusion matrices, settings
  $run/model.onnx                        the model, for onnxruntime
  .venv/bin/python -m animals_pl analyze datasets/practice    what is in the images, as a page
  .venv/bin/python -m animals_pl predict datasets/practice/gatto --ckpt_path $run/best.ckpt
  .venv/bin/python -m animals_pl fit --config configs/mobilenetv3_small_frozen.yaml --data.root YOUR_IMAGES
END
