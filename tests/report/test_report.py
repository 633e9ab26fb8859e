import base64
import hashlib
import itertools
import os
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_results import NAMES, PARAMS, draw_crops, with_params, write_results
from references import NO_REFERENCE

from nuclei.evaluation.metrics import METRICS
from nuclei.models.calibration import Calibration
from nuclei.models.checkpoint import Model, save_model
from nuclei.models.networks import build
from nuclei.models.small_cnn import SmallCNN
from nuclei.params import Params
from nuclei.report.page import build_card, build_page, confusion, count_errors, interval_axis, list_misclassified
from nuclei.report.results import STAGES, describe_checkpoint, read_results
from nuclei.report.tables import SearchCost, count_search
from nuclei.task import COLON, NETWORKS

FIGURES = len([name for name in STAGES if name.endswith(".png")])
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


def change_metrics(results: dict, changes: dict) -> dict:
    """Change the scores of all networks."""
    names = [f"evaluate/metrics_{model}.json" for model in NETWORKS]
    return results | {name: results[name] | changes for name in names}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("reports")
    write_results(path)
    return path


@pytest.fixture(scope="module")
def results(folder) -> dict:
    return read_results(folder)


def issues(results: dict) -> int:
    return len(results["review/label_issues.csv"])


def show(results: dict, params: Params = PARAMS, crops: dict | None = None, parameters: str = "lr:\n") -> Page:
    return Page(build_page(results, draw_crops() if crops is None else crops, COLON, params, parameters))


def test_nothing_is_missing_where_all_files_are_there(results):
    page = show(results)
    assert not [name for name, content in results.items() if content is None]
    assert not re.search(r"\b(Missing|nan|None)\b", page.text)
    assert len(page.all("img")) == FIGURES + 1 + 4 + issues(results)  # a gallery, four errors
    for model in NETWORKS:
        card = build_card(results, model, None, COLON, PARAMS)
        assert not re.search(r"\b(Missing|nan|None)\b", card.replace("Missing: `data/models", ""))


@pytest.mark.parametrize("name", STAGES)
def test_a_missing_file_leaves_a_sentence_that_says_what_makes_it(name, results):
    page = show(results | {name: None})
    assert f"Missing: reports/{name} . uv run dvc repro {STAGES[name]} makes it." in page.text
    assert page.text.count("Missing: ") == 1
    for model in NETWORKS:
        build_card(results | {name: None}, model, None, COLON, PARAMS)


def test_where_nothing_has_run_the_page_says_what_to_run(tmp_path):
    results = read_results(tmp_path)
    page = show(results, crops={})
    assert not page.all("img") and not page.all("table") and not page.all("svg")
    assert {unescape(name) for name in STAGES if f"reports/{name} " in page.text} == STAGES.keys()
    assert "No predictions yet; run uv run dvc repro evaluate ." in page.text
    card = build_card(results, "resnet", None, COLON, PARAMS)
    assert "Missing: `reports/evaluate/metrics_resnet.json`; `uv run dvc repro evaluate` makes it." in card
    assert "Missing: `data/models/resnet/final.safetensors`; `uv run dvc repro train_resnet` makes it." in card


def test_the_same_files_give_the_same_bytes(folder):
    pages = [build_page(read_results(folder), draw_crops(), COLON, PARAMS, "lr:\n") for _ in range(2)]
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
    names = [*HOSTILE, *NAMES[len(HOSTILE) :]]
    write_results(tmp_path, names)
    results = read_results(tmp_path)
    evil = "lr: # </pre><script>alert(1)</script>"
    weights = {"asked": "<script>alert(1)</script>", "used": "none", "source": "none"}
    params = with_params(data={"raw": "<b>`x`"}, report={"crops": 50})
    page = show(results | {"weights/weights.json": weights}, params, draw_crops(names), evil)
    assert page.all("script") == [{}] and not page.all("b") and len(page.all("svg")) == 7
    assert all(image["src"].startswith("data:image/webp;base64,") for image in page.all("img"))
    assert all(not name.startswith("on") for _, attributes in page.elements for name in attributes)
    for name in (HOSTILE[0], HOSTILE[2], HOSTILE[3], HOSTILE[4]):  # the misclassified ones
        assert name in page.text
    assert evil in page.text and weights["asked"] in page.text
    assert "from `<b>'x'`" in build_card(results, "cnn", None, COLON, params)


def test_the_page_leads_with_the_pooled_estimate_of_the_primary_model(results):
    scores = results["evaluate/metrics_resnet.json"]
    low, high = (f"{100 * scores[f'accuracy_{end}']:.1f} %" for end in ("low", "high"))
    page = show(results)
    lead = f"ResNet18 classifies 95.8 % of 48 held-out crops correctly (95 % interval: {low} to {high})."
    assert lead in page.text
    assert "Each crop was classified by a network that had not seen any crop of its fold." in page.text
    assert "Only 3 of the 5 folds were held out in turn" in page.text
    assert "The crops form 12 groups of equal size." in page.text
    assert "CNN classifies 93.8 % of 48" in show(results, with_params(model="cnn")).text
    assert "All 3 folds were held out in turn" in show(results, with_params(split={"folds": 3})).text
    card = build_card(results, "resnet", None, COLON, PARAMS)
    interval = f"{scores['accuracy_low']:.3f} to {scores['accuracy_high']:.3f}"
    assert f"| accuracy | 0.958 | {interval} |" in card and f"0.958 {interval}" in page.text
    assert "only 3 of the 5 folds were held out" in card
    row = results["evaluate/classes_resnet.csv"].set_index("Class").loc["muscle"]
    assert f"| muscle | {row.Precision:.3f} | {row.Recall:.3f} | {row.F1:.3f} | 12 | 12 | 12.0 |" in card


def test_groups_of_unequal_size_are_counted_for_what_they_are_worth(results):
    changed = change_metrics(results, {"groups": 58, "effective_groups": 6.14})
    page = show(changed)
    assert "The crops form 58 groups, which differ in size: they carry as much information as 6.1 groups" in page.text
    assert "48 crops in 58 groups (6.1 effective)" in page.text
    assert "58 groups, which differ in size and carry as much information as 6.1" in build_card(
        changed, "cnn", None, COLON, PARAMS
    )


def test_where_an_interval_is_withheld_the_reason_stands_there(results):
    reason = "No intervals: the crops are worth 3.9 groups of equal size."
    without = {f"{metric}_{end}": None for metric in METRICS if metric != "ece" for end in ("low", "high")}
    changed = change_metrics(results, without | {"intervals_withheld": reason})
    page = show(changed)
    assert "ResNet18 classifies 95.8 % of 48 held-out crops correctly." in page.text and reason in page.text
    assert page.text.count("no interval ") == 2 * 7 and not page.all("svg")  # the Brier score stands in two tables
    card = build_card(changed, "cnn", None, COLON, PARAMS)
    assert "| accuracy | 0.938 | – |" in card and reason in card and "jackknife" not in card


def test_a_calibration_error_stands_beside_that_of_a_perfectly_calibrated_network(results):
    scores = results["evaluate/metrics_cnn.json"]
    expected = f"CNN: an ECE of {scores['ece']:.3f}, where a perfectly calibrated network would get "
    page = show(results)
    assert f"{expected}{scores['ece_if_calibrated']:.3f} on average" in page.text
    assert "no sign of miscalibration" in page.text and "more than chance explains" not in page.text
    assert "more than chance explains" in show(change_metrics(results, {"ece": 0.5})).text
    assert f"is {scores['ece']:.3f}; a perfectly calibrated network" in build_card(results, "cnn", None, COLON, PARAMS)


def test_a_coverage_that_so_few_groups_cannot_promise_is_not_promised(results):
    few = "The target of 90 % cannot be promised with so few groups: G groups to calibrate on allow G / (G + 1) at most"
    assert few in show(results).text  # 8 groups calibrate each fold
    assert few not in show(change_metrics(results, {"set_coverage_promised": 0.9})).text


def test_every_verdict_is_on_the_page_and_on_the_cards_of_its_two_networks(results):
    verdict = results["evaluate/comparison.json"]["resnet_against_cnn"]["verdict"]
    assert verdict.startswith("Cannot be told")
    other = {"resnet_against_cnn": results["evaluate/comparison.json"]["resnet_against_cnn"] | {"verdict": "Equal."}}
    other |= {"toy_against_cnn": other["resnet_against_cnn"] | {"verdict": "Toy is better."}}
    changed = results | {"evaluate/comparison.json": other}
    assert "The balanced accuracy of ResNet18 minus that of CNN is +2.1 percentage points" in show(results).text
    assert verdict in show(results).text and "Toy is better." in show(changed).text
    assert "Toy is better." in build_card(changed, "cnn", None, COLON, PARAMS)
    assert "Toy is better." not in build_card(changed, "resnet", None, COLON, PARAMS)


def test_groups_are_listed_with_the_accuracy_of_every_network(results):
    page = show(results)
    assert "12 groups in numbers" in page.text
    assert "0 0.png 4 0.500 0.750 1 1 1 1" in page.text  # crops 0 and 2 by the CNN, crop 3 by the ResNet18
    many = {
        name: pd.concat([results[name]] * 4, ignore_index=True).assign(Group=[str(number) for number in range(48)])
        for name in ("evaluate/groups_cnn.csv", "evaluate/groups_resnet.csv")
    }
    assert "18 smaller groups with 72 crops are not shown" in show(results | many).text


def test_random_starting_weights_are_loud(results):
    assert "started from random weights" not in show(results).text
    for asked, reason in (("imagenet", "could not be downloaded"), ("none", "asks for random ones")):
        changed = results | {"weights/weights.json": {"asked": asked, "used": "none", "source": "none"}}
        page = show(changed)
        assert "ResNet18 started from random weights" in page.text and reason in page.text
        assert {"class": "note loud"} in page.all("p")
        assert "**Training started from random weights**" in build_card(changed, "resnet", None, COLON, PARAMS)


def test_a_leaking_split_is_loud(results):
    leaking = results | {"split/leakage.json": results["split/leakage.json"] | {"pairs_across_folds": 1200}}
    page = show(leaking)
    assert "The split leaks: 1,200 pairs of crops share pixels across folds" in page.text
    assert {"class": "note loud"} in page.all("p")
    assert "share no pixels with the crops that their network was trained on" not in page.text
    assert "share no pixels with the crops that their network was trained on" in show(results).text
    assert "**it leaks" in build_card(leaking, "cnn", None, COLON, PARAMS)


def test_the_page_says_what_a_random_split_would_leak(results):
    assert "A random split, crop by crop, would leak: 99.2 % to 100.0 % of the crops" in show(results).text


def test_the_sample_is_named_however_its_folder_is_spelled(results):
    for raw in ("data/sample", "./data/sample/", str(Path("data/sample").resolve())):
        params = with_params(data={"raw": raw})
        assert "built-in sample : synthetic tissue" in show(results, params).text
        assert "built-in sample: synthetic" in build_card(results, "cnn", None, COLON, params)
    assert "built-in sample :" not in show(results, with_params(data={"raw": "data/other"})).text


def test_misclassified_crops_come_with_every_prediction_the_most_confident_first(results):
    tables = {model: results[f"evaluate/predictions_{model}.csv"] for model in NETWORKS}
    errors = list_misclassified(tables)
    assert [(error.name, error.label) for error in errors] == [("4.png", 0), ("0.png", 0), ("2.png", 2), ("3.png", 3)]
    assert errors[0].predicted["cnn"][0] == errors[0].predicted["resnet"][0] == 1
    assert errors[3].predicted["cnn"][0] == 3 and errors[3].predicted["resnet"][0] == 0
    assert count_errors(errors) == [((0, 1), 2), ((2, 3), 1), ((3, 0), 1)]
    assert confusion(tables["cnn"], 4).tolist() == [[10, 2, 0, 0], [0, 12, 0, 0], [0, 0, 11, 1], [0, 0, 0, 12]]
    page = show(results)
    assert "All 4 held-out crops that at least one network misclassified, the most confident errors" in page.text
    assert "2 normal epithelial classified as cancer epithelial by CNN" in {
        link.get("aria-label") for link in page.all("a")
    }
    marked = [{key: value for key, value in item.items() if key.startswith("data")} for item in page.all("li")]
    assert [item for item in marked if item] == [
        {"data-cnn": "0-1", "data-resnet": "0-1"},
        {"data-cnn": "0-1"},
        {"data-cnn": "2-3"},
        {"data-resnet": "3-0"},
    ]


def test_of_many_errors_the_most_confident_are_shown_and_the_page_says_so(results):
    page = show(results, with_params(report={"crops": 1}))
    assert "1 of the 4 held-out crops that at least one network misclassified" in page.text
    images = {image["alt"] for image in page.all("img") if image["width"] == "100"}
    assert images == {"Crop labelled normal epithelial"}


def test_no_error_and_no_label_issue_leave_a_sentence(results):
    correct = {}
    for model in NETWORKS:
        table = results[f"evaluate/predictions_{model}.csv"]
        correct[f"evaluate/predictions_{model}.csv"] = table.assign(Predicted=table["Label"])
    none = {"review/label_issues.csv": results["review/label_issues.csv"].head(0)}
    page = show(results | correct | none)
    assert "No held-out crop was misclassified by CNN or ResNet18." in page.text
    assert "No label is suspected to be an error." in page.text
    assert not page.all("select") and not [image for image in page.all("img") if image["width"] == "100"]


def test_label_issues_are_no_rate_of_label_errors(results):
    assert issues(results) == 1
    page = show(results)
    assert "1 label is suspected, of 48." in page.text
    assert "the number is no estimate of the rate of label errors" in page.text
    assert "nuclei relabel data/sample corrected.csv --out data/corrected" in page.text
    assert re.search(r"4\.png normal epithelial cancer epithelial \d+ % \d+ % 0\.\d{3}", page.text)


def test_heat_maps_come_with_null_orders_random_weights_and_a_cautious_finding(results):
    page = show(results)
    row = "mean colour integrated gradients cannot be told 0.046 ± 0.031 -0.100 ± 0.020 0.091 ± 0.050 -0.200 ± 0.020"
    assert row in page.text
    assert "occlusion 28 consistent with what the network uses 0.123 ± 0.031 – " in page.text
    assert "centre first" in page.text and "smooth random" in page.text and "That is no proof" in page.text
    assert "With the baseline “blurred” in place of the whole crop, CNN most often predicts muscle (100 %" in page.text
    assert "by every method and network: muscle" in {image["alt"].partition("crops ")[2] for image in page.all("img")}


def test_robustness_says_which_changes_were_not_used_in_training(results):
    page = show(results)
    assert "Gaussian blur, standard deviation 2 pixels 0.800 0.750 0.800 0.750" in page.text
    assert "the stains of other groups were not used in training" in page.text
    assert "None of these changes was used" in show(results, with_params(train={"stain": 0.0})).text
    card = build_card(results, "cnn", None, COLON, PARAMS)
    assert "the lowest accuracy is 0.700 (stained as another group" in card


def test_the_search_is_weighed_against_the_trainings(results):
    # 80 crops: 3 trainings on 64 (16 are held out of each), one on all 80, of 2 epochs, in batches of 8
    expected = SearchCost(3, 40, 320, 4, 2 * (3 * 8 + 10), 2 * 8 * (3 * 8 + 10))
    assert count_search(results, "cnn", PARAMS) == expected
    assert "the search is 37 % of all crops seen" in show(results).text
    assert count_search(results, "cnn", with_params(batch_size=64)).training_steps == 2 * 4


def test_nothing_was_chosen_on_the_curves_and_the_caption_says_so(results):
    page = show(results)
    assert (
        "nothing was chosen on them. The training loss includes label smoothing, augmentation and dropout" in page.text
    )
    assert "fold 0 is not used and alone is untouched by any choice" in page.text


def test_the_page_says_whether_labels_near_the_crops_to_predict_are_weighed_in(results):
    text = show(results).text
    assert "90.0 % of the crops to predict have labelled nuclei within 50 µm" in text
    assert "which changed 1 answer of CNN and 3 answers of ResNet18" in text
    for near in ({"near_labelled": 0.9, "changed": {}}, {"near_labelled": 0.0, "changed": {"cnn": 0, "resnet": 0}}):
        text = show(results | {"submit/neighbours.json": near}).text
        assert "of the crops to predict have labelled nuclei" in text and "weighed in ( predict" not in text


def test_without_the_crops_their_names_and_labels_remain(results):
    page = show(results, crops={})
    assert page.text.count("no image: data/crops is missing") == 4 + issues(results)
    assert "4.png" in page.text


def test_near_duplicates_are_listed_or_the_page_says_that_nobody_searched(results):
    assert "were not searched for" in show(results).text
    searched = with_params(overlap={"near_duplicates": True})
    assert "without sharing pixels: 2 pairs" in show(results, searched).text
    none = results | {"overlap/near_duplicates.csv": results["overlap/near_duplicates.csv"].head(0)}
    assert "There are no near-duplicates" in show(none, searched).text


def test_a_number_that_is_not_known_is_a_dash(results):
    assert np.isnan(results["explain/faithfulness.csv"]["Stability"][2])
    assert "centre first 0.000 ± 0.031 – 0.000 ± 0.050 – 0.300 0.200 – 0.500 –" in show(results).text


def test_each_environment_is_shown_once(results):
    page = show(results)
    assert "CNN and ResNet18 were trained in this environment:" in page.text and page.text.count("9.8.7") == 1
    other = {"device": "cuda", "threads": 1, "packages": {"torch": "9.8.8"}}
    page = show(results | {"train/resnet/environment.json": other})
    assert "CNN was trained in this environment:" in page.text and "9.8.8" in page.text


def test_a_third_network_is_on_the_page_and_has_a_card(tmp_path):
    """`nuclei.task.NETWORKS` alone says which networks there are: read anew by a process that has one more."""
    code = """
import sys
from pathlib import Path
from nuclei import task
task.NETWORKS["toy"] = task.NETWORKS["cnn"]._replace(title="Toy network")
sys.path.append("tests/support")
from fake_results import PARAMS, draw_crops, write_results
from nuclei.report.page import build_card, build_page
from nuclei.report.results import read_results
from nuclei.task import COLON
folder = Path(sys.argv[1])
write_results(folder)
results = read_results(folder)
assert all(content is not None for content in results.values())
(folder / "index.html").write_text(build_page(results, draw_crops(), COLON, PARAMS, "lr:"))
(folder / "card.md").write_text(build_card(results, "toy", None, COLON, PARAMS))
"""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True, cwd=root, env=os.environ | {"PYTHONPATH": "."})
    page = Page((tmp_path / "index.html").read_text())
    assert "CNN, ResNet18 and Toy network classify" in page.text and "Toy network: scores per class" in page.text
    assert "Confusion matrix of Toy network" in {region.get("aria-label") for region in page.all("div")}
    assert {"class": "number network2", "scope": "col"} in page.all("th")
    assert "# Model card: Toy network" in (tmp_path / "card.md").read_text()


def test_another_backbone_is_called_by_its_name(results):
    params = with_params(resnet={"backbone": "tf_efficientnet_lite0"})
    page = show(results, params)
    assert "CNN and tf_efficientnet_lite0 classify the nucleus" in page.text
    assert "Confusion matrix of tf_efficientnet_lite0" in {part.get("aria-label") for part in page.all("div")}
    assert "# Model card: tf_efficientnet_lite0" in build_card(results, "resnet", None, COLON, params)


def test_without_layer_cam_there_is_no_resolution_to_tell(results):
    table = results["explain/faithfulness.csv"]
    assert "Pixels_per_cell" in table
    page = show(results | {"explain/faithfulness.csv": table.drop(columns="Pixels_per_cell")})
    assert "Explanations" in page.text and "LayerCAM cannot resolve" not in page.text


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


def test_intervals_of_all_networks_lie_on_one_axis(results):
    scores = {
        "cnn": {"auc": 0.5, "auc_low": 0.25, "auc_high": 0.75},
        "resnet": {"auc": 1.0, "auc_low": 0.75, "auc_high": 1.25},
    }
    axis = interval_axis(scores, "auc")
    assert axis == {"low": 0.25, "high": 1.25, "positions": {"cnn": [0, 25, 50], "resnet": [50, 75, 100]}}
    assert interval_axis({"cnn": {"auc": 1.0, "auc_low": 1.0, "auc_high": 1.0}}, "auc") is None
    assert interval_axis({"cnn": {"auc": 1.0, "auc_low": None, "auc_high": None}}, "auc") is None


def test_grey_crops_are_shown(results):
    assert len(show(results, crops=draw_crops(channels=1)).all("img")) == FIGURES + 1 + 4 + issues(results)


def test_a_card_says_what_the_file_says_of_itself(results, tmp_path):
    architecture = SmallCNN(1, (8, 8, 16, 16), (4, 4), 0.2)
    network = build(architecture, seed=0)
    averaged = Calibration(1.5, (0.4, 0.3, 0.2), (0.8, 0.9, 0.909))
    path = tmp_path / "final.safetensors"
    single = Calibration(1.75, (0.5, 0.35, 0.25), (0.8,) * 3)
    save_model(path, Model("cnn", network, architecture, averaged, single, NO_REFERENCE))
    checkpoint = describe_checkpoint(path)
    assert checkpoint["parameters"] == sum(value.numel() for value in network.parameters())
    card = build_card(results, "cnn", checkpoint, COLON, PARAMS)
    shape = "CNN (channels: 1; filters: 8, 8, 16, 16; widths: 4, 4; dropout: 0.2; classes: 4; side: 100)"
    assert f"{shape}, {checkpoint['parameters']:,} parameters" in card
    assert "T is 1.500 for logits averaged" in card and "1.750 for those of the crop as it is" in card
    assert "| 95 % | 0.200 | 90.9 % | 0.250 | 80.0 % |" in card and "grey" in card
    assert "No crop was held out from this network" in card
