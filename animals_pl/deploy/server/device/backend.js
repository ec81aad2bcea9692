// The model on this device, run by onnxruntime-web. It must reproduce its golden images first.

import * as ort from "./ort.wasm.min.mjs";

export const PRIVACY = "privacyDevice"; // key of the text on where photos go

const MOST_ASPECT = 50; // the graph would need gigabytes for longer images; it crops their middle anyway

let model;
let session; // set when it has reproduced the golden images
let loading; // promise of the latest loadModel

export const tokenWasSent = () => false;
export const setToken = () => {};

// Returns { status, model }. Status 0: files are missing; "altered": the golden images are not reproduced.
export const loadModel = () => (loading = load());

async function load() {
  navigator.serviceWorker?.register("service-worker.js");
  ort.env.wasm.numThreads = 1; // more need headers that static hosts do not send
  ort.env.wasm.wasmPaths = new URL("./", location.href).href;
  try {
    model = await (await fetch("model.json")).json();
    const options = { executionProviders: ["wasm"], extra: { session: { disable_quant_qdq: "1" } } };
    const loaded = await ort.InferenceSession.create("model.onnx", options);
    if (!(await isReproduced(loaded))) return { status: "altered" };
    session = loaded;
    return { status: 200, model };
  } catch {
    return { status: 0 };
  }
}

// Waits for the model, then returns { status, image } as the server does.
export async function identify(file) {
  const { status } = await loading;
  if (status !== 200) return { status };
  let pixels;
  try {
    pixels = await decode(file);
  } catch {
    return { status: 415 };
  }
  if (!pixels) return { status: 422 };
  const { probabilities, score } = await run(session, pixels);
  const top = model.classes
    .map((names, label) => ({ ...names, probability: probabilities[label] }))
    .sort((one, other) => other.probability - one.probability);
  const unknown = model.unknown && score > model.unknown_threshold;
  const best = unknown ? { label: "unknown", english: "unknown", probability: 0 } : top[0];
  return { status: 200, image: { ...best, unknown, unknown_score: score, top, problem: "" } };
}

async function isReproduced(loaded) {
  for (const { jpeg, probabilities } of model.golden_images) {
    const blob = await (await fetch(jpeg)).blob();
    const found = (await run(loaded, await decode(blob))).probabilities;
    const differences = probabilities.map((value, label) => Math.abs(value - found[label]));
    if (!(Math.max(...differences) <= model.golden_tolerance)) return false;
  }
  return true;
}

async function run(graph, { data, width, height }) {
  const image = new ort.Tensor("uint8", data, [height, width, 3]);
  const { probabilities, unknown_score } = await graph.run({ image });
  return { probabilities: Array.from(probabilities.data), score: unknown_score.data[0] };
}

// RGB bytes, with transparency over white; null if there are too many pixels.
async function decode(blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  if (bitmap.width * bitmap.height > model.limits.pixels) return null;
  const most = model.resize === "crop" ? MOST_ASPECT * Math.min(bitmap.width, bitmap.height) : Infinity;
  const [width, height] = [Math.min(bitmap.width, most), Math.min(bitmap.height, most)];
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, -Math.floor((bitmap.width - width) / 2), -Math.floor((bitmap.height - height) / 2));
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  const data = new Uint8Array(3 * width * height);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    data[to++] = rgba[from];
    data[to++] = rgba[from + 1];
    data[to++] = rgba[from + 2];
  }
  return { data, width, height };
}
