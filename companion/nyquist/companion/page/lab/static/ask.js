// What the lab's server is asked: models, samples, and runs whose events come a line at a time.

const BUSY = 429, TRIES = 20, AGAIN_MS = 500;

export async function listed(path) {
  const answer = await fetch(`lab/${path}`);
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${answer.statusText}`);
  return answer.json();
}

export async function sampleFile({ group, name }) {
  const answer = await fetch(`lab/samples/${group}/${encodeURIComponent(name)}`);
  return new File([await answer.blob()], `${name}.png`, { type: "image/png" });
}

function body(wish, files, labels) {
  const pictures = files.map((file, at) => ({
    name: file.name.slice(0, 200), size: file.size, label: labels[at] ?? "",
  }));
  return new Blob([`${JSON.stringify({ ...wish, pictures })}\n`, ...files],
    { type: "application/octet-stream" });
}

// A run that was left a moment ago may still have its place: that is waited for.
async function sent(path, wish, files, labels, signal, tries = TRIES) {
  const answer = await fetch(`lab/${path}`, { method: "POST", body: body(wish, files, labels), signal });
  if (answer.ok) return answer;
  if (answer.status === BUSY && tries > 1) {
    await new Promise((done) => setTimeout(done, AGAIN_MS));
    return sent(path, wish, files, labels, signal, tries - 1);
  }
  const told = await answer.json().catch(() => ({ error: answer.statusText }));
  throw new Error(told.error);
}

// Yields events until the run is done. Aborting the signal ends the run on the server too.
export async function* events(wish, files, labels, signal) {
  const answer = await sent("run", wish, files, labels, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", last = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const event = JSON.parse(line);
      if (event.kind === "error") throw new Error(event.message);
      last = event.kind;
      yield event;
    }
  }
  if (last !== "done") throw new Error("the lab ended before the run was done");
}

export async function animation(wish, files, signal) {
  const answer = await sent("animation", wish, files, [], signal);
  return answer.blob();
}
