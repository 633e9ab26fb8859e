"use strict";

// A click on the head of a column sorts by it, a second click in the opposite order.
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
      rows.sort((first, second) => sign * compare(first.cells[column], second.cells[column]));
      table.tBodies[0].append(...rows);
    });
  });
}

function compare(first, second) {
  const numbers = ["value" in first.dataset, "value" in second.dataset];
  if (numbers[0] && numbers[1]) return first.dataset.value - second.dataset.value;
  if (numbers[0] || numbers[1]) return numbers[1] - numbers[0];
  return first.textContent.localeCompare(second.textContent, "en", { numeric: true });
}

// The gallery shows the crops that the chosen network, any network or all of them misclassified in the chosen way.
const gallery = document.getElementById("gallery");
if (gallery) {
  const pair = document.getElementById("pair");
  const model = document.getElementById("model");
  const networks = [...model.options].map((option) => option.value).filter((value) => value && !value.includes(" "));
  const filter = () => {
    const chosen = model.value ? model.value.split(" ") : networks;
    const fits = (name, crop) => {
      const error = crop.getAttribute(`data-${name}`);
      return pair.value ? error === pair.value : error !== null;
    };
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
