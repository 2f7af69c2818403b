"""The text of --help."""

from __future__ import annotations

HELP = """\
Train, evaluate and use an image classifier from one YAML file.

python main.py, followed by
  --config FILE                          train; sweep if optuna.tune is true
  --config FILE --folds 5                cross-validate: a training for each fold
  --config FILE --repeat 5               the same training with 5 seeds
  --val --ckpt_path CKPT                 evaluate on the validation split
  --test --ckpt_path CKPT                evaluate on the test split
  --predict [PATH ...] --ckpt_path CKPT  predict images, folders, or the configured one
  --explain [PATH ...] --ckpt_path CKPT  show what speaks for a class: the worst errors, or these
  --compare RUN RUN ...                  which run is better, and is it more than chance
  --check --config FILE                  verify configuration and data, train nothing
  --verify_repro [N] --config FILE       do two trainings and a resumed one come to the same bits
  --lr_find --config FILE                suggest a learning rate, change nothing
  --export FORMAT [PATH ...] --ckpt_path CKPT  write onnx, torch_export, torchscript, huggingface
                                         or safetensors, verified on the run's images, or these
  --push_to_hub ORG/NAME --ckpt_path CKPT  upload to the Hugging Face Hub, private
  --print_config --config FILE           print the resolved configuration

  fit, validate, test, predict, explain, compare and lr_find as a first word mean the same.
  CKPT is a .ckpt file or a run folder, which stands for its best checkpoint. With a checkpoint no
  --config is needed: it carries its configuration, class names and preprocessing.

Options
  --config FILE          YAML; may be given several times, later files win
  --ckpt_path CKPT       in training: resume from it; `last` resumes the newest unfinished run
  --strict               with --check: end with code 2 on a warning, too
  --label_issues         with --folds: list images whose label is likely wrong (needs cleanlab)
  --output DIR           with --compare and --export: a new folder for what they write
  --precision fp16       with --export: fp32, fp16 or, of onnx, int8; also --input float, --opset 20
  --public               with --push_to_hub: let everybody see the repository
  --allow_module NAME    trust a checkpoint that names classes of your own package NAME
  --<key> VALUE          override any key of the configuration, list items by their index:
    --custom_folder_name NAME            name of the experiment: runs/NAME/<time>/
    --model.init_args.model_name timm/resnet18.a1_in1k
    --model.init_args.optimizer_config.lr 1e-3
    --data.init_args.dataset_classes.train.init_args.root data/train
    --evaluation.calibrate temperature

Examples
  python main.py --config configs/quickstart.yaml
  python main.py --config configs/folder.yaml --trainer.max_epochs 5
  python main.py --predict holiday/ --ckpt_path runs/folder/2026-11-21_10-30-00

All keys, generated from the code: python main.py --help all
"""
