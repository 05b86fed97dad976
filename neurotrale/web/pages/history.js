// Shows the changes of an annotation file, and restores earlier states.
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
  restore: "restored an earlier state",
  confirm: "confirmed removals",
  outside: "changed the file on disk",
};

function say(text, problem = false) {
  message.textContent = text;
  message.className = problem ? "problem" : "";
}

/** Ask the user to confirm a change. */
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

/** Create a button that changes the file once the user has confirmed. */
function actionButton(text, { method = "POST", path, question, done, kind = "" }) {
  const button = element("button", { type: "button", class: kind }, text);
  button.addEventListener("click", async () => {
    if (!(await confirmed(question, text))) return;
    button.disabled = true;
    say("Please wait.");
    try {
      const options = method === "POST" ? { headers: { "Content-Type": "application/json" }, body: "{}" } : {};
      const answer = await ask(`${file}/${path}`, { method, ...options });
      say([done, ...(answer.warnings ?? [])].join(" "));
      await load();
    } catch (error) {
      say(error.message, true);
    }
    button.disabled = false;
  });
  return button;
}

function names(title, kind, change, verb) {
  const ids = change[kind];
  const total = change.counts[kind];
  if (!total) return null;
  const rows = ids.map((id) => {
    const query = new URLSearchParams({ id, revision: change.revision - 1 });
    const button =
      mayWrite && verb
        ? actionButton(verb, {
            path: `restore?${query}`,
            question: `Restore annotation ${id} to its state before this change?`,
            done: `Annotation ${id} was restored to its state before change ${change.revision}.`,
          })
        : null;
    return element("li", {}, element("code", {}, id), button);
  });
  if (total > ids.length) {
    rows.push(element("li", {}, `and ${count(total - ids.length)} more`));
  }
  return element(
    "details",
    {},
    element("summary", {}, `${title} ${count(total)}`),
    element("ul", { class: "ids" }, ...rows),
  );
}

function describe(change) {
  const when = new Date(change.at);
  const time = element("time", { datetime: change.at, title: change.at }, when.toLocaleString());
  const operation = OPERATIONS[change.operation] ?? change.operation;
  const places = [
    change.session && `session ${change.session}`,
    change.from !== change.by && change.from,
  ].filter(Boolean);
  const from = places.length ? ` from ${places.join(", ")}` : "";
  const restored = change.operation === "restore" && change.restored != null ? ` (change ${change.restored})` : "";
  const item = element(
    "li",
    {},
    element("h2", {}, `Change ${change.revision}`),
    element("p", {}, time, ` – `, element("b", {}, change.by || "unknown"), `${from} ${operation}${restored}`),
  );
  const parts = [
    names("Added", "added", change, ""),
    names("Changed", "changed", change, "Undo"),
    names("Removed", "removed", change, "Restore annotation"),
    names("Held back", "held", change, ""),
    names("Ignored, as its viewer left the slice", "ignored", change, ""),
    names("Left as they were, not put back", "stale", change, ""),
  ].filter(Boolean);
  item.append(...(parts.length ? parts : [element("p", { class: "soft" }, "No annotations changed.")]));
  if (!change.applied) {
    item.append(element("p", { class: "problem" }, "Recorded but never applied: the service stopped first."));
    return item;
  }
  const buttons = element(
    "p",
    { class: "actions" },
    element("a", { href: `${file}/history/${change.revision}` }, "File at this revision"),
  );
  if (mayWrite) buttons.append(restoreFile("Restore the file to this state", change.revision));
  if (mayWrite && change.counts.ignored) {
    buttons.append(
      actionButton("Remove what was ignored", {
        method: "DELETE",
        path: `held?navigation=${change.revision}`,
        question: `Remove what this save dropped, up to ${counted(change.counts.ignored, "annotation")}? What was changed since stays.`,
        done: "The annotations were removed.",
      }),
    );
  }
  item.append(buttons);
  return item;
}

function restoreFile(text, revision) {
  const when = revision ? `after change ${revision}` : "before the first change";
  return actionButton(text, {
    path: `restore?revision=${revision}`,
    question: `Restore the whole file to its state ${when}? Annotations added since are removed; you can restore them here.`,
    done: `The file was restored to its state ${when}.`,
  });
}

async function showHeld() {
  held.replaceChildren();
  held.className = "";
  // A deleted file has a history, but no held removals.
  const annotations = await ask(`${file}/held`).catch(() => []);
  if (!annotations.length) return;
  const rows = annotations.slice(0, SHOWN_IDS).map((annotation) => {
    const kind = [annotation.anntype, annotation.type].filter(Boolean).join(", ");
    const button = mayWrite
      ? actionButton("Remove", {
          method: "DELETE",
          path: `held?${new URLSearchParams({ id: annotation.id })}`,
          question: `Remove annotation ${annotation.id} from the file?`,
          done: `Annotation ${annotation.id} was removed.`,
        })
      : null;
    return element("li", {}, element("code", {}, `${annotation.id}${kind ? ` (${kind})` : ""}`), button);
  });
  if (annotations.length > rows.length) rows.push(element("li", {}, `and ${count(annotations.length - rows.length)} more`));
  const all = mayWrite
    ? actionButton(`Remove ${annotations.length === 1 ? "it" : `all ${count(annotations.length)}`}`, {
        method: "DELETE",
        path: "held",
        question: `Remove ${counted(annotations.length, "annotation")} from the file?`,
        done: "The annotations were removed.",
      })
    : null;
  held.className = "held";
  held.append(
    element("h2", {}, "Removals that were held back"),
    element(
      "p",
      {},
      `A viewer saved the file without ${counted(annotations.length, "annotation")}, all at once. ` +
        "It may have failed to load them, so they were kept. Was the removal intended?",
    ),
    element("details", { class: "changes" }, element("summary", {}, "Show annotations"), element("ul", { class: "ids" }, ...rows)),
    ...(all ? [element("p", { class: "actions" }, all)] : []),
  );
}

async function loadOlder(before) {
  const query = new URLSearchParams({ limit: PAGE, ids: SHOWN_IDS, ...(before == null ? {} : { before }) });
  const page = await ask(`${file}/history?${query}`);
  if (before == null) list.replaceChildren();
  list.append(...page.changes.map(describe));
  if (page.discarded) list.append(element("li", {}, page.discarded));
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
      list.append(element("li", {}, "No changes recorded yet."));
    } else if (mayWrite) {
      actions.append(
        actionButton("Restore everything that was removed", {
          path: "restore?removed=true",
          question: "Restore every annotation that was ever removed? Present annotations are kept.",
          done: "Everything that was removed has been restored.",
          kind: "first",
        }),
        restoreFile("Restore the file to its state before all changes", 0),
      );
    }
    await showHeld();
  } catch (error) {
    say(error.message, true);
  }
  list.removeAttribute("aria-busy");
}

load();
