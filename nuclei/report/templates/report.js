"use strict";

// A click on a column's head sorts by it, a second one the other way round.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((one, other) => sign * compare(one.cells[column], other.cells[column]));
      table.tBodies[0].append(...rows);
    });
  });
}

function compare(one, other) {
  const numbers = ["value" in one.dataset, "value" in other.dataset];
  if (numbers[0] && numbers[1]) return one.dataset.value - other.dataset.value;
  if (numbers[0] || numbers[1]) return numbers[1] - numbers[0];
  return one.textContent.localeCompare(other.textContent, "en", { numeric: true });
}

// The gallery shows the crops that the chosen network, any of them or all, took for the chosen class.
const gallery = document.getElementById("gallery");
if (gallery) {
  const pair = document.getElementById("pair");
  const model = document.getElementById("model");
  const any = [...model.options].map((option) => option.value).filter((value) => value && !value.includes(" "));
  const filter = () => {
    const chosen = model.value ? model.value.split(" ") : any;
    const fits = (name, crop) => (pair.value ? crop.dataset[name] === pair.value : name in crop.dataset);
    let shown = 0;
    for (const crop of gallery.children) {
      const matches = chosen.map((name) => fits(name, crop));
      crop.hidden = model.value ? matches.includes(false) : !matches.includes(true);
      shown += !crop.hidden;
    }
    document.getElementById("matches").textContent = `${shown} of ${gallery.children.length} shown`;
  };
  pair.addEventListener("change", filter);
  model.addEventListener("change", filter);
  for (const link of document.querySelectorAll("a[data-pair]")) {
    link.addEventListener("click", () => {
      pair.value = link.dataset.pair;
      model.value = link.dataset.model;
      filter();
    });
  }
  document.querySelector(".filters").hidden = false;
  filter();
}
