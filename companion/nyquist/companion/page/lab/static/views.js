// A picture as the network sees it, at any position: whole pixels are copied from the phase that
// the server moved by the rest, so that what is shown is what was sent, to the pixel.

async function loaded(uri) {
  const image = new Image();
  image.src = uri;
  await image.decode();
  return image;
}

export class View {
  constructor(told, phases) {
    Object.assign(this, { width: told.width, height: told.height, circular: told.circular, corner: told.corner, closer: told.closer });
    this.phases = phases;
  }

  static async load(told) {
    const phases = new Map();
    for (const [rest, uri] of Object.entries(told.phases)) phases.set(rest, await loaded(uri));
    return new View(told, phases);
  }

  draw(canvas, [down, right]) {
    const [y, x] = [Math.floor(down), Math.floor(right)];
    const image = this.phases.get(`${down - y},${right - x}`);
    const { width, height, corner } = this;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    if (!this.circular) {
      pen.drawImage(image, corner - x, corner - y, width, height, 0, 0, width, height);
      return;
    }
    const [left, top] = [x % width, y % height];
    for (const dx of [left, left - width]) for (const dy of [top, top - height]) pen.drawImage(image, dx, dy);
  }

  // Draws how far two positions lie apart, the farthest pixel white; returns that distance, 0..255.
  difference(canvas, first, second) {
    const [a, b] = [first, second].map((one) => one.getContext("2d").getImageData(0, 0, this.width, this.height).data);
    Object.assign(canvas, { width: this.width, height: this.height });
    const pen = canvas.getContext("2d"), shown = pen.createImageData(this.width, this.height);
    const apart = new Uint8Array(this.width * this.height);
    let most = 0;
    for (let at = 0; at < apart.length; at++) {
      for (let colour = 0; colour < 3; colour++) {
        apart[at] = Math.max(apart[at], Math.abs(a[4 * at + colour] - b[4 * at + colour]));
      }
      most = Math.max(most, apart[at]);
    }
    for (let at = 0; at < apart.length; at++) {
      shown.data.fill(most ? (255 * apart[at]) / most : 0, 4 * at, 4 * at + 3);
      shown.data[4 * at + 3] = 255;
    }
    pen.putImageData(shown, 0, 0);
    return most;
  }
}
