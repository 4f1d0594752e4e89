// Elements, by name and attributes. Nothing is ever parsed as HTML: names of files and labels come
// from elsewhere.

export const by = (id) => document.getElementById(id);

function filled(one, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) one.setAttribute(name, value === true ? "" : value);
  }
  one.append(...children.filter((each) => each || each === 0 || each === ""));
  return one;
}

export const element = (name, attributes = {}, ...children) =>
  filled(document.createElement(name), attributes, children);

export const drawn = (name, attributes = {}, ...children) =>
  filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

export const percent = (share) => `${(100 * share).toFixed(1)}%`;
export const pixels = (value) => `${Number(value)} px`;
export const probability = (share) => share.toFixed(3);

// Where a position lies, in words; `path` says which axes move.
export function place([down, right], path) {
  if (path === "right") return pixels(right);
  if (path === "down" || path === "diagonal") return pixels(down);
  return `${right} right, ${down} down`;
}
