"""From the words of the command line to what is asked for. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from classifier.config import TOP_LEVEL_KEYS
from classifier.errors import ConfigError
from classifier.formats import FILES


@dataclass(frozen=True)
class Mode:
    """What is true of something that the program can be asked to do.

    Args:
        flags: By which it is asked for.
        words: First words of a command line that mean the same; Lightning users type them.
        trains: Its configuration is that of a training, whole; else a checkpoint's evaluation.
        resumes_last: `ckpt_path: last` is the newest unfinished run.
        needs_checkpoint: There is nothing to do without one.
        needs_config: It is about a configuration; else about what runs have left.
    """

    flags: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    trains: bool = False
    resumes_last: bool = False
    needs_checkpoint: bool = False
    needs_config: bool = True


MODES = {
    "train": Mode(words=("fit", "train"), trains=True, resumes_last=True),
    "validate": Mode(("--val", "--validate"), ("validate",), needs_checkpoint=True),
    "test": Mode(("--test",), ("test",), needs_checkpoint=True),
    "predict": Mode(("--predict",), ("predict",), needs_checkpoint=True),
    "explain": Mode(("--explain",), ("explain",), needs_checkpoint=True),
    "export": Mode(("--export",), needs_checkpoint=True),
    "check": Mode(("--check",), trains=True),
    "lr_find": Mode(("--lr_find",), ("lr_find",), trains=True, resumes_last=True),
    "push_to_hub": Mode(("--push_to_hub",), needs_checkpoint=True),
    "compare": Mode(("--compare",), ("compare",), needs_config=False),
    "verify_repro": Mode(("--verify_repro",), trains=True),
}
_WITH_PATHS = ("predict", "explain", "compare")  # words behind them are images, or runs
_WORDS = {word: name for name, mode in MODES.items() for word in mode.words}
_MODE_FLAGS = {flag: name for name, mode in MODES.items() for flag in mode.flags}
# Options that are a field of Command by their name.
_SWITCHES = ("--print_config", "--strict", "--public", "--label_issues")
_COUNTS = ("--folds", "--repeat")
_VALUES = ("--ckpt_path", "--output", "--opset", "--precision", "--input")
_FLAGS = (
    *_MODE_FLAGS, *_SWITCHES, *_COUNTS, *_VALUES, "--config", "--allow_module", "--help",
)  # fmt: skip
# What --export takes, the default first.
PRECISIONS = ("fp32", "fp16", "int8")
INPUTS = ("uint8", "float")


@dataclass
class Command:
    """What is asked for.

    Args:
        mode: One of MODES.
        configs: Configuration files, later ones win.
        overrides: (dotted key, text) pairs in the order given.
        ckpt_path: A checkpoint file, a run folder, or `last`; None without one.
        paths: Images and folders to predict, to explain or to verify an export on, or runs to
            compare.
        output: Folder for a comparison or an export; None makes one below runs/.
        export_format: A key of formats.FILES.
        opset: Of an ONNX file, at least 1; None is the exporter's choice.
        precision: One of PRECISIONS, in which an export keeps its weights; None is the first.
        input: One of INPUTS, which an export takes; None is the first.
        allowed: Packages of the user's own that a checkpoint may name.
        print_config: Print the resolved configuration and stop.
        strict: Let --check refuse warnings, too.
        repository: Of the Hugging Face Hub, that --push_to_hub uploads to.
        public: Let everybody see it.
        folds: How many folds to train; None for a single training.
        repeat: How many seeds to train with; None for a single training.
        label_issues: List likely wrong labels after the folds.
        help: `short`, `all` or None.
        num_steps: Optimizer steps that --verify_repro compares, at least 2.
        words: All of it, as it was given.
    """

    mode: str = "train"
    configs: list[str] = field(default_factory=list)
    overrides: list[tuple[str, str]] = field(default_factory=list)
    ckpt_path: str | None = None
    paths: list[str] = field(default_factory=list)
    output: str | None = None
    export_format: str | None = None
    opset: int | None = None
    precision: str | None = None
    input: str | None = None
    allowed: list[str] = field(default_factory=list)
    print_config: bool = False
    strict: bool = False
    repository: str | None = None
    public: bool = False
    folds: int | None = None
    repeat: int | None = None
    label_issues: bool = False
    help: str | None = None
    num_steps: int = 6
    words: Sequence[str] = ()


def parse(words: Sequence[str]) -> Command:
    """Read the command line.

    Args:
        words: As in sys.argv[1:].

    Raises:
        ConfigError: names the word and what to write instead.
    """
    command = Command(words=tuple(words))
    tokens = list(_split(words))
    mode_flag: str | None = None
    if tokens and tokens[0] in _WORDS:
        mode_flag = tokens.pop(0)
        command.mode = _WORDS[mode_flag]
        if command.mode in _WITH_PATHS:
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
    if command.mode in _WITH_PATHS:
        command.paths = _take_values(tokens)
    elif flag == "--export":
        given = _take_values(tokens)
        command.export_format = given[0] if given else ""
        command.paths = given[1:]
    elif flag == "--push_to_hub":
        command.repository = _take_value(flag, tokens)
    elif flag == "--verify_repro" and tokens and not tokens[0].startswith("-"):
        command.num_steps = _take_count(flag, tokens)


def _set_option(command: Command, token: str, tokens: list[str]) -> None:
    if token in ("-h", "--help"):
        command.help = tokens.pop(0) if tokens[:1] == ["all"] else "short"
    elif token in ("-c", "--config"):
        command.configs.append(_take_value(token, tokens))
    elif token == "--allow_module":
        command.allowed.append(_take_value(token, tokens))
    elif token in _SWITCHES:
        setattr(command, token.removeprefix("--"), True)
    elif token in _COUNTS:
        setattr(command, token.removeprefix("--"), _take_count(token, tokens))
    elif token == "--opset":
        command.opset = _take_count(token, tokens, least=1, example=20)
    elif token in _VALUES:
        setattr(command, token.removeprefix("--"), _take_value(token, tokens))
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


def _take_count(flag: str, tokens: list[str], least: int = 2, example: int = 5) -> int:
    """A number; of trainings and steps at least two: of one there is nothing to compare."""
    text = _take_value(flag, tokens)
    if not text.isdecimal() or int(text) < least:
        raise ConfigError(
            flag, f"needs a whole number, at least {least}", got=text,
            remedy=f"Write {flag} {example}",
        )  # fmt: skip
    return int(text)


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
    _check_push(command)
    _check_several(command)
    _check_export(command)
    if MODES[command.mode].needs_checkpoint and command.ckpt_path is None:
        raise ConfigError(
            mode_flag or command.mode, "needs a checkpoint",
            remedy="Add --ckpt_path with a .ckpt file or a run folder",
        )  # fmt: skip
    if not MODES[command.mode].needs_config:
        _check_stands_alone(command)
        return
    if command.output is not None and command.mode != "export":
        raise ConfigError(
            "--output", "goes with --compare and --export only",
            remedy="Add one of the two, or leave --output out",
        )  # fmt: skip
    has_source = command.configs or command.ckpt_path not in (None, "last")
    if not has_source:
        raise ConfigError(
            "--config", "is missing", remedy="Write --config FILE, or see --help",
        )  # fmt: skip


def _check_push(command: Command) -> None:
    """Refuse what --push_to_hub would ignore, and what goes with it alone."""
    if command.mode != "push_to_hub":
        if command.public:
            raise ConfigError(
                "--public", "goes with --push_to_hub only",
                remedy="Add --push_to_hub ORG/NAME, or leave --public out",
            )  # fmt: skip
        return
    if command.configs or command.overrides:
        word = "--config" if command.configs else f"--{command.overrides[0][0]}"
        raise ConfigError(
            word, "has no effect beside --push_to_hub: a model is uploaded as it was trained",
            remedy=f"Leave {word} out",
        )  # fmt: skip


def _check_export(command: Command) -> None:
    """Refuse what --export cannot write, and what goes with it alone."""
    asked = {"--opset": command.opset, "--precision": command.precision, "--input": command.input}
    given = [flag for flag, value in asked.items() if value is not None]
    if command.mode != "export":
        if given:
            other = ": a training has --trainer.precision" if given[0] == "--precision" else ""
            raise ConfigError(
                given[0], f"goes with --export only{other}",
                remedy=f"Add --export FORMAT, or leave {given[0]} out",
            )  # fmt: skip
        return
    form = command.export_format
    _check_one_of("--export", "format", form, tuple(FILES))
    _check_one_of("--precision", "precision", command.precision or PRECISIONS[0], PRECISIONS)
    _check_one_of("--input", "input", command.input or INPUTS[0], INPUTS)
    if form != "onnx" and (command.opset is not None or command.precision == "int8"):
        flag = "--opset" if command.opset is not None else "--precision"
        raise ConfigError(
            flag, f"{'int8 ' if flag == '--precision' else ''}goes with --export onnx only",
            got=command.opset or command.precision, remedy=f"Leave {flag} out, or export onnx",
        )  # fmt: skip
    if form in ("huggingface", "safetensors") and command.input is not None:
        raise ConfigError(
            "--input", f"has no effect beside --export {form}, whose input is its library's own",
            got=command.input, remedy="Leave it out",
        )  # fmt: skip


def _check_one_of(flag: str, what: str, value: str | None, options: Sequence[str]) -> None:
    remedy = f"Write one of {', '.join(options)}"
    if not value:
        raise ConfigError(flag, f"needs a {what}", remedy=remedy)
    if value not in options:
        problem = f"there is no such {what}"
        raise ConfigError(flag, problem, got=value, remedy=remedy, name=value, options=options)


def _check_several(command: Command) -> None:
    """Refuse words beside --folds and --repeat that mean something else."""
    asked = [("--folds", command.folds), ("--repeat", command.repeat)]
    flags = [flag for flag, number in asked if number is not None]
    if len(flags) > 1:
        raise ConfigError(
            "--repeat", "stands beside --folds; a command does one thing",
            remedy="Keep one of the two: for folds of another seed, add --seed_everything 43",
        )  # fmt: skip
    if flags and (command.mode != "train" or command.print_config):
        raise ConfigError(
            flags[0], "goes with a training only",
            remedy="Leave it out; one fold alone is --data.init_args.folds 5 "
            "--data.init_args.fold 0" if command.folds else "Leave it out",
        )  # fmt: skip
    if command.label_issues and command.folds is None:
        raise ConfigError(
            "--label_issues", "goes with --folds only: a model that has seen an image in its "
            "training agrees with its label", remedy="Add --folds 5",
        )  # fmt: skip


def _check_stands_alone(command: Command) -> None:
    """Refuse what a command that reads no configuration would ignore."""
    given = {
        "--config": command.configs, "--ckpt_path": command.ckpt_path,
        "--print_config": command.print_config, "--allow_module": command.allowed,
        **{f"--{key}": True for key, _ in command.overrides},
    }  # fmt: skip
    for option, value in given.items():
        if value:
            raise ConfigError(
                option, f"does not go with --{command.mode}, which needs nothing but the runs",
                remedy="Leave it out",
            )  # fmt: skip
