// One colour and one letter for each answer, the same in every trace, map and table of a run.

const COLOURS = 6; // more answers than that share the last, grey: their letters tell them apart

export class Answers {
  #names = new Map();

  of(name) {
    if (!this.#names.has(name)) {
      const at = this.#names.size;
      this.#names.set(name, { name, letter: letter(at), style: `a${Math.min(at, COLOURS)}` });
    }
    return this.#names.get(name);
  }

  known() { return [...this.#names.values()]; }
}

function letter(at) {
  const last = String.fromCharCode(65 + (at % 26));
  return at < 26 ? last : letter(Math.floor(at / 26) - 1) + last;
}
