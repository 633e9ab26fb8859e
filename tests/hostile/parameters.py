"""params.yaml with what no parameter may be, keys that are none, and YAML's darker corners."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import yaml
from hostile.outcomes import Accepted, Cases, Refused

from tools.clone import ROOT

GOOD = (ROOT / "params.yaml").read_text()
ALIAS = ": an alias: write out what it stands for): correct it"
TAG = "not plain YAML (line 1: a tag: leave it out): correct it"
SAME = Accepted("YAML may be written so, and it says the same")
FITS = Accepted("YAML's own way to write a number or a truth that fits")


def text(content: str | bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content.encode() if isinstance(content, str) else content)


def edit(old: str, new: str) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        assert GOOD.count(old) == 1, f"change this case: params.yaml has {GOOD.count(old)} times {old!r}"
        path.write_text(GOOD.replace(old, new))

    return change


def section(name: str, value: object) -> Callable[[Path], object]:
    return lambda path: path.write_text(yaml.safe_dump(yaml.safe_load(GOOD) | {name: value}))


def add(line: str) -> Callable[[Path], object]:
    return text(f"{GOOD}\n{line}\n")


def laughs(depth: int = 9) -> str:
    """Billion laughs: lists of ten of the one before."""
    lists = [f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 10)}]" for level in range(1, depth)]
    return "\n".join(["l0: &l0 [ha]", *lists])


PARAMETERS: Cases = {
    # numbers and words that don't fit
    "a number of 4,000 digits": (
        edit("threads: 2", "threads: " + "9" * 4000),
        Refused("threads: Input should be less than or equal to 1024, got 99999"),
    ),
    "a seed of 20 digits": (edit("seed: 0\n  by:", "seed: 99999999999999999999\n  by:"), Refused("split.seed: ")),
    "1.0e+400": (edit("stain: 0.2", "stain: 1.0e+400"), Refused("train.stain: Input should be a finite number")),
    "not a number": (edit("dropout: 0.2", "dropout: .NaN"), Refused("cnn.dropout: Input should be a finite number")),
    "minus infinity": (edit("weight_decay: 0.05", "weight_decay: -.inf"), Refused("train.weight_decay: Input should ")),
    "1e-3": (edit("lr:\nbatch", "lr: 1e-3\nbatch"), Accepted("a number as DVC writes it")),
    "a decimal comma": (
        edit("stain: 0.2", "stain: 0,2"),
        Refused("train.stain: Input should be a valid number, got"),
    ),
    "a million threads": (edit("threads: 2", "threads: 1000000"), Refused("threads: Input should be less than or")),
    "full-width digits": (edit("threads: 2", "threads: ２"), Refused("threads: Input should be a valid integer, got")),
    "2.0 threads": (edit("threads: 2", "threads: 2.0"), Refused("threads: Input should be a valid integer, got 2.0")),
    "a word in quotes": (
        edit("tta: true", 'tta: "true"'),
        Refused("predict.tta: Input should be a valid boolean, got"),
    ),
    "1 for true": (edit("tta: true", "tta: 1"), Refused("predict.tta: Input should be a valid boolean, got 1")),
    "nothing": (edit("threads: 2", "threads:"), Refused("threads: Input should be a valid integer, got None")),
    "a day": (edit("threads: 2", "threads: 2026-01-01"), Refused("threads: Input should be a valid integer, got date")),
    "a list": (edit("threads: 2", "threads: [2]"), Refused("threads: Input should be a valid integer, got [2]")),
    "a number for a section": (section("predict", 7), Refused("predict: Input should be a valid dictionary")),
    "a list for a section": (section("predict", [True]), Refused("predict: Input should be a valid dictionary")),
    "a device that is none": (edit("device: auto", "device: gpu"), Refused("device: Input should be 'auto', 'cpu', ")),
    "a capital letter": (edit("device: auto", "device: CPU"), Refused("device: Input should be 'auto', 'cpu', ")),
    "10,000 values where a few fit": (
        edit("[64, 128, 256]", f"[{', '.join(['x'] * 10_000)}]"),
        Refused("tune.widths.4: Input should be a valid integer, got 'x'; and 9995 more"),
    ),
    "a folder with a NUL": (edit("data/sample", '"data\\0/sample"'), Refused("data.raw: should have no control char")),
    "a folder with a terminal code": (edit("data/sample", '"\\e[2J"'), Refused("got '\\x1b[2J'")),
    "half a character in a folder": (edit("data/sample", '"\\uD800"'), Refused("got '\\ud800'")),
    "a file with a line break": (
        edit("weights: imagenet", 'weights: "a\\nb"'),
        Refused("train_resnet.weights: should"),
    ),
    # keys
    "a letter missing": (edit("threads: 2", "thread: 2"), Refused("thread: no such parameter; did you mean threads?")),
    "a letter missing in a section": (
        edit("stain: 0.2", "stian: 0.2"),
        Refused("train.stain: missing: add it; train.stian: no such parameter; did you mean train.stain?"),
    ),
    "a section's letter missing": (
        edit("explain:\n", "explan:\n"),
        Refused("explan: no such parameter; did you mean explain?"),
    ),
    "a hyphen": (
        edit("train_cnn:\n", "train-cnn:\n"),
        Refused("'train-cnn': no such parameter; did you mean train_cnn?"),
    ),
    "a parameter of two sections at the top": (
        add("ema: 0.9"),
        Refused("ema: no such parameter; did you mean train_cnn.ema or train_resnet.ema?"),
    ),
    "a parameter of an earlier version": (
        edit("  ema: 0.0\n\ntrain_resnet", "  ema: 0.0\n  patience: 5\n\ntrain_resnet"),
        Refused("train_cnn.patience: gone: training always ends with its schedule"),
    ),
    "a parameter of another section": (
        edit("tta: true", "tta: true\n  window: 5"),
        Refused("predict.window: no such parameter; did you mean overlap.window?"),
    ),
    "deep down": (edit("{low: 0.0005", "{lo: 1, low: 0.0005"), Refused("tune.lr.lo: no such parameter; did you mean")),
    "like nothing": (edit("tta: true", "tta: true\n  zzz: 1"), Refused("predict.zzz: no such parameter; expected one")),
    "a key twice": (add("threads: 3"), Refused("'threads' a second time: keep one): correct it")),
    "a key twice in a section": (
        edit("tta: true", "tta: true\n  tta: false"),
        Refused(": 'tta' a second time: keep one): correct it"),
    ),
    "a key twice, once in quotes": (add('"threads": 3'), Refused("'threads' a second time: keep one): correct it")),
    "a section twice": (add("cnn: {dropout: 0.5}"), Refused("'cnn' a second time: keep one): correct it")),
    "900 keys": (
        text(GOOD + "".join(f"key{number}: 1\n" for number in range(900))),
        Refused("; and 895 more"),
    ),
    "a number for a key": (add("7: 1"), Refused("7: Keys should be strings, got 7")),
    "nothing for a key": (add("null: 1"), Refused("None: Keys should be strings, got None")),
    "a list for a key": (add("? [a, b]\n: 1"), Refused(": a key that is no name): correct it")),
    "a table for a key": (add("{a: 1}: 1"), Refused(": a key that is no name): correct it")),
    "an empty key": (add('"": 1'), Refused("'': no such parameter; expected one of classes, lr, ")),
    "a key with a terminal code": (add('"\\e[2J": 1'), Refused("'\\x1b[2J': no such parameter; ")),
    "a key of 10,000 letters": (add("x" * 1000 + ": 1"), Refused("no such parameter; expected one of classes, lr, ")),
    "Python's own names": (add("__class__: 1\nmodel_config: 1"), Refused("__class__: no such parameter; ")),
    # YAML
    "an alias": (edit("threads: 2", "threads: &two 2\nepochs2: *two"), Refused(ALIAS)),
    "a billion laughs": (text(laughs()), Refused(f"not plain YAML (line 2{ALIAS}")),
    "a list that holds itself": (add("a: &a [*a]"), Refused(ALIAS)),
    "a merge of aliases": (add("a: &a {lr: 1}\nb: {<<: [*a, *a]}"), Refused(ALIAS)),
    "a merge of a number": (add("<<: 5"), Refused("expected a mapping or list of mappings for merging, but found")),
    "an anchor that nobody uses": (edit("threads: 2", "threads: &two 2"), SAME),
    "a merge of what stands there": (edit("  tta: true", "  <<: {tta: true}"), SAME),
    "an object of Python": (text("!!python/object/apply:os.system ['touch x']"), Refused(TAG)),
    "a module of Python": (text("!!python/module:os"), Refused(TAG)),
    "a name of Python": (text("!!python/name:os.system ''"), Refused(TAG)),
    "a tag of one's own": (text("!mine 1"), Refused(TAG)),
    "an empty integer": (text("!!int ''"), Refused(TAG)),
    "a truth that is none": (text("!!bool x"), Refused(TAG)),
    "a time that is none": (text("!!timestamp x"), Refused(TAG)),
    "a set": (text("!!set {a, b}"), Refused(TAG)),
    "bytes": (text("!!binary é"), Refused(TAG)),
    "an ordered table": (text("!!omap [a: 1]"), Refused(TAG)),
    "a tag that YAML has already": (edit("threads: 2", "threads: !!int 2"), Refused(": a tag: leave it out): correct")),
    "an equals sign": (edit("threads: 2", "threads: ="), Refused("could not determine a constructor for the tag")),
    "20,000 brackets": (text("[" * 20_000), Refused("not plain YAML (maximum recursion depth exceeded")),
    "20,000 tables in one another": (text("{a: " * 15_000), Refused("not plain YAML (maximum recursion depth exc")),
    "two documents": (text(f"{GOOD}\n---\n{GOOD}"), Refused("but found another document): correct it")),
    "no document": (text("# nothing but a comment\n"), Refused("the file: Input should be a valid dictionary")),
    "a tab": (edit("  tta: true", "\ttta: true"), Refused("found character '\\t' that cannot start any token): cor")),
    "a section further in than the others": (edit("  tta: true", "  a: 1\n    tta: true"), Refused("not plain YAML (")),
    "a version to come": (text(f"%YAML 9.9\n---\n{GOOD}"), Refused("found incompatible YAML document (version 1.*")),
    "a bell": (text("a: \a"), Refused("not plain YAML (unacceptable character #x0007")),
    "UTF-16": (text(GOOD.encode("utf-16")), Refused("not plain YAML ('utf-8' codec can't decode byte 0xff in posit")),
    "64 KiB and more": (text(GOOD + "#" * 2**16), Refused("larger than 64 KiB: expected the project's parameters")),
    "10 GB of nothing": (lambda path: os.truncate(path, 10**10), Refused("larger than 64 KiB: expected the project's")),
    "a page that asks to log in": (text("<!doctype html><title>Log in</title>"), Refused("the file: Input should be ")),
    "a pickle": (text(b"\x80\4cos\nsystem\n(S'touch x'\ntR."), Refused("not plain YAML ('utf-8' codec can't decode")),
    # no plain files
    "a link to nothing": (
        lambda path: [path.unlink(), path.symlink_to("nowhere")],
        Refused("cannot be read (No such file or directory)"),
    ),
    "a pipe": (lambda path: [path.unlink(), os.mkfifo(path)], Refused("cannot be read (Not a plain file)")),
    "a device": (lambda path: [path.unlink(), path.symlink_to("/dev/zero")], Refused("cannot be read (Not a plain fi")),
    # ways to say the same
    "a byte order mark": (text("\ufeff" + GOOD), SAME),
    "CR LF": (text(GOOD.replace("\n", "\r\n")), SAME),
    "JSON": (text(json.dumps(yaml.safe_load(GOOD))), SAME),
    "keys in another order": (text(yaml.safe_dump(yaml.safe_load(GOOD))), SAME),
    "a document's marks": (text(f"---\n{GOOD}\n...\n"), SAME),
    "yes": (edit("tta: true", "tta: yes"), FITS),
    "a hexadecimal number": (edit("threads: 2", "threads: 0x2"), FITS),
    "an octal number": (edit("threads: 2", "threads: 02"), FITS),
    "a number with underscores": (edit("bins: 10", "bins: 1_0"), FITS),
    "minus zero": (edit("ema: 0.0\n\ntrain_resnet", "ema: -0.0\n\ntrain_resnet"), FITS),
}
