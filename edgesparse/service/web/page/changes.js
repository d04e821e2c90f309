"use strict";
// Adds and removes cameras, where the settings allow it. Loaded before page.js, which calls `changes.show`.

const changes = {
  at: id => document.getElementById(id),

  show(status) {
    this.at("add-bar").hidden = this.at("large-remove").hidden = status.may_add.length === 0;
    this.at("add-kinds").textContent = status.may_add.map(kind =>
      ["csi", "device", "demo", "file"].includes(kind) ? kind : `${kind}://`).join(", ");
  },

  async post(path, body) {
    const answer = await fetch(path, {method: "POST", headers: {"Content-Type": "application/json"},
      body: body && JSON.stringify(body)});
    if (answer.ok) return "";
    const text = await answer.text();
    try { return JSON.parse(text).why || text; } catch { return text || `status ${answer.status}`; }
  },

  async attempt(button, refused, path, body) {
    button.disabled = true;
    refused.hidden = true;
    const why = await this.post(path, body).catch(error => error.message);
    button.disabled = false;
    refused.textContent = `The service refused: ${why}`;
    refused.hidden = !why;
    return !why;
  },

  async add() {
    const body = {name: this.at("add-name").value.trim(), source: this.at("add-source").value.trim()};
    if (await this.attempt(this.at("add-submit"), this.at("add-refused"), "cameras", body)) {
      this.at("add-form").reset();
      this.at("add").close();
    }
  },

  async remove() {
    const button = this.at("large-remove"), name = this.at("large-name").textContent;
    if (button.dataset.camera !== name) {  // the first of two presses
      button.dataset.camera = name;
      button.textContent = "Press again to remove";
      return;
    }
    this.calm();
    if (await this.attempt(button, this.at("large-refused"), `camera/${name}/remove`)) this.at("large").close();
  },

  calm() {
    delete this.at("large-remove").dataset.camera;
    this.at("large-remove").textContent = "Remove";
  },
};

changes.at("add-open").addEventListener("click", () => {
  changes.at("add-refused").hidden = true;
  changes.at("add").showModal();
});
changes.at("add-cancel").addEventListener("click", () => changes.at("add").close());
changes.at("add-form").addEventListener("submit", event => { event.preventDefault(); changes.add(); });
changes.at("large-remove").addEventListener("click", () => changes.remove());
changes.at("large-remove").addEventListener("blur", () => changes.calm());
changes.at("large").addEventListener("close", () => changes.calm());
