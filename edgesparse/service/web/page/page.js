"use strict";
// Fetches the state once per second and each camera's snapshots one after another, while the page is visible.

const byId = id => document.getElementById(id);
const cameras = new Map();
const SNAPSHOT_PAUSE = 100, TROUBLE_PAUSE = 1000, GAP = 6;
const sleep = ms => new Promise(done => setTimeout(done, ms));
const visible = () => document.hidden
  ? new Promise(done => document.addEventListener("visibilitychange", done, {once: true})).then(visible)
  : Promise.resolve();

function element(tag, text, kind) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (kind) node.className = kind;
  return node;
}

function fill(parent, children) { parent.replaceChildren(...children); }

const number = (value, digits = 0) => value === null || value === undefined ? "–" : value.toLocaleString("en", {
  minimumFractionDigits: digits, maximumFractionDigits: digits});

function span(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

class Camera {
  constructor(name) {
    this.name = name;
    this.gone = false;
    this.number = 0;
    this.root = element("article", undefined, "camera opening");
    this.root.dataset.camera = name;
    this.snapshot = element("canvas");
    this.snapshot.setAttribute("role", "img");
    this.snapshot.setAttribute("aria-label", `Live snapshot of ${name}, with boxes`);
    this.snapshot.hidden = true;
    this.words = element("p", "opening");
    const view = element("div", undefined, "view"), line = element("div", undefined, "line");
    view.append(this.snapshot, this.words);
    this.figures = element("span");
    const open = element("button", name, "open");
    open.type = "button";
    open.setAttribute("aria-haspopup", "dialog");
    open.addEventListener("click", () => large.open(this));
    view.addEventListener("click", () => large.open(this));
    line.append(open, this.figures);
    this.root.append(view, line);
    this.follow();
  }

  show(camera) {
    this.state = camera.state;
    this.root.className = `camera ${camera.state}`;
    this.root.title = camera.source;
    const size = camera.width ? `${camera.width}×${camera.height} · ` : "";
    const lost = camera.reopened ? ` · reopened ${camera.reopened}×` : "";
    this.figures.textContent = camera.state === "live"
      ? `${size}${number(camera.fps, 1)} fps · ${number(camera.age_ms)} ms old · ${number(camera.dropped)} skipped${lost}`
      : `${number(camera.frames)} frames so far${lost}`;
    this.words.hidden = camera.state === "live" && !this.snapshot.hidden;
    const title = element("b", camera.state === "live" ? "waiting for a snapshot"
      : camera.state === "away" ? `away for ${span(camera.since_s)}`
      : camera.state === "paused" ? `paused for ${span(camera.since_s)}`
      : camera.state === "waiting" ? "connected" : "opening");
    fill(this.words, [title, camera.state === "live" || camera.state === "paused" ? "" : camera.why]);
  }

  async follow() {
    while (!this.gone) {
      await visible();
      await sleep(await this.next() ? SNAPSHOT_PAUSE : TROUBLE_PAUSE);
    }
  }

  async next() {
    if (this.state === "away" || this.state === "paused") return false;
    try {
      const answer = await fetch(`camera/${this.name}.jpg?after=${this.number}`);
      if (answer.status !== 200) return false;
      const bitmap = await createImageBitmap(await answer.blob());
      this.number = Number(answer.headers.get("X-Snapshot"));
      this.root.dataset.snapshot = this.number;
      this.root.dataset.detections = answer.headers.get("X-Detections");
      if (this.snapshot.width !== bitmap.width) this.snapshot.width = bitmap.width;
      if (this.snapshot.height !== bitmap.height) this.snapshot.height = bitmap.height;
      this.snapshot.getContext("2d").drawImage(bitmap, 0, 0);
      bitmap.close();
      large.draw(this);
      this.snapshot.hidden = false;
      if (this.state === "live") this.words.hidden = true;
      return true;
    } catch { return false; }
  }
}

const large = {
  camera: null,

  open(camera) {
    this.camera = camera;
    byId("large-name").textContent = camera.name;
    byId("large-snapshot").setAttribute("aria-label", `Live snapshot of ${camera.name}, with boxes`);
    byId("large-refused").hidden = true;
    byId("large").showModal();
    this.draw(camera);
    if (latest) this.show(latest);
  },

  draw(camera) {
    if (this.camera !== camera || !byId("large").open || camera.snapshot.hidden) return;
    const shown = byId("large-snapshot");
    shown.width = camera.snapshot.width;
    shown.height = camera.snapshot.height;
    shown.getContext("2d").drawImage(camera.snapshot, 0, 0);
  },

  show(status) {
    const camera = this.camera && status.cameras.find(other => other.name === this.camera.name);
    if (!camera || !byId("large").open) return;
    const times = status.history.map(point => point.t), values = key => status.history.map(point => point[key][camera.name]);
    plot(byId("large-objects"), [{color: 2, values: values("objects")}], times);
    plot(byId("large-age"), [{color: 0, values: values("age")}], times);
    byId("large-pause").textContent = camera.state === "paused" ? "Resume" : "Pause";
    pairs(byId("large-facts"), [
      ["State", [camera.state, camera.why].filter((word, i) => word && (i === 0 || word !== camera.state)).join(": ")],
      ["Source", camera.source], ["Size", camera.width && `${camera.width}×${camera.height}`],
      ["Rate", `${number(camera.fps, 1)} frames per second`], ["Frames", number(camera.frames)],
      ["Skipped", number(camera.dropped)], ["Reopened", number(camera.reopened)],
    ]);
    const view = status.in_view[camera.name] ?? {classes: {}}, zones = Object.entries(view.zones ?? {});
    const words = part => Object.entries(part.classes).map(([name, count]) => `${count} ${name}`).join(", ") || "nothing";
    pairs(byId("large-in-view"), [["Frame", words(view)], ...zones.map(([zone, part]) => [zone, words(part)])]);
    const counted = status.counted[camera.name] ?? {lines: {}, zones: {}}, lines = Object.entries(counted.lines);
    const total = (part, word) => `${number(part.total)} ${word}${part.total ? ` (${words(part)})` : ""}`;
    const mean = zone => zone.left.total ? `, ${number(zone.seconds.total / zone.left.total, 1)} s on average` : "";
    const rows = [
      ...lines.map(([name, line]) => [name, `${total(line.in, "in")}, ${total(line.out, "out")}`]),
      ...Object.entries(counted.zones).map(([name, zone]) =>
        [name, `${total(zone.entered, "entered")}, ${number(zone.left.total)} left${mean(zone)}`])];
    drift.show(camera.name, status.drift[camera.name]);
    byId("large-counted-box").hidden = rows.length === 0;
    pairs(byId("large-counted"), rows);
    const events = status.events.filter(event => event.camera === camera.name);
    fill(byId("large-events"), events.length ? events.map(event => element("li",
      `${new Date(event.time).toLocaleTimeString()} ${event.event} ${event.type}`)) : [element("li", "none yet")]);
  },

  async pause() {
    const verb = byId("large-pause").textContent.toLowerCase();
    const refused = byId("large-refused");
    refused.hidden = true;
    try {
      const answer = await fetch(`camera/${this.camera.name}/${verb}`, {method: "POST", headers: {"Content-Type": "application/json"}});
      if (!answer.ok) throw new Error(await answer.text() || answer.status);
      byId("large-pause").textContent = verb === "pause" ? "Resume" : "Pause";
    } catch (error) {
      refused.textContent = `The service refused: ${error.message}`;
      refused.hidden = false;
    }
  },
};
byId("large-close").addEventListener("click", () => byId("large").close());
byId("large-pause").addEventListener("click", () => large.pause());

function plot(svg, lines, times) {
  const width = svg.clientWidth || 400, height = svg.clientHeight || 144, left = 44, bottom = 18, top = 8;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const values = lines.flatMap(line => line.values).filter(value => value !== null && value !== undefined);
  const most = nice(Math.max(1, ...values) * 1.05), now = times.at(-1) ?? 0;
  const x = t => left + (width - left - 4) * (1 + (t - now) / 180);
  const y = value => top + (height - top - bottom) * (1 - value / most);
  const parts = [];
  for (const share of [0, 0.5, 1]) {
    const at = y(most * share);
    parts.push(shape("line", {x1: left, x2: width - 4, y1: at, y2: at, class: "grid"}));
    parts.push(shape("text", {x: left - 6, y: at + 4, "text-anchor": "end"}, number(most * share, most < 10 ? 1 : 0)));
  }
  for (const ago of [180, 120, 60, 0]) {
    const anchor = ago === 180 ? "start" : ago === 0 ? "end" : "middle";
    parts.push(shape("text", {x: x(now - ago), y: height - 3, "text-anchor": anchor}, ago ? `−${ago} s` : "now"));
  }
  for (const line of lines) {
    let path = "", last = -Infinity;
    line.values.forEach((value, i) => {
      if (value === null || value === undefined || now - times[i] > 180) return;
      // A single point is drawn as a dot; a longer interruption is a gap.
      path += `${times[i] - last < GAP ? "L" : "M"}${x(times[i]).toFixed(1)} ${y(value).toFixed(1)}h0`;
      last = times[i];
    });
    parts.push(shape("path", {d: path, class: `c${line.color % 8}`}));
  }
  fill(svg, parts);
}

function nice(value) {
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 3, 5, 10].find(step => step * unit >= value) * unit;
}

function shape(tag, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function tiles(status) {
  const fps = status.cameras.reduce((sum, camera) => sum + camera.fps, 0);
  const live = status.cameras.filter(camera => camera.state === "live").length;
  const shown = [
    [number(fps, 1), "frames per second"],
    [`${live} of ${status.cameras.length}`, "cameras live"],
    [`${number(status.latency_ms.p50, 1)} ms`, "detector, median"],
    [`${number(status.latency_ms.p99, 1)} ms`, "detector, 99 %"],
    [`${number(status.memory_mb)} MB`, "memory of the service"],
    [status.memory_free_mb === null ? null : `${number(status.memory_free_mb / 1000, 1)} GB`, "memory free"],
    [status.temperature_c === null ? null : `${number(status.temperature_c)} °C`, "hottest zone"],
    [status.watts === null ? null : `${number(status.watts, 1)} W`, "power of the board"],
    [status.rate_share < 1 ? `${number(100 * status.rate_share)} %` : null, "of the full frame rate"],
    [status.errors ? number(status.errors) : null, "failed inferences"],
  ];
  fill(byId("tiles"), shown.filter(([value]) => value !== null).map(([value, about]) => {
    const tile = element("div", undefined, "tile");
    tile.append(element("b", value), element("span", about));
    return tile;
  }));
}

function pairs(list, values) {
  fill(list, values.filter(([, value]) => value).flatMap(([key, value]) => [element("dt", key), element("dd", value)]));
}

function shadow(beside) {
  if (!beside) return "";
  const share = value => `${number(100 * value)} %`, because = beside.why ? `: ${beside.why}` : "";
  const agreed = beside.recall === null ? "" : `, finds ${share(beside.recall)} of the active engine's boxes, and `
    + `${share(beside.precision)} of its own are among them`;
  const took = beside.latency_ms === null ? "" : `, ${number(beside.latency_ms, 1)} ms`;
  return `${beside.package || beside.id} ${beside.state}${because}, ${number(beside.frames)} frames${took}${agreed}`;
}

function facts(status) {
  const engine = status.engine;
  byId("model").textContent = engine.model;
  document.title = `${engine.model} · edgesparse`;
  const sparse = engine.sparse_layers ? `, ${engine.sparse_layers} layers run 2:4` : "";
  byId("engine-line").textContent = `${engine.candidate} on ${engine.backend}${sparse} · ${engine.machine}`;
  fill(byId("why"), engine.why.map(line => element("li", line)));
  pairs(byId("engine"), [
    ["Package", engine.package], ["Precision", engine.precision], ["Backend", `${engine.backend} (${engine.version})`],
    ["2:4", engine.layers ? `${engine.sparse_layers} of ${engine.layers} layers run sparse` : "no layer runs sparse"],
    ["Built", engine.created], ["Running for", span(status.uptime_s)], ["Frames", number(status.frames)],
    ["Shadow", shadow(status.shadow)],
  ]);
  const hard = status.hard_frames;
  byId("outputs-box").hidden = status.outputs.length === 0 && !hard;
  pairs(byId("outputs"), status.outputs.map(output => [output.name, [
    `${number(output.sent)} delivered`, output.waiting && `${number(output.waiting)} waiting`,
    output.dropped && `${number(output.dropped)} dropped`, output.failed && `${number(output.failed)} failed attempts`,
    output.state, output.storage && `cannot keep messages: ${output.storage}`].filter(Boolean).join(", ")]).concat(
    hard ? [["hard frames", [`${number(hard.stored)} kept, ${number(hard.bytes / 1e6, 1)} MB`,
      `${number(hard.today)} of ${number(hard.per_day)} in 24 hours`, hard.trouble].filter(Boolean).join(", ")]] : []));
}

function state(status) {
  const shown = byId("state");
  shown.textContent = status.detecting ? "detecting" : status.healthy ? "not detecting" : "not working";
  shown.className = `state ${status.detecting ? "good" : status.healthy ? "wait" : "bad"}`;
  const words = [status.why, status.limit && `Slowed down: ${status.limit}.`, status.refused,
    ...drift.words(status)];
  byId("notice").textContent = words.filter(Boolean).join(" · ");
  byId("notice").hidden = !byId("notice").textContent;
}

let latest = null;

function show(status) {
  latest = status;
  state(status);
  tiles(status);
  facts(status);
  for (const camera of status.cameras) {
    if (!cameras.has(camera.name)) cameras.set(camera.name, new Camera(camera.name));
    cameras.get(camera.name).show(camera);
  }
  for (const [name, camera] of cameras) {
    if (!status.cameras.some(other => other.name === name)) {
      camera.gone = true;
      cameras.delete(name);
    }
  }
  const roots = status.cameras.map(camera => cameras.get(camera.name).root), box = byId("cameras");
  if (roots.some((root, i) => box.children[i] !== root) || box.children.length !== roots.length) fill(box, roots);
  for (const part of [large, changes]) part.show(status);
  const times = status.history.map(point => point.t);
  plot(byId("latency"), [0, 1].map(i => ({color: i, values: status.history.map(point => point.latency[i])})), times);
  plot(byId("age"), status.cameras.map((camera, i) => (
    {color: i, values: status.history.map(point => point.age[camera.name])})), times);
  fill(byId("age-key"), status.cameras.flatMap((camera, i) => [element("i", undefined, `c${i % 8}`), camera.name]));
}

async function follow() {
  for (;;) {
    await visible();
    try {
      const answer = await fetch("live.json");
      if (!answer.ok) throw new Error(answer.status);
      show(await answer.json());
    } catch {
      byId("state").textContent = "the service does not answer";
      byId("state").className = "state bad";
      for (const camera of cameras.values()) camera.root.className = "camera away";
    }
    await sleep(1000);
  }
}

follow();
