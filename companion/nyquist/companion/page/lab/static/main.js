// The lab: a picture, the models that are asked about it, and where it lies now.
//
// choose -> ask, a batch at a time -> draw what is known -> move -> say what is there

import { animation, events, listed, sampleFile } from "./ask.js";
import { FEW, curve, map, sample, trace } from "./charts.js";
import { Answers } from "./colours.js";
import { compare } from "./compare.js";
import { by, element, percent, pixels, place, probability } from "./dom.js";
import { listen } from "./sources.js";
import { save } from "./save.js";
import { View } from "./views.js";

const SHOWN = 4; // answers of a table
const PLAY_MS = 450;
const SETTLE_MS = 200; // until a change of the controls is asked for

const state = { models: [], file: null, run: null, stop: null, timer: 0, player: 0 };
const form = by("controls");

const chosen = () => [...form.querySelectorAll("[name=model]:checked")].map((one) => one.value);
const wish = () => ({
  models: chosen(), move: form.elements.move.value, path: form.elements.path.value,
  step: Number(by("step").value), reach: Number(by("reach").value),
});

// Models

function titled(one, all) {
  const versions = all.filter((each) => each.name === one.name && each.target === one.target);
  const targets = new Set(all.map((each) => each.target));
  const version = versions.length > 1 && one.version ? ` version ${one.version}` : "";
  return `${one.name}${version}${targets.size > 1 ? ` at ${one.target}` : ""}`;
}

async function showModels() {
  const all = await listed("models");
  state.models = all.filter((one) => one.id).map((one) => ({ ...one, title: titled(one, all) }));
  const box = by("models");
  box.replaceChildren(...state.models.map((one) => element("label", {},
    element("input", { type: "checkbox", name: "model", value: one.id, disabled: Boolean(one.reason) }), one.title,
    one.reason && element("span", { class: "reason" }, one.reason))));
  for (const one of all.filter((each) => !each.id)) box.append(element("span", { class: "reason" }, one.reason));
  if (!all.length) box.append(element("span", { class: "reason" }, "the server serves none"));
}

// Chooses two models that take such pictures, of a strided and an anti-aliased family the first of
// each; a choice that somebody made is left where it fits.
function suit(channels) {
  const fitting = state.models.filter((one) => !one.reason && (!channels || one.channels === channels));
  const kept = chosen().filter((id) => fitting.some((one) => one.id === id));
  if (kept.length || !fitting.length) return;
  const blurred = fitting.find((one) => /blur|polyphase|stable/.test(one.name));
  const plain = fitting.find((one) => /strided/.test(one.name)) ?? fitting.find((one) => one !== blurred);
  for (const box of form.querySelectorAll("[name=model]")) {
    box.checked = [plain?.id, blurred?.id].includes(box.value);
  }
}

// Running

function settle() {
  clearTimeout(state.timer);
  ranges();
  const ready = Boolean(state.file && chosen().length);
  by("run").disabled = !ready;
  if (ready && wish().path !== "map") state.timer = setTimeout(ask, SETTLE_MS);
}

function complain(error) {
  by("error").hidden = !error;
  by("error").textContent = error ? error.message : "";
}

async function taking(total, work) {
  state.stop?.abort();
  const stop = (state.stop = new AbortController());
  const bar = by("progress");
  Object.assign(bar, { value: 0, max: 1, hidden: false });
  by("cancel").hidden = false;
  by("state").textContent = total;
  complain(null);
  const begun = performance.now();
  try {
    await work(stop.signal, (done, of) => {
      Object.assign(bar, { max: of, value: done });
      by("state").textContent = `${done} of ${of} answers`;
    });
    by("state").textContent = `done in ${((performance.now() - begun) / 1000).toFixed(1)} s`;
  } catch (error) {
    if (stop.signal.aborted) { if (state.stop === stop) by("state").textContent = "cancelled"; } else {
      by("state").textContent = "";
      complain(error);
    }
  } finally {
    if (state.stop === stop) { by("cancel").hidden = bar.hidden = true; state.stop = null; }
  }
}

function ask() {
  clearTimeout(state.timer);
  const wanted = wish(), file = state.file;
  if (!file || !wanted.models.length) return;
  pause();
  taking("asking …", async (signal, follow) => {
    for await (const event of events(wanted, [file], [], signal)) await took(event, wanted, follow);
  });
}

const takes = {
  start(event, wanted) {
    const models = wanted.models.map((id) => {
      const { title, name } = state.models.find((one) => one.id === id);
      return { title, name, answers: Array(event.offsets.length), traces: [], flips: [], judged: null };
    });
    const index = new Map(event.offsets.map((one, at) => [String(one), at]));
    state.run = { wish: wanted, offsets: event.offsets, index, models, views: [], total: event.total, done: 0, at: 0, colours: new Answers(), name: event.pictures[0], figures: null };
    const before = position();
    cards();
    move(index.get(String(before)) ?? 0);
  },
  async views(event) {
    state.run.views = await Promise.all(event.views.map(View.load));
    showPicture();
  },
  answers(event) {
    const { run } = state, model = run.models[event.model];
    event.answers.forEach((one, at) => { model.answers[event.from + at] = one; });
    run.done += event.answers.length;
    sketch(model);
    flips(model);
    draw();
  },
  picture(event) {
    event.models.forEach((judged, at) => {
      Object.assign(state.run.models[at], { judged, traces: judged.traces });
    });
    draw();
  },
  done(event) {
    state.run.figures = event.models;
    event.models.forEach((figures, at) => Object.assign(state.run.models[at], { figures, curve: figures.curve }));
    draw();
    drawCurve();
    by("save").hidden = false;
  },
};

async function took(event, wanted, follow) {
  await takes[event.kind](event, wanted);
  follow(state.run.done, state.run.total);
}

// Until the whole traces come, those classes are drawn that are among the highest where it began.
function sketch(model) {
  const names = model.answers[0]?.top.slice(0, SHOWN).map(([name]) => name) ?? [];
  const of = (name) => model.answers.map((one) => one && one.top.find(([each]) => each === name)?.[1]);
  model.traces = names.map((name) => ({ name, shares: Array.from(of(name)) }));
}

function flips(model) {
  model.flips = [];
  if (state.run.wish.path === "map") return;
  model.answers.forEach((one, at) => {
    const next = model.answers[at + 1];
    if (one && next && one.answer !== next.answer) model.flips.push(at);
  });
}

// Drawing

function cards() {
  by("no-answers").hidden = true;
  by("save").hidden = true;
  by("cards").replaceChildren(...state.run.models.map((model) => {
    const box = element("div", { class: "chart" });
    model.box = box;
    model.said = element("p", { class: "quiet" });
    model.here = element("div");
    model.shown = null;
    const point = (event) => {
      if (event.type === "pointermove" && event.pointerType !== "mouse") return;
      const svg = box.firstElementChild, at = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / at.width;
      move(svg.positionAt((event.clientX - at.left) * scale, (event.clientY - at.top) * scale));
    };
    box.addEventListener("pointermove", point);
    box.addEventListener("pointerdown", point);
    return element("article", { class: "card", "aria-label": model.title }, element("h3", {}, model.title), model.said, box, model.here);
  }));
}

function draw() {
  const { run } = state;
  if (!run) return;
  for (const model of run.models) {
    const width = Math.max(260, Math.floor(model.box.clientWidth));
    model.box.replaceChildren((run.wish.path === "map" ? map : trace)(model, run, width));
    model.said.textContent = summary(model);
  }
  by("legend").replaceChildren(...run.colours.known().map((one) => element("li", { class: one.style },
    element("span", { class: "letterbox" }, element("span", {}, one.letter)), element("span", { class: "name" }, one.name))));
  by("play").disabled = by("next-flip").disabled = false;
  here();
}

function summary(model) {
  const { run } = state, { judged } = model;
  if (!judged) return "";
  const step = pixels(run.wish.step);
  const changed = `${judged.changed} of ${judged.pairs} moves by ${step} change the answer`;
  const closer = run.views[run.models.indexOf(model)]?.closer ?? 1;
  const note = closer > 1 ? ` Shown ${closer} times closer than the model reads it: the file has no more around it.` : "";
  return `${changed}; of all pairs of positions ${percent(judged.share)} agree.${note}`;
}

function drawCurve() {
  const { run } = state;
  if (!run?.figures) return;
  const box = by("curve-box"), width = Math.min(720, Math.max(260, Math.floor(box.clientWidth)));
  const rows = run.models.map((one) => element("tr", {}, element("th", { scope: "row" }, one.title),
    ...one.curve.slice(0, 4).map((point) => element("td", { class: "number", "data-path": `${pixels(point.distance)} apart` }, `${point.pairs - point.changed} of ${point.pairs}`))));
  const heads = run.models[0].curve.slice(0, 4).map((point) => element("th", { scope: "col", class: "number" }, `${pixels(point.distance)} apart`));
  box.replaceChildren(
    element("ul", { class: "legend" }, ...run.models.map((one, at) => element("li", {}, sample(at), element("span", { class: "name" }, `${at + 1} ${one.title}`)))),
    element("div", { class: "chart" }, curve(run.models, width)),
    element("p", { class: "quiet", hidden: run.models[0].curve.every((point) => point.pairs >= FEW) }, `Hollow: fewer than ${FEW} pairs, which say little.`),
    element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Pairs that agree" },
      element("table", { class: "slim stack" }, element("caption", { class: "hidden" }, "Pairs of positions that agree, by distance"),
        element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "pairs that agree"), ...heads)), element("tbody", {}, ...rows))));
}

// The position

function position() {
  return state.run ? state.run.offsets[state.run.at] : [0, 0];
}

function ranges() {
  const { path, step, reach } = wish();
  by("right-row").hidden = path === "down";
  by("down-row").hidden = path === "right" || path === "diagonal";
  by("right-row").firstChild.data = path === "diagonal" ? "both " : "right ";
  for (const one of [by("right"), by("down")]) {
    Object.assign(one, { step, min: 0, max: path === "map" ? reach - step : reach });
  }
}

function move(at) {
  const { run } = state;
  run.at = Math.min(run.offsets.length - 1, Math.max(0, at));
  const [down, right] = position();
  Object.assign(by("right"), { value: right });
  Object.assign(by("down"), { value: down });
  by("right-said").textContent = pixels(right);
  by("down-said").textContent = pixels(down);
  showPicture();
  draw();
}

function goTo(down, right) {
  const { run } = state;
  if (!run) return;
  const { path } = run.wish;
  const wanted = path === "right" ? [0, right] : path === "down" ? [down, 0] : path === "diagonal" ? [right, right] : [down, right];
  const at = run.index.get(String(wanted));
  if (at !== undefined) move(at);
}

const snapped = (value) => {
  const { step, reach, path } = state.run.wish, most = path === "map" ? reach - step : reach;
  return Math.min(most, Math.max(0, Math.round(value / step) * step));
};

function nudge(down, right) {
  if (!state.run) return;
  const { step, path } = state.run.wish, [y, x] = position();
  const both = path === "diagonal" ? down + right : 0;
  goTo(snapped(y + step * down), snapped(x + step * (both || right)));
}

function showPicture() {
  const view = state.run?.views[0];
  if (view) view.draw(by("seen"), position());
}

// The position beside this one, of those that a step reaches, at which a model answers otherwise.
function beside(model) {
  const { run } = state, now = model.answers[run.at], [down, right] = position(), { step, path } = run.wish;
  const steps = path === "right" ? [[0, 1], [0, -1]] : path === "down" ? [[1, 0], [-1, 0]]
    : path === "diagonal" ? [[1, 1], [-1, -1]] : [[0, 1], [1, 0], [0, -1], [-1, 0]];
  return steps.map(([dy, dx]) => run.index.get(String([down + step * dy, right + step * dx])))
    .find((at) => at !== undefined && now && model.answers[at] && model.answers[at].answer !== now.answer);
}

function here() {
  const { run } = state;
  const said = [];
  run.models.forEach((model, at) => {
    const now = model.answers[run.at];
    if (!now) { model.here.replaceChildren(); model.shown = null; return; }
    const other = beside(model), key = `${run.at}/${other}/${Boolean(run.views[at])}`;
    said.push(`${model.title}: ${now.answer}, ${probability(now.top[0][1])}${other === undefined ? "" : ", flips here"}`);
    if (model.shown === key) return;
    model.shown = key;
    model.here.replaceChildren(...flip(model, run.views[at], other), table(model, other));
  });
  const words = `${place(position(), run.wish.path)}. ${said.join(". ")}`;
  if (by("here").textContent !== words) by("here").textContent = words; // what is new is read out
}

function flip(model, view, other) {
  if (other === undefined || !view) return [];
  const { run } = state, [first, second] = [Math.min(run.at, other), Math.max(run.at, other)];
  const [before, after, apart] = [0, 1, 2].map(() => element("canvas", { "aria-hidden": "true" }));
  view.draw(before, run.offsets[first]);
  view.draw(after, run.offsets[second]);
  const most = view.difference(apart, before, after);
  const side = (canvas, at) => element("figure", { class: "side" }, canvas,
    element("figcaption", {}, `${place(run.offsets[at], run.wish.path)}: ${model.answers[at].answer}`));
  return [element("div", { class: "sides", role: "group", "aria-label": "A flip: both pictures and their difference" }, side(before, first), side(after, second),
    element("figure", { class: "side" }, apart, element("figcaption", {}, `difference, white is ${most} of 255`)))];
}

function table(model, other) {
  const { run } = state, now = model.answers[run.at];
  const sides = other === undefined ? [run.at] : [run.at, other].sort((a, b) => a - b);
  const names = [...new Set([...now.top.slice(0, 3), ...sides.map((at) => model.answers[at].top[0])].map(([name]) => name))];
  const share = (at, name) => model.answers[at].top.find(([each]) => each === name)?.[1];
  return element("div", { class: "scroll" }, element("table", {},
    element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "answer"),
      ...sides.map((at) => element("th", { scope: "col", class: "number" }, place(run.offsets[at], run.wish.path))))),
    element("tbody", {}, ...names.slice(0, SHOWN).map((name) => {
      const answer = run.colours.of(name);
      return element("tr", {}, element("th", { scope: "row", class: answer.style }, element("span", { class: "letterbox" }, element("span", {}, answer.letter)), element("span", { class: "name" }, name)),
        ...sides.map((at) => element("td", { class: "number" }, share(at, name) === undefined ? "less" : probability(share(at, name)))));
    }))));
}

// Playing

function pause() {
  clearInterval(state.player);
  state.player = 0;
  by("play").textContent = "Play";
}

function play() {
  if (state.player) return pause();
  by("play").textContent = "Pause";
  state.player = setInterval(() => move((state.run.at + 1) % state.run.offsets.length), PLAY_MS);
}

function nextFlip() {
  const { run } = state, count = run.offsets.length;
  for (let by = 1; by <= count; by++) {
    const at = (run.at + by) % count, kept = run.at;
    run.at = at;
    const found = run.models.some((model) => beside(model) > at);
    run.at = kept;
    if (found) return move(at);
  }
}

// The picture, by hand

function drag() {
  const pad = by("pad");
  let from = null;
  pad.addEventListener("pointerdown", (event) => {
    if (!state.run) return;
    pad.setPointerCapture(event.pointerId);
    from = { x: event.clientX, y: event.clientY, place: position() };
  });
  pad.addEventListener("pointermove", (event) => {
    if (!from) return;
    const scale = by("seen").width / by("seen").clientWidth;
    const [down, right] = [(event.clientY - from.y) * scale, (event.clientX - from.x) * scale];
    const along = state.run.wish.path === "diagonal" ? (down + right) / 2 : right;
    goTo(snapped(from.place[0] + down), snapped(from.place[1] + along));
  });
  for (const end of ["pointerup", "pointercancel"]) pad.addEventListener(end, () => { from = null; });
  const keys = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
  pad.addEventListener("keydown", (event) => {
    if (event.key === "Home") goTo(0, 0);
    else if (keys[event.key]) nudge(...keys[event.key]);
    else return;
    event.preventDefault();
  });
  for (const one of [by("right"), by("down")]) {
    one.addEventListener("input", () => goTo(Number(by("down").value), Number(by("right").value)));
  }
}

function open(file, channels) {
  state.file = file;
  suit(channels);
  settle();
  if (chosen().length === 0) complain(new Error("choose a model that this picture is asked of"));
}

async function showSamples() {
  const all = await listed("samples");
  by("samples").replaceChildren(...all.map((one) => {
    const name = one.name.replaceAll("_", " ");
    const button = element("button", { type: "button", "aria-pressed": "false", title: name },
      element("img", { src: `lab/samples/${one.group}/${encodeURIComponent(one.name)}`, alt: name, width: 44, height: 44 }));
    button.addEventListener("click", async () => {
      open(await sampleFile(one), one.group === "fashion" ? 1 : 3);
      button.setAttribute("aria-pressed", "true");
    });
    return button;
  }));
  return all;
}

function unpress() {
  for (const one of by("samples").querySelectorAll("[aria-pressed=true]")) one.setAttribute("aria-pressed", "false");
}

async function begin() {
  ranges();
  drag();
  form.addEventListener("change", settle);
  form.addEventListener("submit", (event) => event.preventDefault());
  by("run").addEventListener("click", ask);
  by("cancel").addEventListener("click", () => state.stop?.abort());
  by("play").addEventListener("click", play);
  by("next-flip").addEventListener("click", nextFlip);
  by("samples").addEventListener("click", unpress, true);
  let many = () => complain(new Error("the models are not listed yet"));
  listen((file) => { unpress(); open(file); }, (found) => many(found), complain);
  save(() => state.run, () => animation(state.run.wish, [state.file]), complain);
  let wide = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== wide) { wide = innerWidth; draw(); drawCurve(); } });
  const [, samples] = await Promise.all([showModels(), showSamples()]);
  many = compare({ wish, samples, taking, open, complain, titles: () => chosen().map((id) => state.models.find((one) => one.id === id).title) });
  document.documentElement.dataset.ready = "true";
}

begin().catch(complain);
