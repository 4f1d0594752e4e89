// What is seen as files: SVG and PNG of the charts, CSV of every answer, an animated picture.

import { by, drawn } from "./dom.js";

const STYLED = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap", "stroke-linejoin",
  "font-family", "font-size", "font-weight", "text-anchor", "dominant-baseline"];
const WIDTH = 560, GAP = 24;

function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// Copies an SVG with the look that the page gives it, since a file has no style sheet.
function styled(svg) {
  const copy = svg.cloneNode(true);
  const pairs = [[svg, copy], ...[...svg.querySelectorAll("*")].map((one, at) => [one, copy.querySelectorAll("*")[at]])];
  for (const [from, to] of pairs) {
    const look = getComputedStyle(from);
    for (const name of STYLED) to.setAttribute(name, look.getPropertyValue(name));
    to.removeAttribute("class");
  }
  return copy;
}

function sheet(run) {
  const look = getComputedStyle(document.body);
  const words = { "font-family": "sans-serif", fill: look.color };
  const charts = run.models.map((one) => one.box.firstElementChild);
  const curve = document.querySelector("#curve-box .chart svg");
  const width = Math.max(WIDTH, ...[...charts, curve].map((one) => one.viewBox.baseVal.width)) + 2 * GAP;
  const whole = drawn("svg", { xmlns: "http://www.w3.org/2000/svg" });
  const ground = drawn("rect", { x: 0, y: 0, fill: look.backgroundColor });
  whole.append(ground, drawn("text", { x: GAP, y: 30, "font-size": 17, "font-weight": 600, ...words }, run.name));
  let top = 52, left = GAP;
  for (const one of run.colours.known()) {
    const label = `${one.letter}  ${one.name}`, long = 8.2 * label.length + 22;
    if (left + long > width - GAP) { left = GAP; top += 20; }
    const colour = getComputedStyle(document.querySelector(`#legend .${one.style}`)).color;
    whole.append(drawn("text", { x: left, y: top, "font-size": 13, "font-weight": 600, "font-family": "sans-serif", fill: colour }, label));
    left += long;
  }
  top += 26;
  const put = (title, said, chart) => {
    const copy = styled(chart);
    copy.setAttribute("x", GAP);
    copy.setAttribute("y", top + 26);
    whole.append(drawn("text", { x: GAP, y: top, "font-size": 14, "font-weight": 600, ...words }, title),
      drawn("text", { x: GAP, y: top + 17, "font-size": 12, ...words }, said), copy);
    top += 26 + chart.viewBox.baseVal.height + GAP;
  };
  run.models.forEach((model, at) => put(model.title, model.said.textContent, charts[at]));
  const lines = run.models.map((one, at) => `${at + 1} ${one.title}`).join(", ");
  put("Consistency against distance", lines, curve);
  for (const [name, value] of [["width", width], ["height", top]]) { whole.setAttribute(name, value); ground.setAttribute(name, value); }
  whole.setAttribute("viewBox", `0 0 ${width} ${top}`);
  return new Blob([new XMLSerializer().serializeToString(whole)], { type: "image/svg+xml" });
}

async function asPng(svg) {
  const image = new Image(), address = URL.createObjectURL(svg);
  image.src = address;
  await image.decode();
  URL.revokeObjectURL(address);
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: 2 * image.naturalWidth, height: 2 * image.naturalHeight });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

// Quoted where it must be, and never a formula to a spreadsheet.
const cell = (value) => {
  const text = /^[=+\-@\t\r]/.test(value) && Number.isNaN(Number(value)) ? `'${value}` : String(value);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};

function table(run) {
  const heads = ["picture", "move", "model", "down_px", "right_px", "answer",
    ...[1, 2, 3, 4, 5].flatMap((at) => [`class_${at}`, `probability_${at}`])];
  const lines = run.models.flatMap((model) => model.answers.map((one, at) =>
    [run.name, run.wish.move, model.title, ...run.offsets[at], one.answer, ...one.top.flat()]));
  return new Blob([[heads, ...lines].map((line) => line.map(cell).join(",")).join("\n"), "\n"], { type: "text/csv" });
}

export function save(current, animate, complain) {
  const made = { svg: (run) => sheet(run), png: (run) => asPng(sheet(run)), csv: (run) => table(run), gif: animate };
  by("save").addEventListener("click", async ({ target }) => {
    const kind = target.dataset.save, run = current();
    if (!kind || !run) return;
    target.disabled = true;
    try {
      const name = run.name.replace(/\.[^.]*$/, "").replace(/[^\w-]+/g, "_") || "picture";
      download(await made[kind](run), `${name}_${run.wish.path}.${kind}`);
    } catch (error) {
      complain(error);
    } finally {
      target.disabled = false;
    }
  });
}
