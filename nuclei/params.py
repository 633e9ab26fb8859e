"""params.yaml as one frozen, typed object: every range and unit stands here, every value in the file."""

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from nuclei.errors import InputError
from nuclei.files import require_file

SAMPLE = "data/sample"  # where the stage `sample` writes
LARGEST_FILE = 2**16  # bytes
MOST_PROBLEMS = 5  # in one line

# Parameters of earlier versions, and what became of them.
RENAMED = {
    "workers": "gone: folds are trained side by side, each with train.threads",
    "crossval": "gone: split.held_out says how many folds are held out in turn",
    "tune.epochs": "now tune.rungs, shares of the training that follows",
    "train_cnn.patience": "gone: training always ends with its schedule",
    "train_resnet.patience": "gone: training always ends with its schedule",
    "train_cnn.final_epochs": "gone: the final network is trained like those of the folds",
    "train_resnet.final_epochs": "gone: the final network is trained like those of the folds",
    "evaluate.resamples": "gone: intervals are from a jackknife over groups",
    "evaluate.coverage": "now evaluate.target_coverage",
    "review.confidence": "gone: each class has a threshold of its own, taken from the data",
    "explain.checks": "now explain.sanity_crops",
    "explain.noise": "now explain.noise_std",
    "explain.noise_samples": "now explain.smoothgrad_samples",
    "explain.steps": "now explain.ig_steps",
    "explain.points": "now explain.curve_points",
}

Seed = Annotated[int, Field(ge=0, lt=2**31)]
Count = Annotated[int, Field(ge=1)]
Cores = Annotated[int, Field(ge=1, le=1024)]
Share = Annotated[float, Field(ge=0, lt=1)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
BatchSize = Annotated[int, Field(ge=2, le=4096)]
Epochs = Annotated[int, Field(ge=1, le=1000)]
Severities = Annotated[list[Annotated[float, Field(gt=0, le=10)]], Field(max_length=100)]
ModelName = Literal["cnn", "resnet"]


def _plain(text: str) -> str:
    if not text.isprintable():
        raise ValueError("should have no control characters")
    return text


FileName = Annotated[str, Field(min_length=1), AfterValidator(_plain)]


class Section(BaseModel):
    """A part of params.yaml: immutable, no unknown key, no silent conversion, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Data(Section):
    raw: FileName  # folder with train.zip, train.csv, test.zip, example.csv
    channels: int  # 1: grey, 3: RGB

    @field_validator("channels")
    @classmethod
    def _grey_or_rgb(cls, value: int) -> int:
        if value not in (1, 3):
            raise ValueError("should be 1 or 3")
        return value


class Sample(Section):
    seed: Seed
    train: Annotated[int, Field(ge=20, le=100_000)]  # crops
    test: Annotated[int, Field(ge=4, le=100_000)]  # crops
    patients: Annotated[int, Field(ge=1, le=1000)]  # each with a stain of its own


class Overlap(Section):
    """How crops that share pixels are found."""

    window: Annotated[int, Field(ge=4, le=256)]  # pixels: overlaps of twice this a side are never missed
    border: Annotated[int, Field(ge=0, le=40)]  # pixels along the edges that may differ: crops enlarged one by one
    near_duplicates: bool  # also list crops that look alike without sharing pixels


class Split(Section):
    seed: Seed
    by: Literal["overlap", "group", "random"]  # what is kept together: shared pixels and Group, Group alone, nothing
    folds: Annotated[int, Field(ge=3, le=100)]
    held_out: Annotated[int, Field(ge=2, le=100)] | None  # folds held out in turn; None: all, but 2 on the sample


class Cnn(Section):
    """The shape of SmallCNN, apart from the two widths, which `tune` finds."""

    filters: Annotated[list[Annotated[int, Field(ge=4, le=512)]], Field(min_length=4, max_length=4)]
    dropout: Share  # before the classifier


class Resnet(Section):
    """The shape of ResNet18."""

    stem: Literal["pretrained", "no_pool", "small"]  # 7x7 stride 2 and pooling; without pooling; 3x3 stride 1


class Train(Section):
    """How any network is trained, in the search and after it."""

    threads: Cores  # per network: as many as there is room for are trained side by side
    weight_decay: Annotated[float, Field(ge=0, le=10)]
    warmup: Share  # share of the steps in which the learning rate rises; a cosine brings it down
    label_smoothing: Share
    balance: Literal["none", "loss", "sampling"]  # what evens out the classes
    dihedral: bool  # flips and quarter turns
    stain: Annotated[float, Field(ge=0, le=1)]  # strength of the haematoxylin and eosin jitter, 0: off
    precision: Literal["auto", "float32", "bfloat16"]  # auto: bfloat16 where the device computes in it


class Range(Section):
    low: LearningRate
    high: LearningRate

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if self.low > self.high:
            raise ValueError("low must not exceed high")
        return self


class Tune(Section):
    """Successive halving: every rung trains its trials afresh and passes the best 1 / reduction of them on."""

    seed: Seed
    trials: Annotated[int, Field(ge=1, le=10_000)]  # per network, in the first rung
    rungs: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1, max_length=10)]  # of a training
    reduction: Annotated[int, Field(ge=2, le=10)]
    lr: Range  # drawn log-uniformly
    batch_size: Annotated[list[BatchSize], Field(min_length=1)]
    widths: Annotated[list[Annotated[int, Field(ge=4, le=1024)]], Field(min_length=1)]  # of the CNN's two layers
    cpus_per_trial: Cores  # also the threads of a trial
    gpus_per_trial: Annotated[float, Field(ge=0, le=64)]


class TrainModel(Section):
    """How one network is trained, beside what all share."""

    seed: Seed
    epochs: Epochs  # all of them, on every fold: none is chosen
    ema: Share  # decay of the weight average per step, 0: off


class TrainResnet(TrainModel):
    weights: FileName  # imagenet, none, or a file


class Evaluate(Section):
    seed: Seed  # of what is drawn at random
    bins: Annotated[int, Field(ge=2, le=100)]  # of confidence, for the calibration error
    target_coverage: Annotated[float, Field(gt=0, lt=1)]  # share of new crops whose conformal set holds the truth


class Robustness(Section):
    """What held-out crops are changed by; every value is a condition in which all of them are predicted again."""

    seed: Seed
    crops: Annotated[int, Field(ge=1, le=1_000_000)]  # drawn at random from the held-out folds
    factors: Severities  # how many times as strong haematoxylin, and eosin, are
    blur: Severities  # standard deviation, pixels
    jpeg: Annotated[list[Annotated[int, Field(ge=1, le=100)]], Field(max_length=100)]  # quality
    gamma: Severities
    resolution: Severities  # how many times as large pixels are
    stains: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(max_length=100)]  # quantile of other groups'


class Review(Section):
    """Which labels are put up for a second look."""

    crops: Annotated[int, Field(ge=1, le=1000)]  # in the figure; the table has all


class Occlusion(Section):
    window: Annotated[int, Field(ge=1, le=1024)]  # pixels, at most the crop's side
    stride: Annotated[int, Field(ge=1, le=1024)]  # pixels

    @model_validator(mode="after")
    def _covered(self) -> "Occlusion":
        if self.stride > self.window:
            raise ValueError("stride must not exceed window")
        return self


AttributionMethod = Literal["occlusion", "integrated_gradients", "gradient_shap", "layer_cam"]


class Explain(Section):
    seed: Seed
    crops: Annotated[int, Field(ge=1, le=10_000)]  # held-out ones, drawn at random: their maps are scored
    stratify: bool  # as many of each class as of any other; false: as the classes come
    gallery_crops: Annotated[int, Field(ge=1, le=1000)]  # per class, of `crops`: shown
    errors: Annotated[int, Field(ge=0, le=1000)]  # the most confident ones of all classes: shown, not scored
    sanity_crops: Annotated[int, Field(ge=1, le=1000)]  # of `crops`: shifted by a pixel, shown to random networks
    random_networks: Annotated[int, Field(ge=2, le=100)]  # with random weights, whose maps are scored beside
    methods: Annotated[list[AttributionMethod], Field(min_length=1)]
    occlusion: Annotated[list[Occlusion], Field(min_length=1, max_length=10)]
    ig_steps: Annotated[int, Field(ge=1, le=256)]  # of integrated gradients, from each of the two baselines
    smoothgrad_samples: Annotated[int, Field(ge=0, le=1000)]  # noisy copies to average over; 0: none
    noise_std: Annotated[float, Field(ge=0, le=1)]  # of these and of GradientSHAP, as a share of a crop's range
    shap_samples: Annotated[int, Field(ge=1, le=256)]  # of GradientSHAP
    curve_points: Annotated[int, Field(ge=2, le=100)]  # intervals of the deletion and insertion curves
    patch: Annotated[int, Field(ge=1, le=1024)]  # pixels per side of what is hidden or shown at once

    @field_validator("occlusion")
    @classmethod
    def _windows_differ(cls, value: list[Occlusion]) -> list[Occlusion]:
        if len({item.window for item in value}) < len(value):
            raise ValueError("two of one window")
        return value

    @field_validator("methods")
    @classmethod
    def _methods_differ(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("each method once")
        return value


class Predict(Section):
    tta: bool  # average over the eight flips and rotations
    average: Literal["final", "folds"]  # what `submit` uses: the network trained on all crops, or those of the folds


class Report(Section):
    crops: Annotated[int, Field(ge=0, le=10_000)]  # wrong predictions on the page, and labels to review, at most


class Params(Section):
    lr: LearningRate | None  # None: what `tune` found
    batch_size: BatchSize | None  # None: what `tune` found
    epochs: Epochs | None  # None: the model's own
    model: ModelName  # whose metrics are the project's primary ones
    threads: Cores
    device: Literal["auto", "cpu", "cuda", "mps"]
    data: Data
    sample: Sample
    overlap: Overlap
    split: Split
    cnn: Cnn
    resnet: Resnet
    train: Train
    tune: Tune
    train_cnn: TrainModel
    train_resnet: TrainResnet
    evaluate: Evaluate
    robustness: Robustness
    review: Review
    explain: Explain
    predict: Predict
    report: Report

    @property
    def on_sample(self) -> bool:
        """Whether the crops are the built-in sample's, however `data.raw` is spelled."""
        return Path(self.data.raw).resolve() == Path(SAMPLE).resolve()


class _Loader(yaml.SafeLoader):
    """Plain YAML: no aliases, which can stand for any amount of text, no tags, no key twice, of which the last won."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _refuse("an alias: write out what it stands for", event)
        if getattr(event, "tag", None):
            raise _refuse("a tag: leave it out", event)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refuse("a key that is no name", key)
            if key.value in seen:
                raise _refuse(f"{key.value!a:.60} a second time: keep one", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _refuse(problem: str, place: yaml.Event | yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


def load_params(path: Path) -> Params:
    """Read and check the whole of `path`; raise InputError that names each wrong key, its value and what fits."""
    try:
        require_file(path)
        if path.stat().st_size > LARGEST_FILE:
            raise InputError(f"{path}: larger than {LARGEST_FILE // 2**10} KiB: expected the project's parameters")
        values = _Loader(path.read_text(encoding="utf-8")).get_single_data()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1
        raise InputError(f"{path}: not plain YAML (line {line}: {error.problem}): correct it") from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not plain YAML ({' '.join(str(error).split())}): correct it") from None
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        problems = [_describe(problem) for problem in error.errors(include_url=False)]
    more = f"; and {len(problems) - MOST_PROBLEMS} more" if len(problems) > MOST_PROBLEMS else ""
    raise InputError(f"{path}: {'; '.join(problems[:MOST_PROBLEMS])}{more}")


def _describe(problem: ErrorDetails) -> str:
    """Say which key is wrong, what its value is and what fits."""
    key = ".".join(str(part) if str(part).isidentifier() else ascii(part) for part in problem["loc"]) or "the file"
    if problem["type"] == "extra_forbidden" and key in RENAMED:
        return f"{key}: {RENAMED[key]}"
    if problem["type"] == "extra_forbidden":
        return f"{key}: no such parameter; {_nearest(*map(str, problem['loc']))}"
    if problem["type"] == "missing":
        return f"{key}: missing: add it"
    hint = " (YAML takes 1e-3 for text: write 0.001)" if problem["type"] == "float_type" else ""
    return f"{key}: {problem['msg'].removeprefix('Value error, ')}, got {problem['input']!a:.60}{hint}"


def _nearest(*unknown: str) -> str:
    """Name the parameter that was probably meant by `unknown`: a like one of its section, or else of another."""
    *parents, name = unknown
    everywhere = _keys(Params)
    siblings = [key for key in everywhere if key.split(".")[:-1] == parents]
    for keys, likeness in ((siblings, 0.6), (everywhere, 0.8)):
        last = [key.split(".")[-1] for key in keys]
        for like in get_close_matches(name, last, n=1, cutoff=likeness):
            return f"did you mean {' or '.join(key for key in keys if key.split('.')[-1] == like)}?"
    return f"expected one of {', '.join(siblings)}"


def _keys(section: type[Section], prefix: str = "") -> list[str]:
    """List the parameters of `section` and, dotted, of the sections in it."""
    keys = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            keys += _keys(field.annotation, f"{prefix}{name}.")
    return keys
