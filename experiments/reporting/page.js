"use strict";

// Which experiments are shown, in all charts at once.
const hidden = new Set();

for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const experiment = button.dataset.experiment;
    const shown = hidden.delete(experiment);
    if (!shown) hidden.add(experiment);
    button.setAttribute("aria-pressed", String(shown));
    for (const group of document.querySelectorAll(`g[data-experiment="${experiment}"]`)) {
      group.style.display = shown ? "" : "none";
    }
  });
}

const names = new Map(
  [...document.querySelectorAll(".legend button")].map((button) => [button.dataset.experiment, button.dataset.name]),
);
const number = new Intl.NumberFormat("en", { maximumSignificantDigits: 5 });

function nearest(points, x) {
  let best = null;
  for (const point of points) {
    if (best === null || Math.abs(point[0] - x) < Math.abs(best[0] - x)) best = point;
  }
  return best;
}

for (const figure of document.querySelectorAll("figure.chart")) {
  const svg = figure.querySelector("svg");
  const data = JSON.parse(figure.querySelector("script").textContent);
  const [left, right] = figure.dataset.box.split(",").map(Number);
  const rule = svg.querySelector(".rule");
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  figure.append(tip);

  function leave() {
    tip.hidden = true;
    rule.style.display = "none";
  }

  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const across = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const share = (across - left) / (right - left);
    const visible = data.series.filter((series) => !hidden.has(String(series.experiment)));
    if (share < 0 || share > 1 || visible.length === 0) return leave();
    const x = data.x[0] + share * (data.x[1] - data.x[0]);
    const points = visible.map((series) => [series, nearest(series.points, x)]);
    const at = nearest(points.map(([, point]) => point), x)[0];
    const place = left + ((at - data.x[0]) / (data.x[1] - data.x[0])) * (right - left);
    rule.setAttribute("x1", place);
    rule.setAttribute("x2", place);
    rule.style.display = "";
    tip.replaceChildren();
    const head = document.createElement("div");
    head.textContent = `${number.format(at)} steps`;
    tip.append(head);
    for (const [series, point] of points.sort((one, other) => other[1][1] - one[1][1])) {
      const line = document.createElement("div");
      const mark = document.createElement("span");
      mark.className = `mark c${series.experiment % 8}`;
      line.append(mark, `${number.format(point[1])}  ${names.get(String(series.experiment))}`);
      tip.append(line);
    }
    tip.hidden = false;
    const x0 = event.clientX - figure.getBoundingClientRect().left;
    tip.style.left = `${Math.min(x0 + 14, figure.clientWidth - tip.offsetWidth)}px`;
    tip.style.top = `${event.clientY - figure.getBoundingClientRect().top + 14}px`;
  });
}
