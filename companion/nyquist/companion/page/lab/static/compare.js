// Many pictures: the figures of each model, the scatter of them, and the pictures that flip.

import { events, sampleFile } from "./ask.js";
import { scatter } from "./charts.js";
import { by, element, percent } from "./dom.js";
import { KNOWN } from "./sources.js";

const MOST = 256;
const GALLERY = 60;
const MANY = 30; // fewer are told as a count, not as a share

export function compare({ wish, samples, taking, open, complain, titles }) {
  const start = (files, labels) => {
    const wanted = wish(), names = titles();
    if (!names.length) return complain(new Error("choose the models that are compared"));
    if (!files.length) return complain(new Error("the folder holds no JPEG, PNG or WebP"));
    by("compared").replaceChildren();
    const judged = [];
    let done = 0;
    taking("asking …", async (signal, follow) => {
      let total = 1;
      for await (const event of events(wanted, files, labels, signal)) {
        if (event.kind === "start") total = event.total;
        if (event.kind === "answers") follow((done += event.answers.length), total);
        if (event.kind === "picture") judged.push(event);
        if (event.kind === "done") show(event.models, judged, names, files, open, wanted);
      }
      by("compare").scrollIntoView();
    });
  };
  const many = (found) => {
    const some = found.slice(0, MOST);
    start(some.map((one) => one.file), some.map((one) => one.folder));
    if (some.length < found.length) complain(new Error(`the first ${MOST} of ${found.length} pictures are asked about`));
  };
  by("folder").addEventListener("change", ({ target }) => {
    const inside = (file) => file.webkitRelativePath.split("/").slice(1, -1).pop() ?? "";
    many([...target.files].filter((one) => KNOWN.test(one.name)).map((file) => ({ file, folder: inside(file) })));
    target.value = "";
  });
  by("compare").addEventListener("click", async ({ target }) => {
    const of = samples.filter((one) => one.group === target.dataset.group);
    if (of.length) start(await Promise.all(of.map(sampleFile)), of.map((one) => one.name.replaceAll("_", " ")));
  });
  return many;
}

const share = (right, of) => (of < MANY ? `${right} of ${of}` : `${percent(right / of)} of ${of}`);

function show(models, judged, names, files, open, wanted) {
  const named = models.map((one, at) => ({ ...one, title: names[at], short: names[at].replace(/^fashion_/, "") }));
  const labelled = named.some((one) => one.labelled);
  const box = by("compared");
  box.replaceChildren(figures(named, labelled, wanted));
  const plots = element("div", { class: "plots" });
  box.append(plots);
  const width = Math.min(560, Math.max(260, Math.floor(box.clientWidth > 820 ? box.clientWidth / 2 - 20 : box.clientWidth)));
  const consistency = { name: "consistency", of: (one) => one.share, share: true, write: (value) => `consistency ${percent(value)}`, tick: (value) => `${Number((100 * value).toFixed(1))}%` };
  const latency = { name: "latency in ms", of: (one) => 1000 * one.latency_s, write: (value) => `${value.toFixed(2)} ms`, tick: (value) => String(Number(value.toFixed(2))) };
  const accuracy = { name: "accuracy", of: (one) => one.right_share, share: true, write: (value) => `accuracy ${percent(value)}`, tick: (value) => `${Number((100 * value).toFixed(1))}%` };
  if (named.length > 1) {
    plots.append(element("div", { class: "chart" }, scatter(named, latency, consistency, width, { line: !labelled })));
    if (labelled) plots.append(element("div", { class: "chart" }, scatter(named, accuracy, consistency, width, { line: false })));
    plots.after(element("p", { class: "quiet" }, "Filled: on the Pareto front, where no other model is at least as good in everything and better in something."));
  }
  const worst = judged.map((one) => ({ ...one, bad: Math.max(...one.models.map((each) => each.changed / each.pairs)) }))
    .filter((one) => one.bad > 0).sort((a, b) => b.bad - a.bad);
  box.append(element("h3", {}, worst.length ? `${worst.length} of ${files.length} pictures flip, the worst first` : `None of ${files.length} pictures flips`),
    element("ul", { class: "gallery" }, ...worst.slice(0, GALLERY).map((one) => entry(one, named, files[one.picture], open))));
  if (worst.length > GALLERY) box.append(element("p", { class: "quiet" }, `${worst.length - GALLERY} more are not shown.`));
}

function figures(models, labelled, wanted) {
  const heads = ["model", ...(labelled ? ["accuracy"] : []), "consistency", `moves by ${wanted.step} px that flip`, "pictures that never flip", "latency"];
  const rows = models.map((one, place) => {
    const error = one.standard_error ? ` ± ${(100 * one.standard_error).toFixed(1)}` : `, or down to ${percent(one.least)}`;
    const cells = [...(labelled ? [one.labelled ? share(one.right, one.labelled) : "no labels"] : []),
      `${percent(one.share)}${error}, ${one.pictures} pictures`, `${one.changed} of ${one.pairs}`, share(one.unchanged, one.pictures), `${(1000 * one.latency_s).toFixed(2)} ms`];
    return element("tr", {}, element("th", { scope: "row" }, `${place + 1} ${one.title}`, element("small", {}, one.front ? "on the Pareto front" : "")),
      ...cells.map((text, at) => element("td", { class: "number", "data-path": heads[at + 1] }, text)));
  });
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Figures of each model" },
    element("table", { class: "stack" }, element("thead", {}, element("tr", {}, ...heads.map((one, at) => element("th", { scope: "col", class: at ? "number" : "" }, one)))), element("tbody", {}, ...rows)),
    element("p", { class: "quiet" }, "Consistency: of all pairs of positions the share with the same answer, ± one standard error over pictures; or down to: all pictures are alike, and with 95% the true share lies no lower. Latency: median of one picture asked alone, as seen from here."));
}

function entry(one, models, file, open) {
  const button = element("button", { type: "button" }, "Slide it above");
  button.addEventListener("click", () => {
    open(file);
    by("picture").scrollIntoView();
  });
  return element("li", {}, element("h4", {}, file.name), ...one.models.flatMap((each, at) => [
    element("p", {}, `${models[at].title}: ${each.changed} of ${each.pairs}${each.flip ? `, ${each.flip.answers.join(" to ")}` : ""}`),
    ...(each.flip ? [element("div", { class: "sides" }, ...each.flip.pictures.map((uri, side) => element("figure", { class: "side" },
      element("img", { src: uri, alt: `position ${each.flip.positions[side]}: ${each.flip.answers[side]}` }))))] : []),
  ]), button);
}
