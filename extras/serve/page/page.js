// Tries POST v1/detect with a picture, or with one frame of the camera after the other.

const element = (id) => document.getElementById(id);
const [canvas, video, statusLine] = ["canvas", "video", "status"].map(element);
const context = canvas.getContext("2d");
const CAMERA = { video: { facingMode: "environment", width: { ideal: 1280 } } };
const LONGEST_SIDE_PX = 1280; // of a frame that is sent
const QUALITY = 0.9; // of its JPEG
let stream = null;
let picture = null; // the last one that was chosen

function say(text, isBad = false) {
  statusLine.textContent = text;
  statusLine.classList.toggle("bad", isBad);
}

async function ask(path, options = {}) {
  const token = element("token").value;
  const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  const answer = await fetch(path, { ...options, headers });
  if (answer.ok) return answer.json();
  const { detail } = await answer.json().catch(() => ({ detail: answer.statusText }));
  const error = new Error(typeof detail === "string" ? detail : JSON.stringify(detail));
  error.retry_s = Number(answer.headers.get("Retry-After"));
  throw error;
}

function detect(blob) {
  const query = new URLSearchParams({ format: "pandas", conf: element("conf").value });
  if (element("model").value) query.set("model", element("model").value);
  const headers = { "Content-Type": blob.type || "application/octet-stream" };
  return ask(`v1/detect?${query}`, { method: "POST", body: blob, headers });
}

function color(number) {
  return `hsl(${(number * 137.5) % 360} 85% 45%)`; // the golden angle: neighbours differ most
}

function show(image, boxes) {
  const line = Math.max(2, Math.round((canvas.width + canvas.height) / 600));
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  context.lineWidth = line;
  context.font = `${6 * line}px system-ui, sans-serif`;
  context.textBaseline = "top";
  for (const box of boxes.toReversed?.() ?? [...boxes].reverse()) {
    const text = `${box.name} ${box.confidence.toFixed(2)}`;
    const y = Math.max(box.ymin - 8 * line, 0);
    context.strokeStyle = context.fillStyle = color(box.class);
    context.strokeRect(box.xmin, box.ymin, box.xmax - box.xmin, box.ymax - box.ymin);
    context.fillRect(box.xmin - line / 2, y, context.measureText(text).width + 2 * line, 8 * line);
    context.fillStyle = "white";
    context.fillText(text, box.xmin + line / 2, y + line);
  }
  element("rows").replaceChildren(...boxes.map(row));
}

function row(box) {
  const texts = [
    box.name,
    box.confidence.toFixed(3),
    [box.xmin, box.ymin, box.xmax - box.xmin, box.ymax - box.ymin].map(Math.round).join(", "),
  ];
  const tr = document.createElement("tr");
  tr.append(...texts.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
  return tr;
}

async function tryPicture() {
  if (!picture) return;
  const start_ms = performance.now();
  try {
    const [image, boxes] = await Promise.all([createImageBitmap(picture), detect(picture)]);
    [canvas.width, canvas.height] = [image.width, image.height];
    show(image, boxes);
    say(`${boxes.length} boxes in ${Math.round(performance.now() - start_ms)} ms`);
  } catch (error) {
    say(error.message, true);
  }
}

async function followCamera() {
  const frame = document.createElement("canvas");
  while (stream) {
    const start_ms = performance.now();
    const scale = Math.min(1, LONGEST_SIDE_PX / Math.max(video.videoWidth, video.videoHeight));
    [frame.width, frame.height] = [video.videoWidth * scale, video.videoHeight * scale];
    frame.getContext("2d").drawImage(video, 0, 0, frame.width, frame.height);
    try {
      const boxes = await detect(await new Promise((done) => frame.toBlob(done, "image/jpeg", QUALITY)));
      if (!stream) return;
      if (canvas.width !== frame.width || canvas.height !== frame.height) {
        [canvas.width, canvas.height] = [frame.width, frame.height];
      }
      show(frame, boxes);
      const ms = performance.now() - start_ms;
      say(`${boxes.length} boxes, ${(1000 / ms).toFixed(1)} frames a second`);
    } catch (error) {
      say(error.message, true);
      if (!error.retry_s) return stopCamera();
      await new Promise((done) => setTimeout(done, 1000 * error.retry_s));
    }
  }
}

function stopCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  element("camera").textContent = "Start the camera";
}

async function toggleCamera() {
  if (stream) return stopCamera();
  if (!navigator.mediaDevices) {
    return say("Browsers give the camera to pages of https:// or http://localhost alone.", true);
  }
  try {
    stream = await navigator.mediaDevices.getUserMedia(CAMERA);
    video.srcObject = stream;
    await video.play();
  } catch (error) {
    stopCamera();
    return say(`The camera cannot be used: ${error.message}`, true);
  }
  element("camera").textContent = "Stop the camera";
  picture = null;
  followCamera();
}

async function listModels() {
  try {
    const models = await ask("v1/models");
    element("model").replaceChildren(...models.map(({ name }) => new Option(name)));
  } catch (error) {
    say(error.message, true);
  }
}

element("camera").addEventListener("click", toggleCamera);
element("file").addEventListener("change", ({ target }) => {
  stopCamera();
  picture = target.files[0] ?? picture;
  tryPicture();
});
element("conf").addEventListener("input", ({ target }) => (element("level").value = Number(target.value).toFixed(2)));
for (const id of ["conf", "model"]) element(id).addEventListener("change", tryPicture);
element("token").addEventListener("change", async () => {
  await listModels();
  await tryPicture();
});
element("options").addEventListener("submit", (event) => event.preventDefault());
listModels();
