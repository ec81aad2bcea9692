import * as backend from "./backend.js";
import * as camera from "./camera.js";
import { TEXTS } from "./texts.js";

const MOST_CLASSES = 30; // in the list of tested animals
const RANKS = 5; // bars; their space is reserved in page.css

const element = (id) => document.getElementById(id);

const state = {
  language: storedLanguage(),
  model: null, // answer of GET model
  outcome: { kind: "empty" }, // empty, working, prediction (image) or problem (status)
  upload: null, // AbortController of the request under way
};

function storedLanguage() {
  const stored = localStorage.getItem("language");
  return stored in TEXTS ? stored : navigator.language.startsWith("it") ? "it" : "en";
}

const texts = () => TEXTS[state.language];

// Class names are Italian in Animals-10; other models have one name per class.
const nameOf = (item) => (state.language === "it" ? item.label : item.english);

function percentOf(value) {
  const percent = (number) => new Intl.NumberFormat(state.language, { style: "percent" }).format(number);
  if (value > 0 && value < 0.005) return `< ${percent(0.01)}`;
  return value >= 0.995 && value < 1 ? `> ${percent(0.99)}` : percent(value);
}

const countOf = (value) => new Intl.NumberFormat(state.language).format(value);

// ---------------------------------------------------------------- the model

async function loadModel() {
  const { status, model } = await backend.loadModel();
  const locked = status === 401;
  element("token-form").hidden = !locked;
  element("tool").hidden = element("meaning").hidden = locked;
  if (locked) {
    element("token-problem").textContent = backend.tokenWasSent() ? texts().wrongToken : "";
    element("token").focus();
  } else if (status !== 200) {
    show({ kind: "problem", status });
  } else {
    state.model = model;
    draw();
  }
}

async function identify(file) {
  state.upload?.abort();
  const upload = (state.upload = new AbortController());
  preview(file);
  show({ kind: "working" });
  const outcome = await outcomeOf(file, upload.signal);
  if (upload === state.upload) show(outcome); // otherwise a newer photo was chosen
}

async function outcomeOf(file, signal) {
  if (state.model && file.size > state.model.limits.bytes) return { kind: "problem", status: 413 };
  const { status, image } = await backend.identify(file, signal);
  if (status === 401) loadModel(); // asks for the token
  return status === 200 ? { kind: "prediction", image } : { kind: "problem", status };
}

async function photograph() {
  try {
    const photo = await camera.takePhoto();
    if (photo) identify(photo);
  } catch {
    show({ kind: "problem", status: "camera" });
  }
}

// ---------------------------------------------------------------- drawing

function preview(file) {
  const image = element("preview");
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(file);
  image.hidden = false;
  element("hint").hidden = true;
  image.onerror = () => {
    image.hidden = true;
    element("hint").hidden = false;
    element("hint").textContent = file.name;
  };
}

function show(outcome) {
  state.outcome = outcome;
  drawOutcome();
}

function draw() {
  document.documentElement.lang = state.language;
  document.title = texts().title;
  for (const item of document.querySelectorAll("[data-text]")) item.textContent = texts()[item.dataset.text];
  element("privacy").textContent = texts()[backend.PRIVACY];
  for (const item of document.querySelectorAll("[data-label]")) item.ariaLabel = texts()[item.dataset.label];
  for (const item of document.querySelectorAll("[data-language]")) {
    item.ariaPressed = String(item.dataset.language === state.language);
  }
  drawMeaning();
  drawOutcome();
}

function drawOutcome() {
  const { kind, image, status } = state.outcome;
  const section = element("result");
  section.className = `result ${kind}${image?.unknown ? " unknown" : ""}`;
  section.ariaBusy = String(kind === "working");
  element("label").textContent = kind === "prediction" ? (image.unknown ? texts().unknown : nameOf(image)) : "";
  element("percent").textContent = kind === "prediction" && !image.unknown ? percentOf(image.probability) : "";
  element("note").textContent = noteOf(kind, image, status);
  const ranked = kind === "prediction" ? image.top.slice(0, RANKS) : [];
  element("bars").replaceChildren(...ranked.map(bar));
  element("announcement").textContent = announcementOf(kind, image);
}

function noteOf(kind, image, status) {
  if (kind === "empty" || kind === "working") return texts()[kind];
  if (kind === "problem") return texts().problems[status] ?? texts().problems.other;
  if (image.problem) return texts().damagedNote;
  return image.unknown ? texts().unknownNote : texts().probabilityNote(Math.min(99, Math.round(100 * image.probability)));
}

function announcementOf(kind, image) {
  if (kind === "empty") return "";
  const answer = kind === "prediction" && !image.unknown ? texts().announce(nameOf(image), percentOf(image.probability)) : "";
  return [kind === "prediction" && image.unknown ? `${texts().unknown}.` : answer, element("note").textContent]
    .filter(Boolean)
    .join(" ");
}

function bar(item) {
  const track = withChildren("span", span(""));
  track.className = "track";
  track.firstChild.style.width = `${100 * item.probability}%`;
  return withChildren("li", span(nameOf(item)), " ", span(percentOf(item.probability)), track);
}

const span = (text) => withChildren("span", text);

function withChildren(tag, ...children) {
  const parent = document.createElement(tag);
  parent.append(...children);
  return parent;
}

function drawMeaning() {
  if (!state.model) return;
  const { classes, metrics, unknown } = state.model;
  element("unknown-meaning").textContent = unknown ? texts().unknownMeaning : texts().unknownMissing;
  const count = countOf(classes.length);
  element("tested").textContent = metrics
    ? texts().tested(countOf(metrics.images), count, ...["value", "low", "high"].map((key) => percentOf(metrics.acc[key])))
    : texts().untested(count);
  element("classes").replaceChildren(...classItems(classes, metrics?.recall ?? {}));
}

function classItems(classes, recall) {
  const lines = classes.slice(0, MOST_CLASSES).map((item) => {
    const value = recall[item.label]?.value;
    return [nameOf(item), value == null ? "" : percentOf(value)];
  });
  if (classes.length > MOST_CLASSES) lines.push([texts().more(countOf(classes.length - MOST_CLASSES)), ""]);
  return lines.map((line) => withChildren("li", ...line.map((text) => span(text))));
}

// ---------------------------------------------------------------- events

function firstImage(transfer) {
  const file = element("tool").hidden ? undefined : transfer?.files[0];
  if (file) identify(file);
  return Boolean(file);
}

for (const id of ["choose", "capture"]) {
  element(id).addEventListener("change", (event) => {
    firstImage(event.target);
    event.target.value = ""; // the same file can be chosen again
  });
}
element("webcam").hidden = !camera.isAvailable();
element("webcam").addEventListener("click", photograph);
addEventListener("paste", (event) => firstImage(event.clipboardData) && event.preventDefault());
addEventListener("dragover", (event) => {
  event.preventDefault();
  element("drop").classList.add("over");
});
addEventListener("dragleave", (event) => event.relatedTarget ?? element("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  element("drop").classList.remove("over");
  firstImage(event.dataTransfer);
});
for (const button of document.querySelectorAll("[data-language]")) {
  button.addEventListener("click", () => {
    state.language = button.dataset.language;
    localStorage.setItem("language", state.language);
    draw();
  });
}
element("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  backend.setToken(element("token").value.trim());
  loadModel();
});

draw();
loadModel();
