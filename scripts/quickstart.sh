#!/usr/bin/env bash
# Install, then generate the practice set, train, test and export.
set -euo pipefail
source "$(dirname "$0")/set_up.sh" openvino

animals() { .venv/bin/python -m animals_pl "$@"; }

echo; echo "== train on the practice set"
animals fit --config configs/quickstart.yaml
run=$(ls -dt checkpoints/quickstart/version_* | head -1)

echo; echo "== test on held-out images"
animals test --ckpt_path "$run/best.ckpt"

echo; echo "== export"
animals export --ckpt_path "$run/best.ckpt" --output "$run/model.onnx"

cat <<END

Done. Next steps:
  loss and accuracy     $run/curves.png
  exported model        $run/model.onnx
  TensorBoard           .venv/bin/tensorboard --logdir checkpoints
  dataset report        .venv/bin/python -m animals_pl analyze datasets/practice
  predictions           .venv/bin/python -m animals_pl predict datasets/practice/gatto --ckpt_path $run/best.ckpt
  your own images       .venv/bin/python -m animals_pl fit --config configs/mobilenetv3_small_best.yaml --data.root YOUR_IMAGES
END
