"""Files of torch.export and of TorchScript that bring code: none of it is ever run."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from classifier.errors import ConfigError
from classifier.export import torch_export, torchscript
from classifier.inference.exported_archive import check_exported, check_script
from classifier.inference.exported_route import open_exported
from tests.export.orders import order_of, small_network
from tests.inference.archives import files_of, two_in_one

MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
DESCRIPTION = "extra/image_classifier.json"
CONSTANTS = "data/constants/model_constants_config.json"


class Evil:
    def __reduce__(self) -> Any:
        return (os.system, ("touch marker",))


def pickled() -> bytes:
    stream = io.BytesIO()
    torch.save({"x": Evil()}, stream)
    return stream.getvalue()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("exported")
    torch_export.write(order_of(small_network(), "torch_export"), folder)
    return (folder / "model.pt2").read_bytes()


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("scripted")
    torchscript.write(order_of(small_network(), "torchscript"), folder)
    return (folder / "model.torchscript").read_bytes()


def changed(content: bytes, change: Callable[[dict[str, bytes]], Any]) -> bytes:
    """The archive with some of its files changed, added or left out."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        root = archive.namelist()[0].partition("/")[0]
        files = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(files)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, text in files.items():
            archive.writestr(f"{root}/{name}", text)
    return stream.getvalue()


def replaced(name: str, edit: Callable[[Any], Any]) -> Callable[[dict[str, bytes]], None]:
    """A change of one JSON file."""

    def change(files: dict[str, bytes]) -> None:
        tree = json.loads(files[name])
        edit(tree)
        files[name] = json.dumps(tree).encode()

    return change


def node(tree: Any) -> Any:
    return tree["graph_module"]["graph"]["nodes"][0]


def call(tree: Any) -> Any:
    return tree["graph_module"]["module_call_graph"][0]["signature"]


def payload(**values: Any) -> Callable[[Any], None]:
    return lambda tree: next(iter(tree["config"].values())).update(values)


def weight_as_pickle(files: dict[str, bytes]) -> None:
    replaced(WEIGHTS, payload(use_pickle=True))(files)
    path = next(iter(json.loads(files[WEIGHTS])["config"].values()))["path_name"]
    files[f"data/weights/{path}"] = pickled()


def constant_as_pickle(files: dict[str, bytes]) -> None:
    entry = {
        "path_name": "opaque_obj_0",
        "is_param": False,
        "use_pickle": True,
        "tensor_meta": None,
    }
    files[CONSTANTS] = json.dumps({"config": {"x": entry}}).encode()
    files["data/constants/opaque_obj_0"] = pickle.dumps(Evil())


EVALUATED = "__import__('os').system('touch marker')"
ENUM = '{"type": "enum", "context": "evil.Colour", "children_spec": []}'
ATTACKS: dict[str, Callable[[dict[str, bytes]], Any]] = {
    "weight": weight_as_pickle,
    "constant": constant_as_pickle,
    "old weights": lambda files: files.update({"data/weights/model.pt": pickled()}),
    "old constants": lambda files: files.update({"data/constants/model.pt": pickled()}),
    "example": lambda files: files.update({"data/sample_inputs/model.pt": pickled()}),
    "compiled code": lambda files: files.update({"data/aotinductor/model/a.so": b"ELF"}),
    "second name": lambda files: files.update({"Models/model.json": files[MODEL]}),
    "function": replaced(MODEL, lambda tree: node(tree).update(target="torch.os.system")),
    "file": replaced(
        MODEL, lambda tree: node(tree).update(target="torch.ops.aten.from_file.default")
    ),
    "size": replaced(
        MODEL,
        lambda tree: node(tree)["outputs"].append(
            {"as_sym_int": {"as_expr": {"expr_str": EVALUATED, "hint": None}}}
        ),
    ),
    "range": replaced(MODEL, lambda tree: tree["range_constraints"].update({EVALUATED: None})),
    "guard": replaced(MODEL, lambda tree: tree.update(guards_code=["exit"])),
    "metadata": replaced(MODEL, lambda tree: node(tree).update(metadata={"torch_fn": "exit"})),
    "type of arguments": replaced(MODEL, lambda tree: call(tree).update(in_spec=f"[1, {ENUM}]")),
    "name": replaced(MODEL, lambda tree: node(tree).update(name="x;import os")),
}  # fmt: skip


def test_file_as_it_was_written_passes(exported: bytes, scripted: bytes) -> None:
    for check, content in ((check_exported, exported), (check_script, scripted)):
        for written in (content, changed(content, lambda _: None)):
            checked = check(written, Path("x"))
            assert json.loads(checked.description)["class_names"] == ["blue", "grün", "red"]
            assert files_of(checked.archive) == files_of(content)


@pytest.mark.parametrize("attack", ATTACKS)
def test_code_in_an_exported_program_is_never_run(
    exported: bytes, workplace: Path, attack: str
) -> None:
    (workplace / "x.pt2").write_bytes(changed(exported, ATTACKS[attack]))
    with pytest.raises(ConfigError, match="could be code and is never run"):
        open_exported(Path("x.pt2"), "torch_export")
    assert not (workplace / "marker").exists()


def test_torch_itself_runs_the_code_of_an_exported_program(
    exported: bytes, workplace: Path
) -> None:
    """What the check is for; when this fails, torch has become careful, and the check may go."""
    (workplace / "x.pt2").write_bytes(changed(exported, weight_as_pickle))
    with pytest.raises(Exception, match=r"."):
        torch.export.load("x.pt2")
    assert (workplace / "marker").exists()


def in_code(files: dict[str, bytes], line: str) -> None:
    # graph.py, or, where the process has traced a model before, graph/___torch_mangle_7.py.
    graph = "code/__torch__/classifier/inference/graph"
    (name,) = (name for name in files if name.startswith((f"{graph}.py", f"{graph}/")))
    body = files[name].decode()
    first = body.index("Tensor:\n") + len("Tensor:\n")
    files[name] = (body[:first] + f"    {line}\n" + body[first:]).encode()


SCRIPTS: dict[str, Callable[[dict[str, bytes]], Any]] = {
    "write": lambda files: in_code(files, 'torch.save(1, "marker")'),
    "write as method": lambda files: in_code(files, 'images.save("marker")'),
    "read": lambda files: in_code(files, 'x = torch.from_file("/etc/passwd", False, 1)'),
    "other operators": lambda files: in_code(files, "x = ops .image.read_file(1)"),
    "remote": lambda files: in_code(files, "x = ops.prim.rpc_sync(1)"),
    "class": lambda files: in_code(files, "x = __torch__.torch .classes.a.B()"),
    "class of a weight": lambda files: files.update(
        {"data.pkl": files["data.pkl"] + b"c__torch__.torch\nclasses.a.B\n"}
    ),
    "more": lambda files: files.update({"extra.so": b"ELF"}),
}  # fmt: skip


@pytest.mark.parametrize("attack", SCRIPTS)
def test_script_that_does_more_than_compute_is_refused(
    scripted: bytes, workplace: Path, attack: str
) -> None:
    (workplace / "x.torchscript").write_bytes(changed(scripted, SCRIPTS[attack]))
    with pytest.raises(ConfigError, match="could be code and is never run"):
        open_exported(Path("x.torchscript"), "torchscript")
    assert not (workplace / "marker").exists()


def test_script_is_refused_when_its_process_had_traced_models_before(
    scripted: bytes, tmp_path: Path
) -> None:
    """Its classes then have other names, and its code lies in other files."""
    torchscript.write(order_of(small_network(), "torchscript"), tmp_path)
    later = (tmp_path / "model.torchscript").read_bytes()
    assert "mangle" in "".join(files_of(later))
    with pytest.raises(ConfigError, match=r"more than a graph and its weights \('save'\)"):
        check_script(changed(later, SCRIPTS["write"]), Path("x"))


def test_second_archive_in_a_file_is_never_opened_as_an_exported_program(
    exported: bytes, workplace: Path
) -> None:
    evil = changed(exported, weight_as_pickle)
    (workplace / "x.pt2").write_bytes(two_in_one(files_of(evil), files_of(exported)))
    assert files_of((workplace / "x.pt2").read_bytes()) == files_of(exported)
    with pytest.raises(ConfigError, match="its list of files is not where its end record says"):
        open_exported(Path("x.pt2"), "torch_export")
    assert not (workplace / "marker").exists()


def test_second_archive_in_a_file_is_never_opened_as_a_script(
    scripted: bytes, workplace: Path
) -> None:
    evil = changed(scripted, SCRIPTS["write"])
    (workplace / "x.torchscript").write_bytes(two_in_one(files_of(evil), files_of(scripted)))
    assert files_of((workplace / "x.torchscript").read_bytes()) == files_of(scripted)
    with pytest.raises(ConfigError, match="its list of files is not where its end record says"):
        open_exported(Path("x.torchscript"), "torchscript")


@pytest.mark.parametrize("format", ["torch_export", "torchscript"])
def test_torch_gets_the_copy_that_was_checked_and_never_the_file(
    exported: bytes,
    scripted: bytes,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    format: str,
) -> None:
    content, check, module = {
        "torch_export": (exported, check_exported, torch.export),
        "torchscript": (scripted, check_script, torch.jit),
    }[format]
    (workplace / "x").write_bytes(content)
    given = []

    def load(stream: io.BytesIO, **_: Any) -> None:
        given.append(stream.read())
        raise RuntimeError("enough")

    monkeypatch.setattr(module, "load", load)
    with pytest.raises(ConfigError, match="enough"):
        open_exported(Path("x"), format)
    assert given == [check(content, Path("x")).archive]
    assert given != [content]


DEEP = b"[" * 100_000 + b"]" * 100_000
BROKEN: dict[str, tuple[dict[str, bytes], str]] = {
    "no list of constants": ({CONSTANTS: b"{}"}, "model_constants_config.json lists no weights"),
    "a list of weights that is a number": ({WEIGHTS: b"1"}, "_config.json lists no weights"),
    "a weight that is a number": ({WEIGHTS: b'{"config": {"x": 1}}'}, "does not describe x"),
    "deep model": ({MODEL: DEEP}, "models/model.json is nested too deeply"),
    "model in UTF-16": ({MODEL: '{"a": 1}'.encode("utf-16")}, "can't decode"),
    "model that is a list": ({MODEL: b"[]"}, "cannot read the file"),
    "description in Latin-1": ({DESCRIPTION: b'{"x": "\xfc"}'}, "is no text in UTF-8"),
    "deep description": ({DESCRIPTION: DEEP}, "too deep in each other"),
    "list as description": ({DESCRIPTION: b"[]"}, "it is no mapping"),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_broken_part_of_an_exported_program_is_told_in_words(
    exported: bytes, workplace: Path, damage: str
) -> None:
    files, message = BROKEN[damage]
    (workplace / "x.pt2").write_bytes(changed(exported, lambda found: found.update(files)))
    with pytest.raises(ConfigError, match=f"^ckpt_path: .*{message}"):
        open_exported(Path("x.pt2"), "torch_export")


def test_depth_that_json_reads_and_the_check_does_not_is_told_in_words(exported: bytes) -> None:
    deep = b'{"a": ' * 5000 + b"1" + b"}" * 5000
    with pytest.raises(ConfigError, match=r"^ckpt_path: .*nested too deeply"):
        check_exported(changed(exported, lambda files: files.update({MODEL: deep})), Path("x"))


@pytest.mark.parametrize("format", ["torch_export", "torchscript"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda _: b"", "the file is damaged, or is no exported model"),
        (lambda _: b"hello, I am a text", "the file is damaged, or is no exported model"),
        (lambda content: content[: len(content) // 2], "the file is damaged"),
        (lambda content: changed(content, lambda files: files.pop("extra/image_classifier.json")),
         "the file is of another program"),
        (lambda content: changed(
            content, lambda files: files.update({"extra/image_classifier.json": b"{}"})),
         "written by another version of this program"),
    ],
)  # fmt: skip
def test_damaged_file_is_told_in_words(
    exported: bytes, scripted: bytes, workplace: Path, format: str, damage: Any, message: str
) -> None:
    content = exported if format == "torch_export" else scripted
    (workplace / "x").write_bytes(damage(content))
    with pytest.raises(ConfigError, match=message):
        open_exported(Path("x"), format)


def test_flipped_bit_in_a_weight_is_noticed(exported: bytes, workplace: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(exported)) as archive:
        entry = next(e for e in archive.infolist() if "weight_5" in e.filename)
    content = bytearray(exported)
    content[entry.header_offset + 30 + len(entry.filename) + 80] ^= 1
    (workplace / "x.pt2").write_bytes(bytes(content))
    with pytest.raises(ConfigError, match="the file is damaged"):
        open_exported(Path("x.pt2"), "torch_export")
