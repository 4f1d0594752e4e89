// What was answered, drawn: traces and maps of a model, the curve of all, the scatter of many.
// Each returns an SVG at the width it is given, with what it shows in words as its label.

import { drawn, percent, place } from "./dom.js";

export const FEW = 10; // pairs that a share says little of
const LEFT = 40, RIGHT = 28, TOP = 16, PLOT = 150, STRIP = 20, AXIS = 38;
const DASHES = ["", "8 4", "2 4", "10 3 2 3", "1 6", "14 4", "5 2", "3 2 8 2"];

const BESIDE = 64; // room for the numbers of models at the end of their lines
const ALONG = { right: "pixels to the right", down: "pixels down", diagonal: "pixels to the right and down" };

function picture(width, height, label) {
  return drawn("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label });
}

const text = (x, y, words, attributes = {}) => drawn("text", { x, y, ...attributes }, words);
const rule = (x1, y1, x2, y2, style) => drawn("line", { x1, y1, x2, y2, class: style });
const path = (points) => points.map(([x, y], at) => `${at ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

// At most so many marks of a range, the first and round ones.
function marks(count, most) {
  const by = [1, 2, 4, 5, 8, 16, 32, 64].find((one) => count / one <= most) ?? count;
  return Array.from({ length: Math.ceil(count / by) }, (_, at) => at * by);
}

// Says by runs what was answered: "Shirt from 0 to 2 px, Coat from 3 to 5 px".
export function inWords(answers, offsets, along) {
  const said = [];
  for (let at = 0; at < answers.length; at++) {
    if (!answers[at]) continue;
    const start = at;
    while (answers[at + 1]?.answer === answers[start].answer) at++;
    const where = start === at ? `at ${place(offsets[at], along)}`
      : `from ${place(offsets[start], along)} to ${place(offsets[at], along)}`;
    said.push(`${answers[start].answer} ${where}`);
  }
  return said.join(", ");
}

export function trace(model, run, width) {
  const count = run.offsets.length, height = TOP + PLOT + STRIP + AXIS;
  const step = (width - LEFT - RIGHT) / Math.max(1, count);
  const x = (at) => LEFT + step * (at + 0.5), y = (share) => TOP + PLOT * (1 - share);
  const svg = picture(width, height, `${model.title}: ${inWords(model.answers, run.offsets, run.wish.path) || "no answer yet"}`);
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    svg.append(rule(LEFT, y(share), width - RIGHT, y(share), "gridline"),
      text(LEFT - 6, y(share) + 4, `${100 * share}%`, { "text-anchor": "end", class: "quiet-text" }));
  }
  for (const at of marks(count, Math.max(3, Math.floor(width / 60)))) {
    svg.append(text(x(at), height - 20, Math.max(...run.offsets[at]), { "text-anchor": "middle", class: "quiet-text" }));
  }
  svg.append(text((LEFT + width - RIGHT) / 2, height - 5, ALONG[run.wish.path], { "text-anchor": "middle", class: "quiet-text" }));
  model.answers.forEach((one, at) => {
    if (!one) return;
    const answer = run.colours.of(one.answer);
    svg.append(drawn("rect", { x: x(at) - step / 2, y: TOP + PLOT + 6, width: step + 0.3, height: STRIP - 4, class: `cell ${answer.style}` }));
    if (step >= 9 * answer.letter.length) svg.append(text(x(at), TOP + PLOT + 4 + STRIP / 2, answer.letter, { class: "letter" }));
  });
  for (const at of model.flips) {
    const between = (x(at) + x(at + 1)) / 2;
    svg.append(rule(between, TOP, between, TOP + PLOT + STRIP + 2, "flip"),
      drawn("path", { d: `M${between - 5} ${TOP - 11}h10l-5 9z`, class: "flip-mark" }));
  }
  const ends = [];
  for (const one of model.traces) {
    const known = one.shares.map((share, at) => [share, at]).filter(([share]) => share !== undefined);
    if (!known.length) continue;
    const answer = run.colours.of(one.name), [last, at] = known[known.length - 1];
    svg.append(drawn("path", { d: `${path(known.map(([share, each]) => [x(each), y(share)]))}h0`, class: `trace ${answer.style}` }));
    const beside = Math.min(...ends.map((end) => Math.abs(end - y(last))), Infinity) > 11;
    if (beside) {
      ends.push(y(last));
      svg.append(text(x(at) + step / 2 + 4, y(last) + 4, answer.letter, { class: `end ${answer.style}` }));
    }
  }
  svg.append(drawn("line", { y1: TOP - 4, y2: TOP + PLOT + STRIP + 2, x1: x(run.at), x2: x(run.at), class: "cursor" }));
  svg.positionAt = (left) => Math.min(count - 1, Math.max(0, Math.floor((left - LEFT) / step)));
  return svg;
}

export function map(model, run, width) {
  const side = Math.round(Math.sqrt(run.offsets.length)), frame = 30;
  const cell = Math.floor(Math.min(width - frame - 6, 480) / side), whole = cell * side;
  const counts = new Map();
  for (const one of model.answers) if (one) counts.set(one.answer, (counts.get(one.answer) ?? 0) + 1);
  const said = [...counts].sort((a, b) => b[1] - a[1]).map(([name, count]) => `${name} at ${count}`).join(", ");
  const svg = picture(frame + whole + 6, frame + whole + 6, `${model.title}, a map of ${run.offsets.length} positions: ${said || "no answer yet"}`);
  svg.classList.add("map");
  for (const at of marks(side, 8)) {
    const words = run.offsets[at][1], middle = frame + cell * (at + 0.5);
    svg.append(text(middle, frame - 6, words, { "text-anchor": "middle", class: "quiet-text" }),
      text(frame - 5, middle + 4, words, { "text-anchor": "end", class: "quiet-text" }));
  }
  const corner = (at) => [frame + cell * (at % side), frame + cell * Math.floor(at / side)];
  const borders = drawn("g");
  model.answers.forEach((one, at) => {
    if (!one) return;
    const answer = run.colours.of(one.answer), [left, top] = corner(at);
    svg.append(drawn("rect", { x: left, y: top, width: cell, height: cell, class: `cell ${answer.style}` }));
    if (cell >= 13 && answer.letter.length === 1) svg.append(text(left + cell / 2, top + cell / 2, answer.letter, { class: "letter", "font-size": 11 }));
    if (at % side && differs(model, at - 1, at)) borders.append(rule(left, top, left, top + cell, "border"));
    if (at >= side && differs(model, at - side, at)) borders.append(rule(left, top, left + cell, top, "border"));
  });
  const [left, top] = corner(run.at);
  for (const style of ["place-ground", "place"]) borders.append(drawn("rect", { x: left, y: top, width: cell, height: cell, class: style }));
  svg.append(borders);
  svg.positionAt = (from, down) => {
    const [column, row] = [from, down].map((one) => Math.min(side - 1, Math.max(0, Math.floor((one - frame) / cell))));
    return row * side + column;
  };
  return svg;
}

const differs = (model, first, second) => model.answers[first] && model.answers[first].answer !== model.answers[second].answer;

// The least value of an axis of shares: a round one below all of them.
function bottom(shares) {
  const least = Math.min(...shares, 1);
  const step = [0.02, 0.05, 0.1, 0.25].find((one) => 1 - least <= 4 * one) ?? 0.25;
  return { low: Math.max(0, 1 - step * Math.ceil((1 - least) / step + 0.25)), step };
}

export function curve(models, width) {
  const height = 230, down = height - 40;
  const said = models.map((one) => `${one.title}: ${one.curve.map((point) => `${percent(point.share)} at ${point.distance} px`).join(", ")}`);
  const svg = picture(width, height, `Consistency against distance. ${said.join(". ")}`);
  const farthest = Math.max(...models.flatMap((one) => one.curve.map((point) => point.distance)));
  const { low, step } = bottom(models.flatMap((one) => one.curve.map((point) => point.share)));
  const x = (distance) => LEFT + ((width - LEFT - BESIDE) * distance) / farthest;
  const y = (share) => TOP + ((down - TOP) * (1 - share)) / (1 - low);
  for (let share = 1; share > low - step / 2; share -= step) {
    svg.append(rule(LEFT, y(share), width - BESIDE, y(share), "gridline"),
      text(LEFT - 6, y(share) + 4, `${Math.round(100 * share)}%`, { "text-anchor": "end", class: "quiet-text" }));
  }
  for (const at of marks(farthest + 1, Math.max(4, Math.floor(width / 60)))) {
    svg.append(text(x(at), height - 22, at, { "text-anchor": "middle", class: "quiet-text" }));
  }
  const axis = `pixels apart${low ? `; the axis begins at ${Math.round(100 * low)}%` : ""}`;
  svg.append(text((LEFT + width - BESIDE) / 2, height - 6, axis, { "text-anchor": "middle", class: "quiet-text" }));
  const ends = new Map(); // lines that end at one place share a label
  models.forEach((one, at) => {
    const points = one.curve.map((point) => [x(point.distance), y(point.share)]);
    svg.append(drawn("path", { d: `${path(points)}h0`, class: "trace model", "stroke-dasharray": DASHES[at % DASHES.length] }));
    points.forEach(([left, top], each) => svg.append(drawn("circle", { cx: left, cy: top, r: 3, class: one.curve[each].pairs < FEW ? "spot few" : "cell model" })));
    const [, end] = points[points.length - 1], near = [...ends.keys()].find((each) => Math.abs(each - end) < 12) ?? end;
    ends.set(near, [...(ends.get(near) ?? []), at + 1]);
  });
  for (const [end, numbers] of ends) svg.append(text(width - BESIDE + 6, end + 4, numbers.join(" "), {}));
  return svg;
}

export const sample = (at) => drawn("svg", { viewBox: "0 0 26 8", width: 26, height: 8, class: "sample", "aria-hidden": "true" },
  drawn("path", { d: "M1 4H25", class: "trace model", "stroke-dasharray": DASHES[at % DASHES.length] }));

// Round values of an axis, some three of them.
function ticks(low, high) {
  const rough = (high - low) / 3 || 1, power = 10 ** Math.floor(Math.log10(rough));
  const by = power * [1, 2, 5, 10].find((one) => one * power >= rough);
  const first = Math.ceil(low / by - 1e-9);
  return Array.from({ length: Math.floor(high / by + 1e-9) - first + 1 }, (_, at) => (first + at) * by);
}

// Two figures of each model. An axis says what its figure `of` a model is, and how it is written.
export function scatter(models, across, up, width, { line }) {
  const height = 270, top = 34, down = height - 44, left = 54, right = width - 96;
  const range = (axis) => {
    const values = models.map(axis.of), [least, most] = [Math.min(...values), Math.max(...values)];
    const room = (most - least) * 0.15 || Math.abs(most) * 0.1 || 1;
    return [Math.max(0, least - room), axis.share ? Math.min(1, most + room) : most + room];
  };
  const [[x0, x1], [y0, y1]] = [range(across), range(up)];
  const x = (value) => left + 12 + ((right - left - 12) * (value - x0)) / (x1 - x0 || 1);
  const y = (value) => down - 8 - ((down - 8 - top) * (value - y0)) / (y1 - y0 || 1);
  const said = models.map((one) => `${one.title}: ${across.write(across.of(one))}, ${up.write(up.of(one))}${one.front ? ", on the Pareto front" : ""}`);
  const svg = picture(width, height, `${up.name} against ${across.name}. ${said.join("; ")}`);
  svg.append(rule(left, top - 8, left, down, "axis"), rule(left, down, right + 12, down, "axis"));
  for (const tick of ticks(y0, y1)) svg.append(text(left - 6, y(tick) + 4, up.tick(tick), { "text-anchor": "end", class: "quiet-text" }));
  for (const tick of ticks(x0, x1)) svg.append(text(x(tick), down + 16, across.tick(tick), { "text-anchor": "middle", class: "quiet-text" }));
  svg.append(text(left, height - 6, across.name, { class: "quiet-text" }), text(0, 14, up.name, { class: "quiet-text" }));
  const places = models.map((one) => [x(across.of(one)), y(up.of(one))]);
  const front = places.filter((_, at) => models[at].front).sort((a, b) => a[0] - b[0]);
  if (line && front.length > 1) svg.append(drawn("path", { d: path(front), class: "front" }));
  const named = Math.max(...models.map((one) => 7 * one.short.length)) < 0.36 * width; // else by number
  const taken = places.map(([cx, cy]) => [cx - 8, cy - 8, cx + 8, cy + 8]);
  models.forEach((one, at) => {
    const label = named ? one.short : String(at + 1);
    const [cx, cy] = places[at], long = 7 * label.length, fits = cx + 10 + long < width;
    const start = fits ? cx + 10 : cx - 10 - long;
    const box = (by) => [start, cy + by - 6, start + long, cy + by + 6];
    const meets = ([a, b, c, d]) => taken.some(([e, f, g, h]) => a < g && e < c && b < h && f < d);
    let by = 0;
    while (meets(box(by)) && by < 130) by += 13;
    taken.push(box(by));
    if (by) svg.append(rule(cx, cy, cx + (fits ? 8 : -8), cy + by, "axis"));
    svg.append(text(fits ? cx + 10 : cx - 10, cy + by + 4, label, { "text-anchor": fits ? "start" : "end" }));
  });
  for (const best of [false, true]) { // what is on the front is drawn over the others
    places.filter((_, at) => models[at].front === best)
      .forEach(([cx, cy]) => svg.append(drawn("circle", { cx, cy, r: 6, class: best ? "spot best" : "spot" })));
  }
  return svg;
}
