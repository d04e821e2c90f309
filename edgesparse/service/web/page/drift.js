"use strict";
// Shows how far a camera is from its baseline. Loaded before page.js, which calls `drift.show` and `drift.words`.

const drift = {
  at: id => document.getElementById(id),

  words(status) {
    return Object.entries(status.drift).filter(([, camera]) => camera.state === "drifted").map(([name, camera]) =>
      `${name} has drifted from its baseline${camera.drifted.length ? `: ${camera.drifted.join(", ")}` : ""}`);
  },

  line(quantity) {
    const figure = value => value === null ? "–" : value.toLocaleString("en", {maximumSignificantDigits: 3});
    const index = quantity.psi === null ? "" : `, index ${quantity.psi.toFixed(2)}`;
    return `${figure(quantity.baseline)} → ${figure(quantity.now)}${index}`;
  },

  show(name, camera) {
    this.at("large-drift-box").hidden = !camera;
    if (!camera) return;
    const state = camera.state === "learning" ? `learning: ${camera.baseline_hours} of ${camera.of_hours} hours`
      : camera.state === "drifted" ? `drifted since ${new Date(camera.since).toLocaleString()}`
      : camera.state === "waiting" ? "baseline complete, waiting for newer hours" : "as in its baseline";
    const hourly = {psi: null, ...camera.detections_per_hour};
    const rows = [["State", state], ...Object.entries(camera.quantities).map(([key, each]) => [
      camera.drifted.includes(key) ? `${key} (drifted)` : key, this.line(each)]), ["detections per hour", this.line(hourly)]];
    this.at("large-drift").replaceChildren(...rows.flatMap(([key, value]) => ["dt", "dd"].map((tag, i) => {
      const node = document.createElement(tag);
      node.textContent = i ? value : key;
      return node;
    })));
    this.examples(name, camera);
  },

  examples(name, camera) {
    const shown = `${name} ${camera.since} ${camera.examples}`;
    if (this.at("large-examples").dataset.shown === shown) return;
    this.at("large-examples").dataset.shown = shown;
    this.at("large-examples").replaceChildren(...Array.from({length: camera.examples}, (_, i) => {
      const link = document.createElement("a");
      link.href = `camera/${name}/drift/${i}.jpg`;
      link.textContent = `Example ${i + 1}`;
      return link;
    }).flatMap(link => [link, " "]));
  },
};
