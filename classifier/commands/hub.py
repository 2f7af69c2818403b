"""A repository of the Hugging Face Hub: opened, written to in one commit, its answers in words."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from classifier.errors import ConfigError, RunError, reason_of

log = logging.getLogger(__name__)

FLAG = "--push_to_hub"
TOKEN = "HF_TOKEN"
_TOKENS_PAGE = "https://huggingface.co/settings/tokens"
_PRINTABLE = re.compile(r"^[\x21-\x7e]+$")


def access_token() -> str:
    """The user's access token, of the environment alone: whose token it is must be said on purpose.

    Raises:
        ConfigError: there is none, or it is none.
    """
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise ConfigError(
            TOKEN, "there is no access token for the Hugging Face Hub",
            remedy=f"Make one that may write at {_TOKENS_PAGE}, and put it into the environment "
            f"variable {TOKEN}",
        )  # fmt: skip
    if not _PRINTABLE.match(token):
        # Libraries would show it in their errors.
        raise ConfigError(
            TOKEN, "is no access token: it holds spaces or signs that no token has",
            remedy=f"Copy it anew from {_TOKENS_PAGE}",
        )  # fmt: skip
    return token


def check_name(name: str) -> None:
    """Refuse what can be no repository.

    Args:
        name: ORG/NAME.

    Raises:
        ConfigError: says what is wrong with it.
    """
    from huggingface_hub import utils
    from huggingface_hub.errors import HFValidationError

    remedy = "Write ORG/NAME: the name of a user or an organisation, and that of the model"
    if name.count("/") != 1:
        raise ConfigError(FLAG, "is no name of a repository", got=name, remedy=remedy)
    try:
        utils.validate_repo_id(name)  # type: ignore[attr-defined]  # missing in its __all__
    except HFValidationError as error:
        reason = "letters, digits, -, _ and . are allowed, neither first or last nor twice"
        raise ConfigError(
            FLAG, f"is no name of a repository ({reason})", got=name, remedy=remedy
        ) from error


def open_repository(name: str, *, public: bool, token: str) -> Any:
    """Find the repository, or make it.

    Args:
        name: ORG/NAME.
        public: Whether everybody may see it.
        token: Of the user.

    Returns:
        An HfApi that may write to it.

    Raises:
        ConfigError: it cannot be had, or everybody would see what was meant to be private.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    api = HfApi(token=token)
    with _explaining(name, ConfigError):
        try:
            private = bool(api.model_info(name).private)
        except RepositoryNotFoundError:
            api.create_repo(name, private=not public, exist_ok=True)
            return api
    if not private and not public:
        raise ConfigError(
            FLAG, "this repository is public, everybody would see the model", got=name,
            remedy="Add --public if that is meant, or write another name",
        )  # fmt: skip
    if private and public:
        log.warning("%s is private and stays so: its settings on the Hub make it public", name)
    return api


def commit(api: Any, name: str, files: Mapping[str, Path | bytes], message: str) -> str:
    """Upload files in one commit.

    Args:
        api: Of `open_repository`.
        name: ORG/NAME.
        files: By their path in the repository.
        message: First line of the commit.

    Returns:
        The address of the commit.

    Raises:
        RunError: the Hub did not take them.
    """
    from huggingface_hub import CommitOperationAdd

    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    with _explaining(name, RunError), warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        done = api.create_commit(name, operations, commit_message=message)
    for warning in found:
        if issubclass(warning.category, UserWarning):  # the Hub's words on the card
            log.warning("%s", " ".join(str(warning.message).split()))
    return str(done.commit_url)


@contextmanager
def _explaining(name: str, kind: type[ConfigError] | type[RunError]) -> Iterator[None]:
    """Tell in words what went wrong between here and the Hub.

    Args:
        name: ORG/NAME.
        kind: ConfigError before anything was uploaded, RunError from then on.
    """
    import httpx2  # what huggingface_hub speaks through

    try:
        yield
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, RuntimeError) as error:
        log.debug("", exc_info=True)
        problem, remedy = _in_words(error, name)
        if kind is ConfigError:
            raise ConfigError(FLAG, problem, got=name, remedy=remedy) from error
        raise RunError(f"the upload to {name} failed: {problem}. {remedy}") from error


def _in_words(error: Exception, name: str) -> tuple[str, str]:
    """What is wrong, and what helps."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error.__cause__, HfHubHTTPError):
        error = error.__cause__  # of a file, of which there are several
    if isinstance(error, OfflineModeIsEnabled):
        return "the environment variable HF_HUB_OFFLINE forbids it", "Unset it"
    if not isinstance(error, HfHubHTTPError):
        said = reason_of(error, 300)
        return (
            f"the Hub at {constants.ENDPOINT} cannot be reached, or not understood ({said})"
        ), "Check the network connection and run the command again"
    code = error.response.status_code
    said = reason_of(Exception(error.server_message or error.response.reason_phrase), 300)
    owner = name.partition("/")[0]
    known = {
        401: ("the Hub does not accept the access token", f"Make a new one at {_TOKENS_PAGE}"),
        403: (
            f"the access token may not write to {owner}",
            f"Give it the right to write at {_TOKENS_PAGE}, or name an owner that you belong to",
        ),
        404: (f"the Hub knows no {owner}, or hides it", "Name a user or an organisation of yours"),
        409: ("it is being changed by another upload", "Run the command again"),
        412: ("it is being changed by another upload", "Run the command again"),
        429: ("the Hub allows no more requests for now", "Run the command again later"),
    }  # fmt: skip
    if code >= 500:
        known[code] = ("the Hub is out of order", "Run the command again later")
    problem, remedy = known.get(code, ("the Hub refuses it", "Correct what it names"))
    return f"{problem} ({code}: {said})", remedy
