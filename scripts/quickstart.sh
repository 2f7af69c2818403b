#!/usr/bin/env bash
# From nothing to a trained, tested digit classifier and its predictions: bash scripts/quickstart.sh
# Running it again reuses the environment and the images, and trains anew.
set -euo pipefail
cd "$(dirname "$0")/.."

bash scripts/setup.sh
python=.venv/bin/python
"$python" scripts/make_digits.py data/digits
started=$SECONDS
echo "Training on handwritten digits ..."
trained=$("$python" main.py --config configs/quickstart.yaml | tee /dev/stderr | tail -n 1)
echo "Testing on images that were not trained on ..."
tested=$("$python" main.py --test --ckpt_path "$trained" | tee /dev/stderr | tail -n 1)
echo "Predicting a folder ..."
predicted=$("$python" main.py --predict data/digits/new --ckpt_path "$trained" | tee /dev/stderr | tail -n 1)
accuracy=$("$python" -c 'import json, sys; print(round(json.load(open(sys.argv[1]))["metrics"]["test_accuracy"], 4))' "$tested/result.json")
cat <<TEXT

Done in $((SECONDS - started)) s. Test accuracy: $accuracy
  the trained model   $trained/checkpoints/best.ckpt
  the test result     $tested/result.json
  tested images       $tested/predictions.csv
  predicted folder    $predicted/predictions.csv
Your own images: put them into one folder per class, then
  .venv/bin/python main.py --config configs/folder.yaml --data.init_args.dataset_classes.train.init_args.root YOUR_FOLDER
TEXT
