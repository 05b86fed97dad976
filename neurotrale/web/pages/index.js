// Fills in the datasets as they scroll into view, and filters them by name.
import { ask, count, counted, element, queue, reviewed } from "./service.js";

const facts = document.body.dataset;
const items = [...document.querySelectorAll(".dataset")];
const enqueue = queue(3);

const times = (numbers) => numbers.map((n) => Number(n.toPrecision(4))).join(" × ");

function pathOf(item) {
  const link = item.querySelector("h2 a");
  return link ? link.getAttribute("href").replace(/^\.\//, "").replace(/\/$/, "") : "";
}

function term(list, name, ...values) {
  list.append(element("div", {}, element("dt", {}, name), element("dd", {}, ...values)));
}

function chunks(levels) {
  const shapes = new Set(levels.map((level) => times(level.chunk_vx)));
  const encodings = new Set(levels.map((level) => level.encoding + (level.sharded ? ", sharded" : "")));
  const layouts = new Set(levels.map((level) => level.layout).filter(Boolean));
  return [`${[...shapes].join(" or ")} voxels`, [...encodings].join(" or "), ...layouts].join(", ");
}

function describeVolume(list, volume) {
  if (volume.size_vx) {
    term(list, "Size", `${volume.size_vx.map(count).join(" × ")} voxels`);
    term(list, "Extent", `${times(volume.size_mm)} mm`);
    const um = volume.voxel_nm.map((nm) => nm / 1000);
    term(list, "Voxel", `${times(um)} µm`);
  }
  const channels = volume.channels === 1 ? "" : `, ${counted(volume.channels, "channel")}`;
  const labels = volume.type === "segmentation" ? " segmentation" : "";
  term(list, "Data", `${volume.data_type}${labels}${channels}`);
  term(list, "Levels", count(volume.levels.length));
  if (volume.levels.length) term(list, "Chunks", chunks(volume.levels));
}

const REFRESH_MS = 1000;

/** Show what is counted of the annotations, again and again until all are. */
async function showAnnotations(item, url, annotations) {
  let shown = describeAnnotations(annotations);
  item.append(shown);
  while (annotations?.counting) {
    await new Promise((resolve) => setTimeout(resolve, REFRESH_MS));
    try {
      ({ annotations } = await ask(url));
    } catch (error) {
      item.append(element("p", { class: "problem" }, error.message));
      return;
    }
    const now = annotations ? describeAnnotations(annotations) : element("div");
    shown.replaceWith(now);
    shown = now;
  }
}

function describeAnnotations(annotations) {
  const section = element("div", { class: "annotations" });
  const { counting } = annotations;
  if (annotations.count) {
    section.append(reviewed(annotations.reviewed, annotations.count, "All annotations"));
    const rows = annotations.kinds.map((kind) => {
      const name = [kind.anntype, kind.type].filter(Boolean).join(", ") || "no type";
      return element("li", {}, element("span", {}, name), reviewed(kind.reviewed, kind.count, name));
    });
    const named = counted(annotations.kinds.length, "kind");
    const inFiles = counted(annotations.files, "file");
    section.append(
      element("details", {}, element("summary", {}, `${named} in ${inFiles}`), element("ul", { class: "kinds" }, ...rows)),
    );
  } else if (!counting) {
    section.append(element("span", {}, "No annotations yet"));
  }
  if (counting) {
    const text = counting.of ? `${count(counting.blocks)} of ${count(counting.of)} blocks` : "…";
    section.append(element("p", { class: "counting", role: "status" }, `Counting: ${text}`));
  }
  if (annotations.held) {
    const held = `${counted(annotations.held, "removal")} held back: see History`;
    section.append(element("p", { class: "problem" }, held));
  }
  if (annotations.damaged.length) {
    const message = `Damaged: ${annotations.damaged.slice(0, 5).join(", ")}`;
    section.append(element("p", { class: "problem" }, message));
  }
  return section;
}

function addLinks(item, path, about) {
  const links = element("nav", { class: "links", "aria-label": about.name || "The data root" });
  const add = (text, href, kind = "") => links.append(element("a", { href, class: kind }, text));
  const api = path ? `api/datasets/${path}` : "api/datasets";
  if (facts.viewer === "true") add("Open", `${api}/open`, "first");
  if (facts.ui === "true") add("Open in NeuroTrALE", `${api}/open?in=ui`);
  const mine = sessionLastOpened(path);
  if (mine) add("My saves", mine);
  if (path) add("Files", `${path.includes(":") ? "./" : ""}${path}/`);
  if (about.annotations) add("History", `${api}/history`);
  add("API", api);
  const { files, counting } = about.annotations ?? {};
  if (facts.mayWrite === "true" && !files && !counting) links.append(startButton(item, api));
  item.append(links);
}

/** Create the button that makes the first annotation files of a dataset, which NeuroTrALE needs. */
function startButton(item, api) {
  const button = element("button", { type: "button" }, "Start annotating");
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      const headers = { "Content-Type": "application/json" };
      await ask(`${api}/start`, { method: "POST", headers, body: "{}" });
      if (facts.ui === "true") location.assign(`${api}/open?in=ui`);
      else location.reload();
    } catch (error) {
      item.append(element("p", { class: "problem", role: "alert" }, error.message));
      button.disabled = false;
    }
  });
  return button;
}

/** Return the page with what became of the saves of the session that this browser opened last. */
function sessionLastOpened(path) {
  try {
    return localStorage.getItem(`mine:${new URL(facts.outer, location).pathname}${path}`);
  } catch {
    return null;
  }
}

function addPicture(item, path, about) {
  const frame = element("div", { class: "picture" });
  if (about.preview) {
    const src = `${path ? `api/datasets/${path}` : "api/datasets"}/preview.png`;
    const picture = element("img", { src, alt: "", loading: "lazy", decoding: "async" });
    // Retry once: the service may have been busy.
    picture.addEventListener("error", () => {
      if (picture.src.endsWith("?")) picture.remove();
      else setTimeout(() => (picture.src = `${src}?`), 2000);
    });
    frame.append(picture);
  }
  item.prepend(frame);
}

async function fill(item) {
  const path = pathOf(item);
  item.setAttribute("aria-busy", "true");
  try {
    const url = path ? `api/datasets/${path}` : "api/datasets";
    const about = await ask(url);
    const list = element("dl");
    if (about.volume) describeVolume(list, about.volume);
    else term(list, "Data", "annotations only");
    item.append(list);
    addPicture(item, path, about);
    // Not waited for: the count of a large dataset takes a while.
    if (about.annotations) showAnnotations(item, url, about.annotations);
    addLinks(item, path, about);
  } catch (error) {
    item.append(element("p", { class: "problem" }, error.message));
  }
  item.removeAttribute("aria-busy");
  item.classList.add("filled");
}

const observer = new IntersectionObserver(
  (seen) => {
    for (const { isIntersecting, target } of seen) {
      if (isIntersecting) {
        observer.unobserve(target);
        enqueue(() => fill(target));
      }
    }
  },
  { rootMargin: "200px" },
);
items.forEach((item) => observer.observe(item));

// --- search ---

const search = document.getElementById("search");
const found = document.getElementById("found");

function find() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const item of items) {
    const name = item.querySelector("h2").textContent.toLowerCase();
    item.hidden = !words.every((word) => name.includes(word));
    shown += !item.hidden;
  }
  found.textContent = words.length ? `${count(shown)} of ${count(items.length)}` : "";
}

if (search) {
  found.textContent = items.length > 20 ? counted(items.length, "dataset") : "";
  search.addEventListener("input", find);
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      search.focus();
    } else if (event.key === "Escape" && event.target === search) {
      search.value = "";
      find();
    } else if (event.key === "Enter" && event.target === search) {
      items.find((item) => !item.hidden)?.querySelector("a")?.focus();
    }
  });
}
