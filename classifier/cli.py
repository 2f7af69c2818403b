"""ClassifierCLI: from a configuration to the objects that it names."""

from __future__ import annotations

import copy
import warnings
from argparse import ArgumentError
from functools import cached_property
from typing import Any, get_args, get_type_hints

import lightning as L
import yaml
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import classifier.callbacks.averaging
import classifier.callbacks.cost
import classifier.callbacks.metrics
import classifier.callbacks.soup
import classifier.data.datamodule
import classifier.model.classifier  # noqa: F401  (short class names need their classes imported)
from classifier.data.datamodule import AUGMENTATIONS
from classifier.data.presets import written_out
from classifier.evaluation.settings import SECTION, EvaluationSettings
from classifier.explain import check_names, explain_building, explain_parsing

DEFAULT_SEED = 42


class ClassifierCLI(LightningCLI):
    """LightningCLI with this program's own keys. Parses on creation, builds when asked to.

    Args:
        config: The whole configuration as plain data.

    Raises:
        ConfigError: names the dotted key.
    """

    evaluation: EvaluationSettings

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(
            args=_without_presets(config),
            run=False,
            save_config_callback=None,
            seed_everything_default=DEFAULT_SEED,
            parser_kwargs={"exit_on_error": False, "description": "All configuration keys."},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the keys beside model, data and trainer."""
        parser.add_argument(
            "--custom_folder_name",
            type=str | None,
            help="Name of the experiment, may be nested; null is the configuration file's stem.",
        )
        parser.add_argument(
            "--ckpt_path", type=str | None, help="Checkpoint or run folder to go on from, or last."
        )
        parser.add_argument(
            "--only_weights_load",
            type=bool,
            default=False,
            help="Take only the weights of ckpt_path: new optimizer, epoch 0.",
        )
        parser.add_class_arguments(EvaluationSettings, SECTION)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the configuration."""
        self.given = args
        check_names(args)
        if args["trainer"].get("precision") == "auto":
            args = {**args, "trainer": {**args["trainer"], "precision": None}}  # settled later
        try:
            self.config = parser.parse_object(copy.deepcopy(args))  # it changes lists in place
        except ArgumentError as error:
            raise explain_parsing(str(error), args) from error
        self._keep_whole_numbers(args)
        section = self.config[SECTION]  # empty where all of its lines are comments
        self.evaluation = EvaluationSettings(**(section.as_dict() if section else {}))

    def _keep_whole_numbers(self, given: dict[str, Any]) -> None:
        """Give back the int of a key that takes ints and floats: 1 batch is not 100 % of them.

        Python's typing module remembers `Optional[Union[float, int]]` for every later
        `Optional[Union[int, float]]`, so that the order in which jsonargparse tries the two depends
        on what was imported before.
        """
        hints = get_type_hints(L.Trainer.__init__)
        for name, value in given["trainer"].items():
            if type(value) is int and int in get_args(hints[name]):
                self.config["trainer"][name] = value

    def instantiate_classes(self) -> None:
        """Nothing yet: `build` does it."""

    def build(self) -> tuple[L.LightningModule, L.LightningDataModule, dict[str, Any]]:
        """Instantiate the model, the data module and the trainer's arguments."""
        try:
            built = self.parser.instantiate(self.config)
        except Exception as error:
            raise explain_building(error, self.given) from error
        return built["model"], built["data"], dict(built["trainer"])

    def dump(self) -> str:
        """The resolved configuration as YAML."""
        return self._dumped

    @cached_property
    def _dumped(self) -> str:
        with warnings.catch_warnings():
            # Default values that are tuples come back as lists, which every class here takes.
            warnings.filterwarnings("ignore", message="(?s).*does not round-trip")
            return str(self.parser.dump(self.config, skip_unset=False))

    def set_value(self, key: str, value: Any) -> None:
        """Write what was found out into the resolved configuration.

        Args:
            key: Dotted path with `init_args`.
            value: The new value.
        """
        self.config[key] = value
        self.__dict__.pop("_dumped", None)

    def plain(self) -> dict[str, Any]:
        """The resolved configuration as plain data."""
        # Written by jsonargparse, so in PyYAML's own dialect. The C loader is ten times faster.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        plain: dict[str, Any] = yaml.load(self.dump(), Loader=loader)
        return plain


def _without_presets(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with every preset of augmentations written out."""
    data = config.get("data")
    arguments = data.get("init_args") if isinstance(data, dict) else None
    if data is None or not isinstance(arguments, dict) or "augmentations" not in arguments:
        return config
    written = written_out(arguments["augmentations"], AUGMENTATIONS)
    return {**config, "data": {**data, "init_args": {**arguments, "augmentations": written}}}


def print_all_keys() -> None:
    """The generated reference: every key of the program and of its own classes."""
    from jsonargparse import ArgumentParser

    from classifier import ImageClassifier, ImageDataModule

    parser = ArgumentParser(
        prog="main.py", usage="python main.py --config FILE [--<key> VALUE ...]"
    )
    parser.add_class_arguments(ImageClassifier, "model.init_args")
    parser.add_class_arguments(ImageDataModule, "data.init_args")
    parser.add_class_arguments(L.Trainer, "trainer")
    parser.add_class_arguments(EvaluationSettings, SECTION)
    parser.print_help()
