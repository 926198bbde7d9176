// The page of `jtl serve`: what is dropped or typed is predicted and explained by the server it came from.
"use strict";

const at = (id) => document.getElementById(id);
const MAX_SHOWN = 12;
let key = "";
let model = null;

function headers(more) {
  return key ? { Authorization: `Bearer ${key}`, ...more } : { ...more };
}

function say(fault) {
  at("fault").textContent = fault;
  at("fault").hidden = !fault;
}

// What the server answered as JSON, whatever its status; its own words where it refused.
async function asked(path, options) {
  const answer = await fetch(path, options);
  const value = await answer.json();
  if (answer.status === 401) at("key-form").hidden = false;
  if (!answer.ok && !value.results) throw new Error(value.error ? value.error.message : answer.statusText);
  return value;
}

async function begin() {
  try {
    model = await asked("v1/model", { headers: headers() });
  } catch (error) {
    say(error.message);
    return;
  }
  say("");
  at("key-form").hidden = true;
  document.title = at("title").textContent = model.model;
  const count = model.classes.length;
  at("about").textContent = [count ? `${count} classes` : model.kind, model.preprocess].join(" · ");
  at("explained").textContent = model.explains ? `What a class hangs on: ${model.explanation}.` : model.explanation;
  at("images").hidden = model.reads !== "images";
  at("texts").hidden = model.reads !== "texts";
  const given = model.reads === "images" ? "-F file=@PHOTO.jpg" : "-H 'Content-Type: text/plain' -d TEXT";
  at("curl").textContent = `curl ${given} ${location.origin}/v1/predict`;
}

// A card at the top for one item; the oldest go.
function card(name) {
  const made = at("result").content.cloneNode(true).firstElementChild;
  made.querySelector(".name").textContent = name;
  made.classList.add("waiting");
  at("results").prepend(made);
  while (at("results").children.length > MAX_SHOWN) at("results").lastElementChild.remove();
  return made;
}

function bar(each, kind) {
  const row = document.createElement("li");
  const label = document.createElement("span");
  label.className = "label";
  label.textContent = each.label;
  const value = document.createElement("span");
  const isShare = kind !== "regression";
  value.textContent = isShare ? `${(100 * each.value).toFixed(1)} %` : each.value.toPrecision(5);
  row.append(label, value);
  if (isShare) {
    const track = document.createElement("span");
    track.className = "track";
    const filled = document.createElement("i");
    filled.style.width = `${100 * each.value}%`;
    track.append(filled);
    row.append(track);
  }
  return row;
}

function tokens(found) {
  const largest = Math.max(...found.map((each) => Math.abs(each.value)), 1e-12);
  return found.flatMap((each) => {
    const made = document.createElement("span");
    made.className = each.kind === "text" ? "token" : "token special";
    made.textContent = each.text;
    made.title = each.value.toFixed(4);
    const share = (0.75 * Math.abs(each.value)) / largest;
    made.style.backgroundColor = `rgb(var(${each.value > 0 ? "--for" : "--against"}) / ${share.toFixed(3)})`;
    return [made, " "];
  });
}

function explain(made, found, original) {
  const note = made.querySelector(".note");
  if (found.missing) {
    note.textContent = found.missing;
    return;
  }
  const sides = found.tokens ? "; red speaks for it, blue against it" : "";
  note.textContent = `What “${found.label}” hangs on, by ${found.method}${sides}`;
  const toggle = made.querySelector(".toggle");
  toggle.hidden = false;
  const box = toggle.querySelector("input");
  const show = () => {
    if (found.picture) made.querySelector(".picture").src = box.checked ? found.picture : original;
    else made.querySelector(".text").replaceChildren(...(box.checked ? tokens(found.tokens) : [original]));
  };
  box.addEventListener("change", show);
  show();
}

async function predict(made, body, type, original) {
  try {
    const value = await asked("v1/predict?explain=1", { method: "POST", body, headers: headers({ "Content-Type": type }) });
    const row = value.results[0];
    if (row.error) throw new Error(row.error.message);
    made.querySelector(".classes").replaceChildren(...row.predictions.map((each) => bar(each, value.kind)));
    explain(made, row.explanation, original);
  } catch (error) {
    const note = made.querySelector(".note");
    note.textContent = error.message;
    note.className = "note bad";
  }
  made.classList.remove("waiting");
}

function pictures(files) {
  for (const file of files) {
    const made = card(file.name);
    const url = URL.createObjectURL(file);
    const shown = made.querySelector(".picture");
    shown.alt = file.name;
    shown.src = url;
    predict(made, file, "application/octet-stream", url);
  }
}

at("file").addEventListener("change", (event) => {
  pictures([...event.target.files]);
  event.target.value = "";
});
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", name === "dragenter" || name === "dragover");
    if (name === "drop" && model && model.reads === "images") pictures([...event.dataTransfer.files]);
  });
}
document.addEventListener("paste", (event) => {
  if (model && model.reads === "images") pictures([...event.clipboardData.files]);
});
at("texts").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = at("text").value;
  const pair = at("text-pair").value;
  const made = card(pair ? `${text} | ${pair}` : text);
  made.querySelector(".name").hidden = true;
  made.querySelector(".picture").hidden = true;
  const shown = made.querySelector(".text");
  shown.hidden = false;
  shown.textContent = pair ? `${text} | ${pair}` : text;
  const item = pair ? { text, text_pair: pair } : text;
  predict(made, JSON.stringify({ inputs: [item] }), "application/json", shown.textContent);
});
at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = at("key").value;
  begin();
});
begin();
