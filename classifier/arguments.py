"""From the words of the command line to what is asked for. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from classifier.config import TOP_LEVEL_KEYS
from classifier.errors import ConfigError


@dataclass(frozen=True)
class Mode:
    """What is true of something that the program can be asked to do.

    Args:
        flags: By which it is asked for.
        words: First words of a command line that mean the same; Lightning users type them.
        trains: Its configuration is that of a training, whole; else a checkpoint's evaluation.
        resumes_last: `ckpt_path: last` is the newest unfinished run.
        needs_checkpoint: There is nothing to do without one.
    """

    flags: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    trains: bool = False
    resumes_last: bool = False
    needs_checkpoint: bool = False


MODES = {
    "train": Mode(words=("fit", "train"), trains=True, resumes_last=True),
    "validate": Mode(("--val", "--validate"), ("validate",), needs_checkpoint=True),
    "test": Mode(("--test",), ("test",), needs_checkpoint=True),
    "predict": Mode(("--predict",), ("predict",), needs_checkpoint=True),
    "export": Mode(("--export",), needs_checkpoint=True),
    "check": Mode(("--check",), trains=True),
    "lr_find": Mode(("--lr_find",), ("lr_find",), trains=True, resumes_last=True),
}
_WORDS = {word: name for name, mode in MODES.items() for word in mode.words}
_MODE_FLAGS = {flag: name for name, mode in MODES.items() for flag in mode.flags}
_FLAGS = (
    *_MODE_FLAGS,
    "--config",
    "--ckpt_path",
    "--allow_module",
    "--print_config",
    "--strict",
    "--help",
)

HELP = """\
Train, evaluate and use an image classifier from one YAML file.

Modes
  python main.py --config FILE                      train; sweep if optuna.tune is true
  python main.py --val --ckpt_path CKPT             evaluate on the validation split
  python main.py --test --ckpt_path CKPT            evaluate on the test split
  python main.py --predict [PATH ...] --ckpt_path CKPT
                                                    predict images, folders, or the configured one
  python main.py --check --config FILE              verify configuration and data, train nothing
  python main.py --lr_find --config FILE            suggest a learning rate, change nothing
  python main.py --print_config --config FILE       print the resolved configuration

  fit, validate, test, predict and lr_find as a first word mean the same as the flags.
  CKPT is a .ckpt file or a run folder, which stands for its best checkpoint. With a checkpoint no
  --config is needed: it carries its configuration, class names and preprocessing.

Options
  --config FILE          YAML; may be given several times, later files win
  --ckpt_path CKPT       in training: resume from it; `last` resumes the newest unfinished run
  --strict               with --check: end with code 2 on a warning, too
  --allow_module NAME    trust a checkpoint that names classes of your own package NAME
  --<key> VALUE          override any key of the configuration, list items by their index

Common keys
  --custom_folder_name NAME                         name of the experiment: runs/NAME/<time>/
  --seed_everything 42
  --model.init_args.model_name timm/resnet18.a1_in1k
  --model.init_args.freeze_encoder 0.5
  --model.init_args.optimizer_config.lr 1e-3
  --data.init_args.batch_size 32
  --data.init_args.dataset_classes.train.init_args.root data/train
  --trainer.max_epochs 20
  --trainer.devices 1

Examples
  python main.py --config configs/quickstart.yaml
  python main.py --config configs/folder.yaml --trainer.max_epochs 5
  python main.py --config configs/sweep.yaml        the same command again goes on with it
  python main.py --predict holiday/ --ckpt_path runs/folder/2026-11-21_10-30-00

All keys, generated from the code: python main.py --help all
"""


@dataclass
class Command:
    """What is asked for.

    Args:
        mode: One of MODES.
        configs: Configuration files, later ones win.
        overrides: (dotted key, text) pairs in the order given.
        ckpt_path: A checkpoint file, a run folder, or `last`; None without one.
        paths: Images and folders to predict.
        export_format: What to export to.
        allowed: Packages of the user's own that a checkpoint may name.
        print_config: Print the resolved configuration and stop.
        strict: Let --check refuse warnings, too.
        help: `short`, `all` or None.
    """

    mode: str = "train"
    configs: list[str] = field(default_factory=list)
    overrides: list[tuple[str, str]] = field(default_factory=list)
    ckpt_path: str | None = None
    paths: list[str] = field(default_factory=list)
    export_format: str | None = None
    allowed: list[str] = field(default_factory=list)
    print_config: bool = False
    strict: bool = False
    help: str | None = None


def parse(words: Sequence[str]) -> Command:
    """Read the command line.

    Args:
        words: As in sys.argv[1:].

    Raises:
        ConfigError: names the word and what to write instead.
    """
    command = Command()
    tokens = list(_split(words))
    mode_flag: str | None = None
    if tokens and tokens[0] in _WORDS:
        mode_flag = tokens.pop(0)
        command.mode = _WORDS[mode_flag]
        if command.mode == "predict":
            command.paths = _take_values(tokens)
    while tokens:
        token = tokens.pop(0)
        if token in _MODE_FLAGS:
            _set_mode(command, token, mode_flag, tokens)
            mode_flag = token
        else:
            _set_option(command, token, tokens)
    _check(command, mode_flag)
    return command


def _set_mode(command: Command, flag: str, earlier: str | None, tokens: list[str]) -> None:
    if earlier is not None:
        raise ConfigError(
            flag, f"stands beside {earlier}; a command does one thing", remedy="Keep one of the two"
        )
    command.mode = _MODE_FLAGS[flag]
    if flag == "--predict":
        command.paths = _take_values(tokens)
    elif flag == "--export":
        command.export_format = _take_value(flag, tokens)


def _set_option(command: Command, token: str, tokens: list[str]) -> None:
    if token in ("-h", "--help"):
        command.help = tokens.pop(0) if tokens[:1] == ["all"] else "short"
    elif token in ("-c", "--config"):
        command.configs.append(_take_value(token, tokens))
    elif token == "--ckpt_path":
        command.ckpt_path = _take_value(token, tokens)
    elif token == "--allow_module":
        command.allowed.append(_take_value(token, tokens))
    elif token == "--print_config":
        command.print_config = True
    elif token == "--strict":
        command.strict = True
    else:
        command.overrides.append((_key(token), _take_value(token, tokens)))


def _split(words: Sequence[str]) -> Iterator[str]:
    """`--key=value` as two words."""
    for word in words:
        if word.startswith("--") and "=" in word:
            key, _, value = word.partition("=")
            yield key
            yield f"\0{value}"  # a value even when it begins with two dashes
        else:
            yield word


def _take_value(flag: str, tokens: list[str]) -> str:
    if not tokens or tokens[0].startswith("--"):
        raise ConfigError(flag, "needs a value", remedy=f"Write {flag} VALUE")
    return tokens.pop(0).removeprefix("\0")


def _take_values(tokens: list[str]) -> list[str]:
    values = []
    while tokens and not tokens[0].startswith("--") and tokens[0] not in ("-c", "-h"):
        values.append(tokens.pop(0).removeprefix("\0"))
    return values


def _key(token: str) -> str:
    if not token.startswith("--") or token == "--":
        raise ConfigError(
            token, "unexpected word", remedy="Options begin with two dashes; see --help",
            name=token, options=_WORDS,
        )  # fmt: skip
    key = token.removeprefix("--")
    if key.partition(".")[0] not in TOP_LEVEL_KEYS:
        options = [*_FLAGS, *(f"--{name}" for name in TOP_LEVEL_KEYS)]
        raise ConfigError(
            token, "unknown option", remedy="See --help",
            name=f"--{key.partition('.')[0]}", options=options,
        )  # fmt: skip
    return key


def _check(command: Command, mode_flag: str | None) -> None:
    if command.help:
        return
    if command.strict and command.mode != "check":
        raise ConfigError(
            "--strict", "goes with --check only", remedy="Add --check, or leave --strict out"
        )
    if MODES[command.mode].needs_checkpoint and command.ckpt_path is None:
        raise ConfigError(
            mode_flag or command.mode, "needs a checkpoint",
            remedy="Add --ckpt_path with a .ckpt file or a run folder",
        )  # fmt: skip
    if command.mode == "export":
        raise ConfigError(
            "--export", "is not available yet", got=command.export_format,
            remedy="Use --predict with the checkpoint",
        )  # fmt: skip
    has_source = command.configs or command.ckpt_path not in (None, "last")
    if not has_source:
        raise ConfigError(
            "--config", "is missing", remedy="Write --config FILE, or see --help",
        )  # fmt: skip
