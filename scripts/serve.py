"""Serve a trained model over HTTP: an image is sent, its classes are answered.

    python scripts/serve.py MODEL [--host 127.0.0.1] [--port 8000] [--top_k 5] ...

MODEL is a checkpoint, a run folder, an exported file or the folder of an export; an ONNX export
needs neither torch nor lightning.

    POST /predict   an image, raw or a form's file -> labels, probabilities, indices, decided
    GET  /health    200 once it answers, 503 before
    GET  /info      class names, task, input size

    curl -F image=@cat.jpg http://127.0.0.1:8000/predict
    curl -H "Content-Type: image/jpeg" --data-binary @cat.jpg http://127.0.0.1:8000/predict

Where the variable LIT_SERVER_API_KEY is set, every request must carry its value as X-API-Key.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from classifier.errors import ConfigError, RunError
from classifier.signals import handling_signals

if TYPE_CHECKING:
    from classifier.inference.description import Description

HOSTS = ("127.0.0.1", "0.0.0.0", "::")  # LitServe knows these
# Nothing is told to anyone: FastAPI would send traces where a variable of its own asks for it.
SILENT = {"FASTAPI_OTEL_AUTO_CONFIGURE": "false", "OTEL_SDK_DISABLED": "true"}
GRACE_SECONDS = 5
ENDED = "the server ended by itself: see what a worker process has said above"


def main(words: Sequence[str] | None = None) -> int:
    """Serve until a signal ends it.

    Args:
        words: The words of the command line; None takes them from sys.argv.

    Returns:
        1 the server ended by itself, 2 wrong usage or model, 130 SIGINT, 143 SIGTERM.
    """
    options = _parse(words)
    stop = Stop()
    try:
        with handling_signals(stop):
            serve(options)
        if stop.signum is None:
            raise RunError(ENDED)
    except KeyboardInterrupt:
        pass  # it came before LitServe listened to it
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except RunError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        _end_children()
    return 128 + (stop.signum or signal.SIGINT)


class Stop:
    """Ends the server at the first signal, as LitServe knows it: by a KeyboardInterrupt."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.process = os.getpid()

    def __call__(self, signum: int, frame: object) -> None:
        """Handle SIGINT or SIGTERM, but in the processes that are forked: this one ends them."""
        if self.signum is None and os.getpid() == self.process:
            self.signum = signum
            raise KeyboardInterrupt


def serve(options: argparse.Namespace) -> None:
    """Open the model, then answer.

    Raises:
        ConfigError: no LitServe, no such model, a port that is taken.
        RunError: its processes did not start.
        KeyboardInterrupt: a signal ended it before it served.
    """
    os.environ.update(SILENT)
    try:
        import litserve
    except ModuleNotFoundError as error:
        raise ConfigError(
            "serve", f"needs a package that is not installed: {error.name}",
            remedy="Install it by: pip install 'litserve>=0.2.19,<1'",
        ) from error  # fmt: skip
    from classifier.inference.predictor import Predictor
    from classifier.inference.serving import ImageApi, told_of

    _check_port(options.host, options.port)
    description = Predictor.load(options.model).description
    api = ImageApi(options.model, options.top_k, options.max_pixels, options.batch_size)
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        workers_per_device=options.workers,
        timeout=options.timeout,
        model_metadata=told_of(description),
        disable_openapi_url=True,  # its page would be fetched from a server of a third party
    )
    server.app.state.max_bytes = options.max_bytes
    server.uvicorn_graceful_timeout = GRACE_SECONDS
    _run(server, description, options)


def _run(server: Any, description: Description, options: argparse.Namespace) -> None:
    host = f"[{options.host}]" if ":" in options.host else options.host
    print(
        f"{options.model} ({description.format}, {len(description.class_names)} classes) at "
        f"http://{host}:{options.port}: POST /predict, GET /health, GET /info",
        flush=True,
    )
    try:
        server.run(
            host=options.host,
            port=options.port,
            num_api_servers=1,
            log_level="warning",
            generate_client_file=False,
            server_header=False,
            access_log=False,
            limit_concurrency=options.max_connections,
        )
    except (RuntimeError, EOFError, ConnectionError) as error:
        raise RunError(ENDED) from error


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                "--port", f"cannot be had at {host}: {error.strerror}", got=port,
                remedy="Choose another one, or end the program that has it",
            ) from error  # fmt: skip


def _end_children() -> None:
    """What LitServe started and has not ended; without it, Python would wait for them."""
    for child in multiprocessing.active_children():
        child.terminate()
        child.join(1)
        if child.is_alive():
            child.kill()


def _at_least(least: int, most: int | None = None) -> Any:
    def number(text: str) -> int:
        value = int(text)
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(
                f"must be at least {least}" + ("" if most is None else f" and at most {most}")
                + f", got {value}"
            )  # fmt: skip
        return value

    return number


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("--host", default="127.0.0.1", choices=HOSTS)
    number = parser.add_argument
    number("--port", type=_at_least(1024, 65535), default=8000, help="1024 to 65535")
    number("--top_k", type=_at_least(1), default=5, help="classes that an answer names")
    number("--max_bytes", type=_at_least(1), default=10_000_000, help="of an image file")
    number("--max_pixels", type=_at_least(1), default=50_000_000, help="of an image")
    number("--batch_size", type=_at_least(1), default=8, help="images at once in the model")
    number("--workers", type=_at_least(1), default=1, help="processes, each with the model")
    number("--max_connections", type=_at_least(2), default=128, help="more are told to wait: 503")
    number("--timeout", type=_at_least(1), default=30, help="seconds that an image may wait")
    return parser.parse_args(words)


if __name__ == "__main__":
    raise SystemExit(main())
