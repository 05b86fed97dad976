// Shows what became of the saves of a session, and keeps that up to date.
import { ask, count, counted, element } from "./service.js";

const root = new URL(document.body.dataset.root, location);
const list = document.getElementById("changes");
const message = document.getElementById("message");
const PERIOD_MS = 3000;
const SHOWN_IDS = 20;
let shown = "";

function history(file) {
  const path = file.split("/").map(encodeURIComponent).join("/");
  return new URL(`${path}/history/`, root).href;
}

function ids(text, all) {
  const rows = all.slice(0, SHOWN_IDS).map((id) => element("li", {}, element("code", {}, id)));
  if (all.length > rows.length) rows.push(element("li", {}, `and ${count(all.length - rows.length)} more`));
  return element("details", {}, element("summary", {}, text), element("ul", { class: "ids" }, ...rows));
}

function heading(at, file) {
  const time = element("time", { datetime: at, title: at }, new Date(at).toLocaleString());
  return element("p", {}, time, " – ", element("a", { href: history(file) }, file));
}

function describe(change) {
  const { held = [], ignored = [], stale = [], conflicts = {} } = change;
  const both = Object.entries(conflicts).map(([id, fields]) => `${id}: ${fields.join(", ")}`);
  const parts = [
    held.length && ids(`${counted(held.length, "removal")} held back; confirm or leave them in the history of the file`, held),
    both.length && ids(`${counted(both.length, "annotation")} that somebody else had changed, too; your save won`, both),
    ignored.length && ids(`${counted(ignored.length, "annotation")} dropped by leaving the slice; kept`, ignored),
    stale.length && ids(`${counted(stale.length, "annotation")} from an old copy; left as they were`, stale),
  ];
  return element("li", {}, heading(change.at, change.file), ...parts.filter(Boolean));
}

function describeRefused({ at, file, status, reason }) {
  return element("li", {}, heading(at, file), element("p", { class: "problem" }, `Refused (${status}), nothing was saved: ${reason}`));
}

async function update() {
  try {
    const mine = await ask(location.href, { headers: { Accept: "application/json" }, cache: "no-store" });
    const text = JSON.stringify(mine);
    if (text !== shown) {
      shown = text;
      const rows = [
        ...mine.refused.map((one) => [one.at, describeRefused(one)]),
        ...mine.changes.map((one) => [one.at, describe(one)]),
      ];
      rows.sort(([a], [b]) => (a < b ? 1 : a > b ? -1 : 0));
      list.replaceChildren(...rows.map(([, row]) => row));
      const open = rows.length ? `${count(rows.length)} of them need a look` : "none needs a look";
      message.textContent = mine.saves || rows.length ? `${counted(mine.saves, "save")} recorded, ${open}.` : "Nothing was saved yet.";
      message.className = "";
    }
  } catch (error) {
    message.textContent = error.message;
    message.className = "problem";
  }
  list.removeAttribute("aria-busy");
  setTimeout(update, document.hidden ? 10 * PERIOD_MS : PERIOD_MS);
}

update();
