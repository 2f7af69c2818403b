#!/usr/bin/env bash
# From nothing to a trained, tested digit classifier and its predictions: bash scripts/quickstart.sh
# Running it again reuses the environment and the images, and trains anew.
set -euo pipefail
cd "$(dirname "$0")/.."

bash scripts/setup.sh
python=.venv/bin/python
"$python" scripts/make_digits.py data/digits
started=$SECONDS
output=$(mktemp)
trap 'rm -f "$output"' EXIT

run() { # shows what the command prints; its last line is the run folder
  "$python" main.py "$@" | tee "$output"
  folder=$(tail -n 1 "$output")
}

echo "Training on handwritten digits ..."
run --config configs/quickstart.yaml
trained=$folder
echo "Testing on images that were not trained on ..."
run --test --ckpt_path "$trained"
tested=$folder
echo "Predicting a folder ..."
run --predict data/digits/new --ckpt_path "$trained"
predicted=$folder
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
