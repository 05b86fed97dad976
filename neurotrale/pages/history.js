// Shows the changes of an annotation file, and brings back what was.
import { ask, count, counted, element } from "./service.js";

const file = new URL("..", location).href.replace(/\/$/, "");
const mayWrite = document.body.dataset.mayWrite === "true";
const SHOWN_IDS = 50;
const PAGE = 50;

const list = document.getElementById("changes");
const more = document.getElementById("more");
const message = document.getElementById("message");
const held = document.getElementById("held");
const actions = document.getElementById("actions");

const OPERATIONS = {
  put: "saved the file",
  patch: "saved an annotation",
  delete: "removed an annotation",
  restore: "brought back what was",
  confirm: "confirmed removals",
  outside: "changed the file on disk",
};

function say(text, problem = false) {
  message.textContent = text;
  message.className = problem ? "problem" : "";
}

/** Ask a person before something is changed. */
function confirmed(question, answer) {
  const dialog = element(
    "dialog",
    { "aria-labelledby": "question" },
    element("p", { id: "question" }, question),
    element(
      "form",
      { method: "dialog", class: "actions" },
      element("button", { value: "yes", class: "first" }, answer),
      element("button", { value: "no", autofocus: true }, "Cancel"),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
  });
}

/** Make a button that changes the file after a question. */
function changing(text, { method = "POST", path, question, done, kind = "" }) {
  const button = element("button", { type: "button", class: kind }, text);
  button.addEventListener("click", async () => {
    if (!(await confirmed(question, text))) return;
    button.disabled = true;
    say("One moment.");
    try {
      const answer = await ask(`${file}/${path}`, { method });
      say([done, ...(answer.warnings ?? [])].join(" "));
      await load();
    } catch (error) {
      say(error.message, true);
    }
    button.disabled = false;
  });
  return button;
}

function names(title, ids, change, verb) {
  if (!ids.length) return null;
  const rows = ids.slice(0, SHOWN_IDS).map((id) => {
    const query = new URLSearchParams({ id, revision: change.revision - 1 });
    const button =
      mayWrite && verb
        ? changing(verb, {
            path: `restore?${query}`,
            question: `Make annotation ${id} what it was before this change?`,
            done: `Annotation ${id} is what it was before change ${change.revision}.`,
          })
        : null;
    return element("li", {}, element("code", {}, id), button);
  });
  if (ids.length > SHOWN_IDS) {
    rows.push(element("li", {}, `and ${count(ids.length - SHOWN_IDS)} more`));
  }
  return element(
    "details",
    {},
    element("summary", {}, `${title} ${count(ids.length)}`),
    element("ul", { class: "ids" }, ...rows),
  );
}

function describe(change) {
  const when = new Date(change.at);
  const time = element("time", { datetime: change.at, title: change.at }, when.toLocaleString());
  const operation = OPERATIONS[change.operation] ?? change.operation;
  const from = change.from && change.from !== change.by ? ` from ${change.from}` : "";
  const what = change.operation === "restore" && change.restored != null ? ` (change ${change.restored})` : "";
  const item = element(
    "li",
    {},
    element("h2", {}, `Change ${change.revision}`),
    element("p", {}, time, ` – `, element("b", {}, change.by || "somebody"), `${from} ${operation}${what}`),
  );
  const parts = [
    names("Added", change.added, change, ""),
    names("Changed", change.changed, change, "Undo"),
    names("Removed", change.removed, change, "Bring back"),
    names("Held back", change.held, change, ""),
  ].filter(Boolean);
  item.append(...(parts.length ? parts : [element("p", { class: "soft" }, "No annotation differs.")]));
  if (!change.applied) {
    item.append(element("p", { class: "problem" }, "Recorded, but never made: the service was stopped."));
    return item;
  }
  const buttons = element(
    "p",
    { class: "actions" },
    element("a", { href: `${file}/history/${change.revision}` }, "The file then"),
  );
  if (mayWrite) buttons.append(restoreFile("Restore the file as it was then", change.revision));
  item.append(buttons);
  return item;
}

function restoreFile(text, revision) {
  const then = revision ? `after change ${revision}` : "before the first change";
  return changing(text, {
    path: `restore?revision=${revision}`,
    question: `Make the whole file what it was ${then}? What was added since goes, and can be brought back here.`,
    done: `The file is what it was ${then}.`,
  });
}

async function showHeld() {
  held.replaceChildren();
  held.className = "";
  // A file that was deleted has a history, but holds nothing.
  const kept = await ask(`${file}/held`).catch(() => []);
  if (!kept.length) return;
  const rows = kept.slice(0, SHOWN_IDS).map((annotation) => {
    const what = [annotation.anntype, annotation.type].filter(Boolean).join(", ");
    const button = mayWrite
      ? changing("Remove", {
          method: "DELETE",
          path: `held?${new URLSearchParams({ id: annotation.id })}`,
          question: `Remove annotation ${annotation.id} from the file?`,
          done: `Annotation ${annotation.id} is removed.`,
        })
      : null;
    return element("li", {}, element("code", {}, `${annotation.id}${what ? ` (${what})` : ""}`), button);
  });
  if (kept.length > rows.length) rows.push(element("li", {}, `and ${count(kept.length - rows.length)} more`));
  const all = mayWrite
    ? changing(`Remove ${kept.length === 1 ? "it" : `all ${count(kept.length)}`}`, {
        method: "DELETE",
        path: "held",
        question: `Remove ${counted(kept.length, "annotation")} from the file?`,
        done: "They are removed.",
      })
    : null;
  held.className = "held";
  held.append(
    element("h2", {}, "Removals that were held back"),
    element(
      "p",
      {},
      `A viewer saved the file without ${counted(kept.length, "annotation")}, all at once. ` +
        "It may have failed to load them, so they are still there. Was it meant?",
    ),
    element("details", { class: "changes" }, element("summary", {}, "Which"), element("ul", { class: "ids" }, ...rows)),
    ...(all ? [element("p", { class: "actions" }, all)] : []),
  );
}

async function loadOlder(before) {
  const query = new URLSearchParams({ limit: PAGE, ...(before == null ? {} : { before }) });
  const page = await ask(`${file}/history?${query}`);
  if (before == null) list.replaceChildren();
  list.append(...page.changes.map(describe));
  more.hidden = page.next == null;
  more.onclick = () => loadOlder(page.next).catch((error) => say(error.message, true));
  return page;
}

async function load() {
  list.setAttribute("aria-busy", "true");
  try {
    const page = await loadOlder();
    actions.replaceChildren();
    if (!page.changes.length) {
      list.append(element("li", {}, "No change is recorded yet."));
    } else if (mayWrite) {
      actions.append(
        changing("Bring back all that was removed", {
          path: "restore?removed=true",
          question: "Bring back every annotation that was ever removed? What is there now stays.",
          done: "All that was removed is back.",
          kind: "first",
        }),
        restoreFile("Restore the file as it was before all changes", 0),
      );
    }
    await showHeld();
  } catch (error) {
    say(error.message, true);
  }
  list.removeAttribute("aria-busy");
}

load();
