// Where pictures come from: a file that is chosen, dropped or pasted, or the camera.

import { by } from "./dom.js";

export const KNOWN = /\.(jpe?g|png|webp)$/i;

// `open` takes a picture, `openMany` several, each with the name of the folder that it lies in.
export function listen(open, openMany, complain) {
  by("file").addEventListener("change", ({ target }) => {
    if (target.files.length) open(target.files[0]);
    target.value = "";
  });
  drop(open, openMany, complain);
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
    if (file) open(file);
  });
  camera(open, complain);
}

function drop(open, openMany, complain) {
  const zone = document.body, shown = by("drop");
  const over = (event) => {
    if (![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault();
    shown.classList.add("over");
  };
  zone.addEventListener("dragenter", over);
  zone.addEventListener("dragover", over);
  zone.addEventListener("dragleave", (event) => { if (!event.relatedTarget) shown.classList.remove("over"); });
  zone.addEventListener("drop", async (event) => {
    event.preventDefault();
    shown.classList.remove("over");
    const entries = [...event.dataTransfer.items].map((one) => one.webkitGetAsEntry?.()).filter(Boolean);
    if (!entries.length) return complain(new Error("what was dropped is no file; drop a JPEG, PNG or WebP"));
    const found = (await Promise.all(entries.map((one) => inside(one, "")))).flat();
    if (entries.length === 1 && entries[0].isFile) open(found[0].file);
    else openMany(found.filter((one) => KNOWN.test(one.file.name)));
  });
}

const asked = (call) => new Promise(call);

// Every file of a folder, however deep, with the name of the folder that it lies in.
async function inside(entry, folder) {
  if (entry.isFile) return [{ file: await asked((done, failed) => entry.file(done, failed)), folder }];
  const reader = entry.createReader(), found = [];
  for (;;) {
    const some = await asked((done, failed) => reader.readEntries(done, failed)); // a hundred at most
    if (!some.length) break;
    found.push(...some);
  }
  return (await Promise.all(found.map((one) => inside(one, entry.name)))).flat();
}

function camera(open, complain) {
  const video = by("video");
  let stream = null;
  const close = () => {
    stream?.getTracks().forEach((one) => one.stop());
    stream = video.srcObject = null;
    by("camera-box").hidden = true;
    by("camera").focus();
  };
  by("camera").addEventListener("click", async () => {
    try {
      if (!navigator.mediaDevices) throw new Error("a camera needs https, or this page from localhost");
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch (error) {
      complain(new Error(`the camera: ${error.message}`));
      return;
    }
    video.srcObject = stream;
    by("camera-box").hidden = false;
    await video.play();
    by("snap").focus();
  });
  by("camera-off").addEventListener("click", close);
  by("snap").addEventListener("click", () => {
    const still = document.createElement("canvas");
    Object.assign(still, { width: video.videoWidth, height: video.videoHeight });
    still.getContext("2d").drawImage(video, 0, 0);
    still.toBlob((blob) => open(new File([blob], "camera.png", { type: "image/png" })), "image/png");
    close();
  });
}
