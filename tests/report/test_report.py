import base64
import hashlib
import itertools
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from fake_results import PARAMS, draw_crops, with_params, write_results

from nuclei.evaluation.metrics import METRICS
from nuclei.files import write_csv, write_json
from nuclei.models.checkpoint import Model, save_model
from nuclei.models.networks import SmallCNN, build
from nuclei.params import Params
from nuclei.report.page import build_card, build_page, confusion, count_mistakes, interval_axis, wrong_predictions
from nuclei.report.results import STAGES, describe_checkpoint, read_results

HOSTILE = [
    *("<script>alert(1)</script>.png", '"><img src=x onerror=alert(1)>.png', "'onload='alert(1).png", "&lt;b&gt;.png"),
    *("{{ 7 * 7 }}.png", "\u202egnp.exe", "</style><svg onload=alert(1)>", "javascript:alert(1)"),
    *("`$(touch x)`.png", "a" * 255, "http://example.org/x.png", "?#%20.png"),
]


class Page(HTMLParser):
    """What a page holds: (tag, attributes) of every element, the text without style and script, and those two."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.code: dict[str, list[str]] = {"style": [], "script": []}
        self.feed(html)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        (self.code[self.cdata_elem] if self.cdata_elem else self.words).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("reports")
    write_results(path)
    return path


@pytest.fixture(scope="module")
def results(folder) -> dict:
    return read_results(folder)


def show(results: dict, params: Params = PARAMS, crops: dict | None = None, parameters: str = "lr:\n") -> Page:
    return Page(build_page(results, draw_crops() if crops is None else crops, params, parameters))


def test_nothing_is_missing_where_all_files_are_there(results):
    page = show(results)
    assert not [name for name, content in results.items() if content is None]
    assert not re.search(r"\b(Missing|nan|None)\b", page.text)
    assert len(page.all("img")) == 7 + 1 + 4 + 1  # figures, a gallery, four errors, a label to review
    for model in ("cnn", "resnet"):
        assert "Missing" not in build_card(results, model, None, PARAMS).replace("Missing: `data/models", "")


@pytest.mark.parametrize("name", STAGES)
def test_a_missing_file_leaves_a_sentence_that_says_what_makes_it(name, results):
    page = show(results | {name: None})
    assert f"Missing: reports/{name} . uv run dvc repro {STAGES[name]} makes it." in page.text
    assert page.text.count("Missing: ") == 1
    for model in ("cnn", "resnet"):
        build_card(results | {name: None}, model, None, PARAMS)


def test_where_nothing_has_run_the_page_says_what_to_run(tmp_path):
    results = read_results(tmp_path)
    page = show(results, crops={})
    assert not page.all("img") and not page.all("table") and not page.all("svg")
    assert {unescape(name) for name in STAGES if f"reports/{name} " in page.text} == STAGES.keys() - {"crossval.csv"}
    card = build_card(results, "resnet", None, PARAMS)
    assert "Missing: `reports/metrics_resnet.json`; `uv run dvc repro evaluate` makes it." in card
    assert "Missing: `data/models/resnet.safetensors`; `uv run dvc repro train_resnet` makes it." in card


def test_the_same_files_give_the_same_bytes(folder):
    pages = [build_page(read_results(folder), draw_crops(), PARAMS, "lr:\n") for _ in range(2)]
    assert pages[0] == pages[1]


def test_the_page_loads_nothing_and_forbids_to(results):
    page = show(results)
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    hashes = {
        kind: base64.b64encode(hashlib.sha256("".join(parts).encode()).digest()).decode()
        for kind, parts in page.code.items()
    }
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{hashes['style']}'; "
        f"script-src 'sha256-{hashes['script']}'; base-uri 'none'; form-action 'none'"
    )
    assert page.all("script") == [{}] and page.all("style") == [{}]


def test_hostile_names_and_parameters_are_text(tmp_path):
    write_results(tmp_path, HOSTILE)
    results = read_results(tmp_path)
    evil = "lr: # </pre><script>alert(1)</script>"
    weights = {"asked": "<script>alert(1)</script>", "used": "none"}
    params = with_params(data={"raw": "<b>`x`"}, report={"crops": 50})
    page = show(results | {"weights.json": weights}, params, draw_crops(HOSTILE), evil)
    assert page.all("script") == [{}] and not page.all("b") and len(page.all("svg")) == len(METRICS) + 1
    assert all(image["src"].startswith("data:image/webp;base64,") for image in page.all("img"))
    assert all(not name.startswith("on") for _, attributes in page.elements for name in attributes)
    for name in (HOSTILE[0], HOSTILE[2], HOSTILE[3], HOSTILE[4]):  # those that were taken for something else
        assert name in page.text
    assert evil in page.text and weights["asked"] in page.text
    assert "from `<b>'x'`:" in build_card(results, "cnn", None, params)


def test_scores_and_intervals_are_those_of_the_files(results):
    page = show(results)
    assert "ResNet18 gets 75.0 % of 12 held-out crops right (95 % interval: 62.5 % to 93.8 %)." in page.text
    assert page.text.count("0.875 0.625 to 0.938") == len(METRICS) + 1  # the calibration error twice
    assert "It may be: they differ by 8.3 points." in page.text
    card = build_card(results, "cnn", None, PARAMS)
    assert "| accuracy | 0.875 | 0.625 to 0.938 |" in card and "| muscle | 0.500 | 0.300 | 0.250 | 3 |" in card
    assert "It may be: they differ by 8.3 points." in card
    assert card.count("0.625 to 0.938") == len(METRICS)


def test_where_there_is_one_group_no_interval_is_made_up(results):
    alone = {f"{metric}_{end}": None for metric in METRICS for end in ("low", "high")} | {"groups": 1}
    changed = {f"metrics_{model}.json": results[f"metrics_{model}.json"] | alone for model in ("cnn", "resnet")}
    page = show(results | changed)
    assert "ResNet18 gets 75.0 % of 12 held-out crops right." in page.text
    assert page.text.count("no interval ") == 2 * (len(METRICS) + 1) and not page.all("svg")
    assert "from 1 group only. One says nothing of others: there are no intervals." in page.text
    assert "| accuracy | 0.875 | – |" in build_card(results | changed, "cnn", None, PARAMS)


def test_random_starting_weights_are_loud(results):
    assert "started from random weights" not in show(results).text
    for asked, reason in (("imagenet", "could not be downloaded"), ("none", "asks for that")):
        changed = results | {"weights.json": {"asked": asked, "used": "none"}}
        page = show(changed)
        assert "ResNet18 started from random weights" in page.text and reason in page.text
        assert {"class": "note loud"} in page.all("p")
        assert "**Started from random weights**" in build_card(changed, "resnet", None, PARAMS)


def test_a_leaking_split_is_loud(results):
    leaking = results | {"leakage.json": results["leakage.json"] | {"pairs_across_folds": 1200}}
    page = show(leaking)
    assert "The split leaks: 1,200 pairs of crops share pixels across folds" in page.text
    assert {"class": "note loud"} in page.all("p") and "some of which do too" in page.text
    assert "that share none with the training crops" in show(results).text


def test_wrong_predictions_come_with_what_every_network_says_the_surest_first(results):
    tables = {model: results[f"predictions_{model}.csv"] for model in ("cnn", "resnet")}
    errors = wrong_predictions(tables)
    assert [(wrong.name, wrong.label) for wrong in errors] == [("4.png", 0), ("0.png", 0), ("2.png", 2), ("3.png", 3)]
    assert errors[0].guesses == {"cnn": (1, 0.9), "resnet": (1, 0.9)}
    assert errors[3].guesses == {"cnn": (3, 0.7), "resnet": (0, 0.7)}
    assert count_mistakes(errors) == [((0, 1), 2), ((2, 3), 1), ((3, 0), 1)]
    assert confusion(tables["cnn"]).tolist() == [[1, 2, 0, 0], [0, 3, 0, 0], [0, 0, 2, 1], [0, 0, 0, 3]]
    page = show(results)
    assert "All 4 held-out crops that a network got wrong, the surest first." in page.text
    assert "2 normal epithelial taken for cancer epithelial by CNN" in {
        link.get("aria-label") for link in page.all("a")
    }
    marked = [{key: value for key, value in item.items() if key.startswith("data")} for item in page.all("li")]
    assert [item for item in marked if item] == [
        {"data-cnn": "0-1", "data-resnet": "0-1"},
        {"data-cnn": "0-1"},
        {"data-cnn": "2-3"},
        {"data-resnet": "3-0"},
    ]


def test_of_many_errors_the_surest_are_shown_and_the_page_says_so(results):
    page = show(results, with_params(report={"crops": 1}))
    assert "The 1 of 4 held-out crops that a network got wrong where one was surest" in page.text
    assert len(page.all("img")) == 7 + 1 + 1 + 1


def test_no_error_and_no_doubtful_label_leave_a_sentence(results):
    right = {}
    for model in ("cnn", "resnet"):
        table = results[f"predictions_{model}.csv"]
        right[f"predictions_{model}.csv"] = table.assign(Predicted=table["Label"])
    page = show(results | right | {"review.csv": results["review.csv"].head(0)})
    assert "CNN and ResNet18 got no held-out crop wrong." in page.text
    assert "No label is contradicted by all networks with at least 90 % each." in page.text
    assert not page.all("select") and not [image for image in page.all("img") if image["width"] == "100"]


def test_heat_maps_come_with_the_scores_that_say_what_they_are_worth(results):
    page = show(results)
    assert "CNN trained LayerCAM 8 0.123 0.980" in page.text
    assert "ResNet18 trained centre first 8 0.000 –" in page.text
    assert "by every method and both networks: muscle" in {
        image["alt"].partition("crops ")[2] for image in page.all("img")
    }


def test_without_the_crops_their_names_and_labels_remain(results):
    page = show(results, crops={})
    assert page.text.count("no picture: data/crops is missing") == 4 + 1
    assert "4.png" in page.text


def test_cross_validation_is_shown_or_how_to_switch_it_on(results, tmp_path):
    page = show(results)
    assert page.text.count("0.912 ± 0.034") == 2 * len(METRICS)
    assert "Every fold, held out in turn" in page.text
    write_json(tmp_path / "crossval.json", {})
    write_csv(tmp_path / "crossval.csv", results["crossval.csv"].head(0))
    off = {name: read_results(tmp_path)[name] for name in ("crossval.json", "crossval.csv")}
    page = show(results | off)
    assert "Off. uv run dvc exp run -S 'crossval.models=[cnn,resnet]' trains" in page.text


def test_near_duplicates_are_listed_or_said_not_to_be_looked_for(results):
    assert "were not looked for" in show(results).text
    looked = with_params(overlap={"near_duplicates": True})
    assert "pixels: 2 pairs, at most 20 shown" in show(results, looked).text
    none = results | {"near_duplicates.csv": results["near_duplicates.csv"].head(0)}
    assert "No crops look alike without sharing pixels." in show(none, looked).text


def test_a_number_that_is_not_known_is_a_dash(results):
    assert np.isnan(results["classes_cnn.csv"]["Set_coverage"][1])
    cells = [value for value in show(results).words if value == "–"]
    assert len(cells) == 2 + 1  # a class of each network, the stability of a random order


def test_headings_go_down_one_by_one_and_links_lead_somewhere(results):
    page = show(results)
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert all(link["href"].removeprefix("#") in ids for link in page.all("a"))
    assert all(image["alt"] and image["width"] and image["height"] for image in page.all("img"))
    assert page.all("html") == [{"lang": "en"}]


def test_places_of_intervals_lie_on_one_axis(results):
    scores = {
        "cnn": {"auc": 0.5, "auc_low": 0.25, "auc_high": 0.75},
        "resnet": {"auc": 1.0, "auc_low": 0.75, "auc_high": 1.25},
    }
    axis = interval_axis(scores, "auc")
    assert axis == {"low": 0.25, "high": 1.25, "places": {"cnn": [0, 25, 50], "resnet": [50, 75, 100]}}
    assert interval_axis({"cnn": {"auc": 1.0, "auc_low": 1.0, "auc_high": 1.0}}, "auc") is None


def test_grey_crops_are_shown(results):
    assert len(show(results, crops=draw_crops(channels=1)).all("img")) == 13


def test_a_card_says_what_the_file_says_of_itself(results, tmp_path):
    network = build(SmallCNN(1, (8, 8, 16, 16), (4, 4), 0.2), seed=0)
    path = tmp_path / "cnn.safetensors"
    save_model(path, Model(network, SmallCNN(1, (8, 8, 16, 16), (4, 4), 0.2), 1.5))
    checkpoint = describe_checkpoint(path)
    assert checkpoint["parameters"] == sum(value.numel() for value in network.parameters())
    card = build_card(results, "cnn", checkpoint, PARAMS)
    assert (
        f"SmallCNN (channels: 1; filters: 8, 8, 16, 16; widths: 4, 4; dropout: 0.2), {checkpoint['parameters']:,}"
        in card
    )
    assert "softmax(logits / 1.500)" in card and "grey" in card
